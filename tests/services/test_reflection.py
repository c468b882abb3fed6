"""Reflection in both versions: what a generic tool asks for."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import reflection_v1, reflection_v1alpha
from meshtrio.rpc.purerpc_compat import collect_handlers
from meshtrio.services.reflection import ReflectionServicer
from tests.support.connection_pairs import CallbackServicer, connect_pair
from tests.support.direct_channels import channel_over_connection

VERSIONS = pytest.mark.parametrize("module", [reflection_v1, reflection_v1alpha])


async def ask(module: Any, **question: Any) -> Any:
    handlers = collect_handlers([CallbackServicer()]).values()
    served = {h.method.service for h in handlers} | {
        f"grpc.reflection.{v}.ServerReflection" for v in ("v1", "v1alpha")
    }
    async with connect_pair(
        CallbackServicer(), ReflectionServicer(module, handlers, served)
    ) as pair:
        descriptor = module.DESCRIPTOR.services_by_name["ServerReflection"]
        stub = DynamicStub(channel_over_connection(pair.client), descriptor)
        async with stub.ServerReflectionInfo() as call:
            request = module.ServerReflectionRequest(host="h", **question)
            await call.send_message(request)
            reply = await call.receive_message()
            assert reply.original_request == request
            assert reply.valid_host == "h"
            return reply


def names(reply: Any) -> list[str]:
    files = reply.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(file).name for file in files]


@VERSIONS
async def test_list_services(module: Any) -> None:
    reply = await ask(module, list_services="")
    assert [service.name for service in reply.list_services_response.service] == [
        "echo.v1.EchoService",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


@VERSIONS
@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("echo.v1.EchoService", "echo/v1/echo.proto"),
        ("echo.v1.EchoService.Echo", "echo/v1/echo.proto"),
        ("echo.v1.EchoReply", "echo/v1/echo.proto"),
        ("echo.v1.EchoReply.message", "echo/v1/echo.proto"),
        ("grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"),
    ],
)
async def test_the_file_of_a_symbol(module: Any, symbol: str, file: str) -> None:
    assert names(await ask(module, file_containing_symbol=symbol)) == [file]


@VERSIONS
async def test_a_file_by_its_name(module: Any) -> None:
    reply = await ask(module, file_by_filename="echo/v1/echo.proto")
    assert names(reply) == ["echo/v1/echo.proto"]


@VERSIONS
@pytest.mark.parametrize(
    ("question", "code"),
    [
        ({"file_containing_symbol": "no.Such"}, 5),
        ({"file_containing_symbol": "echo.v1.EchoService.NoSuch"}, 5),
        ({"file_containing_symbol": "echo.v1.EchoReply.no_such"}, 5),
        ({"file_by_filename": "no/such.proto"}, 5),
        ({"all_extension_numbers_of_type": "no.Such"}, 5),
        ({"file_containing_extension": {"containing_type": "no.Such"}}, 5),
        ({"file_containing_extension": {"containing_type": "echo.v1.EchoReply"}}, 5),
        ({}, 3),
    ],
    ids=str,
)
async def test_what_is_not_known_is_an_error_in_the_reply(
    module: Any, question: dict[str, Any], code: int
) -> None:
    assert (await ask(module, **question)).error_response.error_code == code


async def test_a_type_without_extensions_has_none() -> None:
    reply = await ask(reflection_v1, all_extension_numbers_of_type="echo.v1.EchoReply")
    assert list(reply.all_extension_numbers_response.extension_number) == []
