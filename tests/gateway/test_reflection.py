"""Reflection of a mesh whose plugins have files of the same name, or say what makes no sense."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from meshtrio.client.channel import Channel
from meshtrio.client.multicallable import DynamicStub
from meshtrio.client.reflection import fetch_types, find_method, list_services
from meshtrio.gateway import service_index
from meshtrio.messages import reflection_v1
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server import Server
from meshtrio.services.reflection_files import ReflectionFiles, ReflectionSource
from meshtrio.util.errors import UsageError
from tests.plugins import conflicting_protos
from tests.support.gateways import run_gateway, server_with_reflection
from tests.support.servers import servicer_named

REFLECTION = reflection_v1.DESCRIPTOR.services_by_name["ServerReflection"]
ECHO = "echo.v1.EchoService"


async def ask(channel: Channel, **question: Any) -> list[FileDescriptorProto]:
    async with DynamicStub(channel, REFLECTION).ServerReflectionInfo() as call:
        await call.send_message(reflection_v1.ServerReflectionRequest(**question))
        reply = await call.receive_message()
    assert not reply.HasField("error_response"), reply
    files = reply.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(file) for file in files]


def contents(files: list[FileDescriptorProto]) -> dict[str, set[str]]:
    """By name of a file, the fields that it declares."""
    return {f.name: {field.name for m in f.message_type for field in m.field} for f in files}


async def test_each_service_has_the_files_of_its_plugin(short_dir: Path) -> None:
    servers = {
        name: server_with_reflection(conflicting_protos.Servicer(name)) for name in ("a", "b", "c")
    }
    async with run_gateway(short_dir, **servers) as behind:
        seen: dict[str, set[str]] = {}
        for name in servers:
            files = await ask(behind.channel, file_containing_symbol=f"{name}.Service")
            found = contents(files)
            assert files[0].name == f"{name}/api.proto"  # the one that was asked for
            assert any(fields == {f"of_{name}"} for fields in found.values())
            # Each file's imports are there, by the names that they are told by.
            assert {each for file in files for each in file.dependency} <= found.keys()
            for file, fields in found.items():
                assert seen.setdefault(file, fields) == fields, file
            for file in found:
                again = contents(await ask(behind.channel, file_by_filename=file))
                assert again[file] == found[file]
            pool = (await fetch_types(behind.channel, f"{name}.Service")).pool
            method = find_method(pool, f"{name}.Service/Echo", "the gateway")
            message = GetMessageClass(method.input_type)()
            setattr(message.field_1, f"of_{name}", "hi")
            stub = DynamicStub(behind.channel, method.containing_service)
            assert await stub.Echo(message) == message
        assert {
            "common.proto",
            "b/common.proto",
            "c/common.proto",
            "c/between.proto",
        } <= seen.keys()


async def test_every_symbol_resolves(short_dir: Path) -> None:
    servers = {
        name: server_with_reflection(conflicting_protos.Servicer(name)) for name in ("a", "b")
    }
    async with run_gateway(short_dir, **servers) as behind:
        symbols = ["common.Shared", "between.Wrapper", "between.Wrapper.shared"]
        symbols += [f"{name}.{each}" for name in servers for each in ("Echoed", "Service.Echo")]
        for symbol in symbols:
            assert await ask(behind.channel, file_containing_symbol=symbol)


async def test_a_service_is_described_by_those_who_serve_it(short_dir: Path) -> None:
    """Another plugin may have its file, and an older one."""
    old, new = conflicting_protos.api("b"), conflicting_protos.api("b")
    new.service[0].method.add(name="New", input_type=".b.Echoed", output_type=".b.Echoed")
    shared = [conflicting_protos.common("a", "b"), conflicting_protos.between()]
    files = ReflectionFiles(
        [
            ReflectionSource(
                "a", frozenset({"a.Service"}), pool_of(*shared, conflicting_protos.api("a"), old)
            ),
            ReflectionSource("b", frozenset({"b.Service"}), pool_of(*shared, new)),
        ]
    )
    for symbol in ("b.Service", "b.Service.New"):
        found = FileDescriptorProto.FromString(files.find_containing_symbol(symbol)[0])
        assert [method.name for method in found.service[0].method] == ["Echo", "New"]
        assert found.name == "b/b/api.proto"
        assert files.find_by_name(found.name) == files.find_containing_symbol(symbol)


def pool_of(*files: FileDescriptorProto) -> DescriptorPool:
    pool: Any = DescriptorPool()
    for file in files:
        pool.Add(file)
    return pool  # type: ignore[no-any-return]


def test_what_differs_between_languages_only_is_one_file() -> None:
    go = conflicting_protos.common("b")
    go.options.go_package = "example.org/common"
    go.message_type[0].field[0].json_name = "ofB"
    files = ReflectionFiles(
        [
            ReflectionSource("a", frozenset(), pool_of(conflicting_protos.common("b"))),
            ReflectionSource(
                "b",
                frozenset({"b.Service"}),
                pool_of(go, conflicting_protos.between(), conflicting_protos.api("b")),
            ),
        ]
    )
    names = [
        FileDescriptorProto.FromString(each).name
        for each in files.find_containing_symbol("b.Service")
    ]
    assert sorted(names) == ["b/api.proto", "between.proto", "common.proto"]


def test_a_chain_of_many_imports() -> None:
    chain = [FileDescriptorProto(name="0.proto", syntax="proto3")]
    for number in range(1, 3000):
        file = FileDescriptorProto(name=f"{number}.proto", syntax="proto3")
        file.dependency.append(f"{number - 1}.proto")
        chain.append(file)
    different = [FileDescriptorProto.FromString(each.SerializeToString()) for each in chain]
    different[0].package = "different"
    last = FileDescriptorProto(name="last.proto", package="last", syntax="proto3")
    last.dependency.append("2999.proto")
    last.message_type.add(name="Message")
    files = ReflectionFiles(
        [
            ReflectionSource("a", frozenset(), pool_of(*chain)),
            ReflectionSource("b", frozenset(), pool_of(*different, last)),
        ]
    )
    found = files.find_containing_symbol("last.Message")
    assert len(found) == 3001
    assert FileDescriptorProto.FromString(found[0]).dependency == ["b/2999.proto"]


class FixedReflection:
    """A reflection service with fixed answers."""

    def __init__(self, services: list[str], files: list[bytes]) -> None:
        self.services, self.files = services, files
        self.service = service_from_descriptor(REFLECTION, self)

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            reply = reflection_v1.ServerReflectionResponse(original_request=request)
            if request.WhichOneof("message_request") == "list_services":
                for name in self.services:
                    reply.list_services_response.service.add(name=name)
            else:
                reply.file_descriptor_response.file_descriptor_proto.extend(self.files)
            yield reply


async def test_a_service_that_is_not_described_leaves_the_plugins_others_as_they_are(
    short_dir: Path,
) -> None:
    files = [
        conflicting_protos.common("a"),
        conflicting_protos.between(),
        conflicting_protos.api("a"),
    ]

    class Partly(FixedReflection):
        async def ServerReflectionInfo(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for request in requests:
                reply = reflection_v1.ServerReflectionResponse(original_request=request)
                if request.file_containing_symbol == "no.Such":
                    reply.error_response.error_code = 5
                elif request.WhichOneof("message_request") == "list_services":
                    for name in ("a.Service", "no.Such"):
                        reply.list_services_response.service.add(name=name)
                else:
                    reply.file_descriptor_response.file_descriptor_proto.extend(
                        file.SerializeToString() for file in files
                    )
                yield reply

    async with run_gateway(short_dir, a=Server(Partly([], []))) as behind:
        assert {"a.Service", "no.Such"} <= set(await list_services(behind.channel))
        assert await ask(behind.channel, file_containing_symbol="a.Service")


def circle() -> list[bytes]:
    one = FileDescriptorProto(name="one.proto", dependency=["two.proto"])
    two = FileDescriptorProto(name="two.proto", dependency=["one.proto"])
    return [one.SerializeToString(), two.SerializeToString()]


def field(**values: Any) -> list[bytes]:
    file = FileDescriptorProto(name="wrong.proto", package="x", syntax="proto3")
    file.message_type.add(name="Wrong").field.add(**values)
    return [file.SerializeToString()]


@pytest.mark.parametrize(
    ("services", "files"),
    [
        ([""], []),
        (["x.Y"], []),
        (["x.Y"], [b"garbage"]),
        (["x.Y"], [b""]),
        (["x.Y"], circle()),
        (["x.Y"], field(name="f", number=0)),
        (["x.Y"], field(name="f", number=1, type=11, type_name=".no.Such", label=1)),
        (["x.Y"], [FileDescriptorProto(name="f", syntax="proto9").SerializeToString()]),
        (
            ["x.Y", "/", "ü", "x" * 100_000, "\\0"],
            [conflicting_protos.api("x").SerializeToString()],
        ),
        ([ECHO], [conflicting_protos.common("wrong").SerializeToString()]),
        ([f"s{number}" for number in range(100)], [b""]),
    ],
)
async def test_what_one_plugin_says_harms_no_other(
    services: list[str], files: list[bytes], short_dir: Path
) -> None:
    strange = Server(FixedReflection(services, files))
    with trio.fail_after(30):
        async with run_gateway(
            short_dir, a=server_with_reflection(servicer_named("a")), b=strange
        ) as behind:
            assert ECHO in await list_services(behind.channel)
            pool: Any = (await fetch_types(behind.channel, ECHO)).pool
            assert pool.FindServiceByName(ECHO).methods_by_name["Echo"]
            for name in services:
                try:
                    await fetch_types(behind.channel, name)
                except UsageError:
                    continue
            assert await ask(behind.channel, file_containing_symbol=ECHO)


async def test_there_is_room_for_the_types_of_so_many(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of services whose types are too many beside others', the names are known."""
    servers = {
        name: server_with_reflection(conflicting_protos.Servicer(name)) for name in ("a", "b", "c")
    }
    monkeypatch.setattr(service_index, "_MAX_DECLARATIONS", 25)
    async with run_gateway(short_dir, **servers) as behind:
        known = 0
        for name in servers:
            assert f"{name}.Service" in await list_services(behind.channel)
            try:
                await fetch_types(behind.channel, f"{name}.Service")
                known += 1
            except UsageError as exc:
                assert "unknown: " in str(exc)  # noqa: PT017
        assert known == 2
