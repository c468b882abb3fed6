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
from google.protobuf.json_format import MessageToDict, Parse, ParseError
from google.protobuf.message_factory import GetMessageClass

from meshtrio import mesh
from meshtrio.cli.ps import mesh_socket_option
from meshtrio.client.channel import Channel, connect_to
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.client.reflection import find_method
from meshtrio.errors import NoMeshError, UsageError

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
            descriptor = await find_method(channel, method)
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
