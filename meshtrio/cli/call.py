"""`meshtrio call`: call a method with JSON, by reflection."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click
import purerpc
import trio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from meshtrio import mesh
from meshtrio.address import Address
from meshtrio.cli.asking import registry, run
from meshtrio.cli.call_types import find_method, given_types
from meshtrio.cli.details import CallFailedError
from meshtrio.cli.failures import RefusedError
from meshtrio.cli.json_messages import plain
from meshtrio.cli.options import complete_services, encodable, json_option, mesh_socket_option
from meshtrio.cli.pipes import all_of_stdin, lines_of_stdin, until_stdout_takes_more
from meshtrio.cli.records import json_text
from meshtrio.cli.services import why_nobody
from meshtrio.client.calls import stub_method
from meshtrio.client.channel import Channel, connect_to
from meshtrio.client.endpoint import Endpoint
from meshtrio.contract import MESH_TARGET
from meshtrio.errors import NoMeshError, UntrustedMeshError, UsageError
from meshtrio.messages import registry as registry_messages
from meshtrio.rpc.dynamic import method_of
from meshtrio.texts import visible
from meshtrio.wire.grpc import DEFAULT_MAX_MESSAGE_SIZE, encode_metadata

_STDIN = "-"
_TIMEOUT = 10.0
_WAIT_PAUSE = 0.05

_NOT_A_MESSAGE = (
    *(ParseError, ValueError, TypeError, KeyError, AttributeError),
    *(IndexError, OverflowError, RecursionError),
)
"""What the library raises for JSON that is not one of a message."""

Metadata = list[tuple[str, str | bytes]]


def _finite(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("it is not a number of seconds")
    return value


@click.command(short_help="Call a method with JSON, by reflection.")
@click.argument("service", callback=encodable, shell_complete=complete_services)
@click.argument("method")
@click.argument("messages", nargs=-1, metavar="[JSON]...")
@click.option(
    "--metadata",
    "-m",
    multiple=True,
    metavar="KEY=VALUE",
    help="May be repeated. The value is base64 where the key ends in -bin.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 1e9, min_open=True),
    callback=_finite,
    metavar="SECONDS",
    help="Goes with the call as its deadline; by default 10, and none where either side streams.",
)
@click.option(
    "--max-message-size",
    type=click.IntRange(-1),
    default=DEFAULT_MAX_MESSAGE_SIZE,
    metavar="BYTES",
    help="The longest reply to accept, after decompression; by default 4 MiB, -1 for no limit.",
)
@click.option("--wait", is_flag=True, help="Wait for a mesh to come up, within --timeout.")
@click.option(
    "--proto",
    "protos",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Learn types from a proto file, not by reflection; needs the extra gen. May be repeated.",
)
@click.option(
    "-I",
    "--proto-path",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder that imports of --proto start from; by default here, and where FILE is.",
)
@click.option(
    "--protoset",
    "protosets",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The same from a FileDescriptorSet, as protoc makes it. May be repeated.",
)
@json_option("One line of JSON for each reply on a terminal, too.")
@mesh_socket_option
def call(
    service: str,
    method: str,
    messages: tuple[str, ...],
    metadata: tuple[str, ...],
    timeout: float | None,
    max_message_size: int,
    wait: bool,
    protos: tuple[Path, ...],
    proto_path: tuple[Path, ...],
    protosets: tuple[Path, ...],
    as_json: bool,
    mesh_socket: Path | None,
) -> None:
    """Call METHOD (pkg.Service/Method) of SERVICE (plugin.NAME, or an address unix:/path).

    Each JSON is one request message, an empty one if none is given. `-` reads them from stdin: one
    a line, each sent as it comes, or all of it as the one message of a method that takes one. Each
    reply is printed as one line of JSON, in protobuf's mapping with the names of the proto.
    The types are learned by reflection, or from files given with --proto or --protoset.

    A call to a SERVICE goes through the mesh socket, to an address straight to it. Where it fails,
    the exit status is 1 and stderr has NAME: MESSAGE of the gRPC status.
    """
    pairs = [_pair(text) for text in metadata]
    straight = service.startswith(("unix:", "tcp:"))
    _check(service)
    connect = partial(_connect, service, mesh_socket, max_message_size, wait=wait)
    find = partial(
        find_method, method=method, server=service, given=given_types(protosets, protos, proto_path)
    )
    troubles: list[str] = []
    try:
        run(_call, connect, find, messages, pairs, timeout, _printer(as_json=as_json), troubles)
    except trio.TooSlowError:
        message = f"{service} did not finish the call within {timeout or _TIMEOUT:g} s (--timeout)"
        if not straight:
            troubles = run(_nobody_serves, service, mesh_socket)
        raise purerpc.DeadlineExceededError(": ".join([message, *troubles])) from None


def _check(service: str) -> None:
    """Raises UsageError for what is neither an address nor can be the name of a service."""
    try:
        if service.startswith(("unix:", "tcp:")):
            Address.parse(service)
        else:
            encode_metadata(((MESH_TARGET, service),))
    except ValueError as exc:
        is_address = service.startswith(("unix:", "tcp:"))
        raise UsageError(str(exc) if is_address else f"{service!r} is no service: {exc}") from None


async def _nobody_serves(service: str, mesh_socket: Path | None) -> list[str]:
    """Why a service has nobody to serve it, if that is so and its mesh tells it at once."""
    with trio.move_on_after(1), suppress(NoMeshError, RefusedError):
        async with registry(mesh_socket) as stub:
            state = await stub.Resolve(registry_messages.ResolveRequest(service=service))
            return [] if state.endpoints else [why_nobody(state)]
    return []


def _pair(text: str) -> tuple[str, str | bytes]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE")
    try:
        pair = key, base64.b64decode(value, validate=True) if key.endswith("-bin") else value
    except binascii.Error:
        raise click.BadParameter(f"{value!r} is not base64, as {key} has to be") from None
    try:
        encode_metadata((pair,))
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None
    return pair


async def _call(
    connect: Callable[[], AbstractAsyncContextManager[Channel]],
    find: Callable[[Channel], Awaitable[MethodDescriptor]],
    messages: tuple[str, ...],
    metadata: Metadata,
    timeout: float | None,  # noqa: ASYNC109 - the command's option, made a scope right here
    show: Callable[[Message, DescriptorPool], None],
    troubles: list[str],
) -> None:
    """`troubles` gets why the other end could not be reached, where that took all the time."""
    with trio.fail_after(timeout or _TIMEOUT) as scope:
        async with connect() as channel, _noted(channel, troubles):
            descriptor = await find(channel)
            pool = descriptor.containing_service.file.pool
            if timeout is None and (descriptor.client_streaming or descriptor.server_streaming):
                scope.deadline = math.inf
            argument = await _argument(descriptor, messages)
            try:
                reply = stub_method(channel, method_of(descriptor))(argument, metadata=metadata)
                if descriptor.server_streaming:
                    async for each in reply:
                        await until_stdout_takes_more()
                        show(each, pool)
                else:
                    show(await reply, pool)
            except purerpc.RpcFailedError as exc:
                raise CallFailedError.of(exc, pool) from None


@asynccontextmanager
async def _noted(channel: Channel, troubles: list[str]) -> AsyncIterator[None]:
    try:
        yield
    except trio.Cancelled:
        if channel.trouble:
            troubles.append(channel.trouble)
        raise


@asynccontextmanager
async def _connect(
    service: str, mesh_socket: Path | None, max_message_size: int, *, wait: bool
) -> AsyncIterator[Channel]:
    where: str | Endpoint = service
    metadata: tuple[tuple[str, str], ...] = ()
    if not service.startswith(("unix:", "tcp:")):
        await _find_mesh(mesh_socket, wait=wait)
        where, metadata = mesh.endpoint_of_mesh(mesh_socket), ((MESH_TARGET, service),)
    async with connect_to(
        where, metadata=metadata, max_receive_message_length=max_message_size
    ) as channel:
        channel.lengths = attrs.evolve(channel.lengths, receive_setting="--max-message-size")
        yield channel


async def _find_mesh(mesh_socket: Path | None, *, wait: bool) -> None:
    """Make sure that there is one, or wait until there is."""
    while True:
        try:
            async with mesh.connect_to_mesh(mesh_socket):
                return
        except UntrustedMeshError:
            raise
        except NoMeshError:
            if not wait:
                raise
        await trio.sleep(_WAIT_PAUSE)


# -- requests --------------------------------------------------------------------------------


async def _argument(descriptor: MethodDescriptor, messages: tuple[str, ...]) -> Any:
    """What the stub's method takes: a message, or an iterator of them."""
    parse = partial(parse_request, descriptor)
    if descriptor.client_streaming:
        return _each(parse, messages)
    if len(messages) > 1:
        raise UsageError(f"{descriptor.name} takes one message, not {len(messages)}")
    text = messages[0] if messages else "{}"
    return parse(await all_of_stdin() if text == _STDIN else text)


