"""`meshtrio call`: call a method with JSON, by reflection."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import purerpc
import trio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, Parse, ParseError
from google.protobuf.message_factory import GetMessageClass

from meshtrio import mesh
from meshtrio.cli.ps import mesh_socket_option
from meshtrio.client.channel import Channel, connect_to
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.errors import NoMeshError, UsageError
from meshtrio.messages import reflection_v1, reflection_v1alpha

_WAIT_PAUSE = 0.05


@click.command()
@click.argument("service")
@click.argument("method")
@click.argument("messages", nargs=-1, metavar="[JSON]...")
@click.option("--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--timeout", type=float, default=10.0, show_default=True, help="Seconds.")
@click.option("--wait", is_flag=True, help="Wait for a mesh to come up, within --timeout.")
@mesh_socket_option
def call(
    service: str,
    method: str,
    messages: tuple[str, ...],
    metadata: tuple[str, ...],
    timeout: float,
    wait: bool,
    mesh_socket: Path | None,
) -> None:
    """Call METHOD (pkg.Service/Method) of SERVICE (plugin.NAME, or an address unix:/path).

    Each JSON is one request message, an empty one if none is given; `-` reads them from stdin, one
    a line. Each reply is printed as one line of JSON.
    """
    pairs = [_pair(text) for text in metadata]
    connect = partial(_connect, service, mesh_socket, wait=wait)
    if "-" in messages:
        messages = tuple(line for line in sys.stdin if line.strip())
    try:
        trio.run(_call, connect, method, messages, pairs, timeout)
    except trio.TooSlowError:
        message = f"{service} did not finish the call within {timeout:g} s (--timeout)"
        raise purerpc.DeadlineExceededError(message) from None


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, value


async def _call(
    connect: Callable[[], AbstractAsyncContextManager[Channel]],
    method: str,
    messages: tuple[str, ...],
    metadata: list[tuple[str, str]],
    timeout: float,  # noqa: ASYNC109 - the command's option, made a scope right here
) -> None:
    with trio.fail_after(timeout):
        async with connect() as channel:
            descriptor = await describe(channel, method)
            requests = _requests(descriptor, messages)
            stub = DynamicStub(channel, descriptor.containing_service)
            bound = getattr(stub, descriptor.name)
            argument = _iterate(requests) if descriptor.client_streaming else requests[0]
            reply = bound(argument, metadata=metadata)
            if descriptor.server_streaming:
                async for each in reply:
                    _print(each)
            else:
                _print(await reply)


@asynccontextmanager
async def _connect(service: str, mesh_socket: Path | None, *, wait: bool) -> AsyncIterator[Channel]:
    if wait:
        await _wait_for_mesh(mesh_socket)
    if service.startswith(("unix:", "tcp:")):
        async with connect_to(service) as channel:
            yield channel
    else:
        async with mesh.connect(service, mesh_socket=mesh_socket) as channel:
            yield channel


async def _wait_for_mesh(mesh_socket: Path | None) -> None:
    while True:
        with contextlib.suppress(NoMeshError):
            async with mesh.connect_to_mesh(mesh_socket):
                return
        await trio.sleep(_WAIT_PAUSE)


def _requests(descriptor: MethodDescriptor, messages: tuple[str, ...]) -> list[Any]:
    if not descriptor.client_streaming and len(messages) > 1:
        raise UsageError(f"{descriptor.name} takes one message, not {len(messages)}")
    if not messages and not descriptor.client_streaming:
        messages = ("{}",)
    request_type = GetMessageClass(descriptor.input_type)
    try:
        return [Parse(text, request_type()) for text in messages]
    except ParseError as exc:
        raise UsageError(f"not a {descriptor.input_type.full_name} in JSON: {exc}") from None


async def _iterate(requests: list[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request


def _print(message: Any) -> None:
    print(json.dumps(MessageToDict(message), ensure_ascii=False), flush=True)


# -- reflection --------------------------------------------------------------------------------


async def describe(channel: Channel, method: str) -> MethodDescriptor:
    """Learn a method's types from its server. Raises UsageError for a method that is not there."""
    service_name, _, method_name = method.strip("/").rpartition("/")
    if not service_name:
        raise UsageError(f"{method!r} is not pkg.Service/Method")
    pool = DescriptorPool()
    for data in await _files(channel, service_name):
        pool.Add(FileDescriptorProto.FromString(data))
    service = pool.FindServiceByName(service_name)
    descriptor: MethodDescriptor | None = service.methods_by_name.get(method_name)
    if descriptor is None:
        names = ", ".join(service.methods_by_name)
        raise UsageError(f"{service_name} has no method {method_name!r}; it has {names}")
    return descriptor


async def _files(channel: Channel, symbol: str) -> list[bytes]:
    """The files that declare a symbol and what they import, imports first."""
    found: dict[str, FileDescriptorProto] = {}
    pending = [{"file_containing_symbol": symbol}]
    while pending:
        for data in await _ask(channel, pending.pop()):
            file = FileDescriptorProto.FromString(data)
            found.setdefault(file.name, file)
        missing = {d for file in found.values() for d in file.dependency} - found.keys()
        if not pending and missing:
            pending.append({"file_by_filename": missing.pop()})
    return [file.SerializeToString() for file in _imports_first(found)]


def _imports_first(files: dict[str, FileDescriptorProto]) -> list[FileDescriptorProto]:
    ordered: dict[str, FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for dependency in files[name].dependency:
                add(dependency)
            ordered[name] = files[name]

    for name in files:
        add(name)
    return list(ordered.values())


async def _ask(channel: Channel, question: dict[str, str]) -> list[bytes]:
    """Put one question to the server's reflection, in v1 or, where that is unknown, v1alpha."""
    for module in (reflection_v1, reflection_v1alpha):
        stub = DynamicStub(channel, module.DESCRIPTOR.services_by_name["ServerReflection"])
        with contextlib.suppress(purerpc.UnimplementedError):
            async with stub.ServerReflectionInfo() as asking:
                await asking.send_message(module.ServerReflectionRequest(**question))
                reply = await asking.receive_message()
            if reply is None or reply.HasField("error_response"):
                reason = reply.error_response.error_message if reply else "no answer"
                raise UsageError(f"{channel.name} does not describe {question}: {reason}")
            return list(reply.file_descriptor_response.file_descriptor_proto)
    raise UsageError(f"{channel.name} offers no reflection, which `call` learns the types from")
