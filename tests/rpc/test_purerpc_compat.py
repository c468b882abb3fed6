"""Services as generated servicers make them."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import purerpc
import pytest
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio import stubs

SIGNATURE = stubs.signature(EchoRequest, EchoReply, stream_in=False, stream_out=False)


def decorate(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(*args: Any, **keywords: Any) -> Any:
        return await function(*args, **keywords)

    return wrapper


class Handlers:
    async def one(self, message: Any) -> Any:
        return "one", message

    async def two(self, message: Any, request: Any) -> Any:
        return "two", message, request

    async def optional(self, message: Any, request: Any = None) -> Any:
        return "optional", message, request

    async def any_number(self, *messages: Any) -> Any:
        return "any_number", messages

    @decorate
    async def decorated(self, message: Any, request: Any) -> Any:
        return "decorated", message, request

    @staticmethod
    async def static(message: Any) -> Any:
        return "static", message

    partial = functools.partial(lambda *args: ("partial", args), 1)

    async def other_name(self, message: Any, context: Any) -> Any: ...

    async def three(self, message: Any, request: Any, more: Any) -> Any: ...

    async def none(self) -> Any: ...


async def run_handler(service_type: type[purerpc.Service], name: str) -> Any:
    service = service_type("a.B")
    try:
        service.add_method("Method", getattr(Handlers(), name), SIGNATURE)
    except ValueError as exc:
        return type(exc), str(exc)
    result = service.methods["Method"].method_fn("a message", request="a request")
    return await result if inspect.isawaitable(result) else result


@pytest.mark.parametrize("name", [name for name in vars(Handlers) if not name.startswith("_")])
async def test_handlers_get_the_arguments_that_purerpc_gives_them(name: str) -> None:
    expected = await run_handler(purerpc.Service, name)
    assert await run_handler(stubs.Service, name) == expected