async def _each(parse: Callable[[str], Message], messages: Iterable[str]) -> AsyncIterator[Message]:
    for text in messages:
        if text != _STDIN:
            yield parse(text)
            continue
        async for line in lines_of_stdin():
            yield parse(line)


def parse_request(descriptor: MethodDescriptor, text: str) -> Any:
    """Return the message that JSON has. Raises UsageError for anything else, in one line."""
    kind, pool = descriptor.input_type, descriptor.containing_service.file.pool
    try:
        message: Any = Parse(text, GetMessageClass(kind)(), descriptor_pool=pool)
        if not message.IsInitialized():
            missing = ", ".join(message.FindInitializationErrors())
            raise ParseError(f"required fields are missing: {missing}")
    except _NOT_A_MESSAGE as exc:
        why = "it is nested too deeply" if isinstance(exc, RecursionError) else exc
        raise UsageError(visible(f"not a {kind.full_name} in JSON: {why}")) from None
    return message


# -- replies ---------------------------------------------------------------------------------


def _printer(*, as_json: bool) -> Callable[[Message, DescriptorPool], None]:
    if as_json or not sys.stdout.isatty():
        return lambda message, pool: print(json_text(plain(message, pool)), flush=True)
    from rich.highlighter import JSONHighlighter

    from meshtrio.cli import screen

    console, coloured = screen.console(), JSONHighlighter()
    return lambda message, pool: console.print(
        coloured(json_text(plain(message, pool), indent=2)), soft_wrap=True
    )
