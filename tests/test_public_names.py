"""The names that `import meshtrio` offers."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from inspect import getdoc, isclass, isfunction
from pathlib import Path
from typing import Any

import pytest
from echo.v1.echo_grpc import EchoServiceServicer, EchoServiceStub

import meshtrio
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import echo_reply, echo_request
from tests.support.servers import serve_on_socket


def names_for_type_checkers() -> set[str]:
    """Return what type checkers find: the names imported by the TYPE_CHECKING block."""
    assert meshtrio.__file__ is not None
    with open(meshtrio.__file__, encoding="utf-8") as file:
        (block,) = (node for node in ast.parse(file.read()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_type_checkers_and_programs_find_the_same_names() -> None:
    modules = {"config", "contract", "errors", "mesh", "plugin", "stubs"}
    assert set(meshtrio.__all__) == names_for_type_checkers() | modules
    assert len(meshtrio.__all__) == len(set(meshtrio.__all__))
    assert set(meshtrio.__all__) <= set(dir(meshtrio))


@pytest.mark.parametrize("name", meshtrio.__all__)
def test_each_name_is_there_and_documented(name: str) -> None:
    found = getattr(meshtrio, name)
    if isclass(found) or isfunction(found):
        assert getdoc(found)
    if isclass(found):
        assert found.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'meshtrio' has no attribute 'Chanel'"):
        meshtrio.Chanel  # noqa: B018


def test_the_package_itself_imports_next_to_nothing() -> None:
    program = (
        "import sys; before = set(sys.modules); import meshtrio; from meshtrio import plugin;"
        "others = ('meshtrio.client', 'opentelemetry', 'prometheus_client');"
        "print(sorted(m for m in sys.modules if m.startswith(others)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "made", [meshtrio.Channel, meshtrio.ClientCall, meshtrio.Mesh, meshtrio.StreamingCall]
)
def test_what_functions_make_is_not_made_by_its_class(made: type) -> None:
    with pytest.raises(TypeError, match=rf"{made.__name__} has no public constructor: \w+"):
        made()


class DescribingServicer(EchoServiceServicer):
    """Replies with the description of its own call."""

    async def Echo(self, message: Any, request: meshtrio.ServerContext) -> Any:
        with pytest.raises(TypeError, match="ServerContext has no public constructor: handlers"):
            meshtrio.ServerContext()  # type: ignore[call-arg]
        return echo_reply(repr(request))


async def test_descriptions_say_what_a_debugger_wants_to_know(short_dir: Path) -> None:
    address = f"unix:{short_dir / 'a'}"
    async with serve_on_socket(short_dir / "a", Server(DescribingServicer())):
        async with meshtrio.connect_to(address) as channel:
            stub = channel.stub(EchoServiceStub)
            peer = f"uid {os.getuid()} (pid {os.getpid()})"
            expected = f"<ServerContext /echo.v1.EchoService/Echo from {peer}: under way>"
            assert (await stub.Echo(echo_request(""))).message == expected
            assert repr(channel) == f"<Channel to {address}: 1 endpoints, 1 ready>"
            path = "/echo.v1.EchoService/Echo"
            assert repr(stub.Echo) == f"<UnaryUnaryMultiCallable {path} to {address}>"
            expected = f"<StreamingCall /echo.v1.EchoService/Chat to {address}: idle>"
            assert repr(stub.Chat()) == expected
