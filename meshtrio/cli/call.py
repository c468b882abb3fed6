"""`meshtrio call`: call a method with JSON, by reflection."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click
import purerpc
import trio
from google.protobuf import any_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from meshtrio.cli.call_types import load_types, resolve_method
from meshtrio.cli.error_report import MeshRequestError
from meshtrio.cli.inspect_commands import describe_unavailable
from meshtrio.cli.json_output import print_json_line, to_json_text
from meshtrio.cli.mesh_client import run_async, run_with_registry
from meshtrio.cli.options import SecondsRange, mesh_options, service_argument
from meshtrio.cli.protojson import message_to_json_value
from meshtrio.cli.stdio import read_stdin, read_stdin_lines, wait_stdout_writable
from meshtrio.client.channel import Channel, ChannelOptions, connect_to
from meshtrio.client.mesh_connection import connect_to_mesh, mesh_socket_endpoint
from meshtrio.client.multicallable import make_multicallable
from meshtrio.contract import TARGET_METADATA_KEY
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.errors import NoMeshError, UntrustedMeshError
from meshtrio.grpc.metadata import encode_metadata
from meshtrio.http2.limits import DEFAULT_MAX_MESSAGE_SIZE
from meshtrio.messages import registry as registry_messages
from meshtrio.rpc.message_limits import MessageLengths
from meshtrio.rpc.method import MetadataLike
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.util.address import Address
from meshtrio.util.errors import UsageError
from meshtrio.util.protobuf_wire import MalformedProtobufError, iter_fields
from meshtrio.util.text import escape_unprintable

_STDIN = "-"
_DEFAULT_TIMEOUT = 10.0
_MESH_POLL_INTERVAL = 0.05
_DETAILS_FIELD = 3
"""Source: google/rpc/status.proto."""

_PARSE_ERRORS = (
    *(ParseError, ValueError, TypeError, KeyError, AttributeError),
    *(IndexError, OverflowError, RecursionError),
)
"""Exceptions that `json_format.Parse` raises for JSON that does not fit the message."""


_files_option = partial(
    click.option, multiple=True, type=click.Path(path_type=Path), metavar="FILE"
)


@click.command()
@service_argument
@click.argument("method")
@click.argument("messages", nargs=-1, metavar="[JSON]...")
@click.option(
    "--metadata",
    "-m",
    multiple=True,
    metavar="KEY=VALUE",
    help="Metadata to send; may be repeated. The value of a key ending in -bin is base64.",
)
@click.option(
    "--timeout",
    type=SecondsRange(0, 1e9, min_open=True),
    metavar="SECONDS",
    help="Deadline of the call; by default 10, and none for streaming methods.",
)
@click.option(
    "--max-message-size",
    type=click.IntRange(-1),
    default=DEFAULT_MAX_MESSAGE_SIZE,
    metavar="BYTES",
    help="Longest reply to accept, after decompression; by default 4 MiB, -1 for no limit.",
)
@click.option("--wait", is_flag=True, help="Wait for a mesh to come up, within --timeout.")
@_files_option(
    *("--proto", "protos"),
    help="Read types from a proto file, not by reflection; needs the extra gen. May be repeated.",
)
@_files_option(
    *("-I", "--proto-path"),
    metavar="FOLDER",
    help="Folder to search for imports of --proto; by default the current one and FILE's.",
)
@_files_option(
    *("--protoset", "protosets"),
    help="Read types from a FileDescriptorSet made by protoc. May be repeated.",
)
@mesh_options("Print one line of JSON for each reply, even on a terminal.")
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

    Each JSON is one request message; without one, an empty message is sent. `-` reads messages from
    stdin: one a line, each sent as it arrives, or all of stdin for a method that takes one message.
    Each reply is printed as one line of ProtoJSON with the field names of the proto. The types come
    from reflection, or from files given with --proto or --protoset.

    A call to a SERVICE goes through the mesh socket, one to an address directly to it. If it fails,
    the exit status is 1 and stderr has STATUS: MESSAGE.
    """
    pairs = [_parse_metadata_pair(text) for text in metadata]
    is_direct = _is_address(service)
    types = load_types(protosets, protos, proto_path)
    print_reply = _make_reply_printer(as_json=as_json)
    obstacle: str | None = None

    async def run() -> None:
        nonlocal obstacle
        with trio.fail_after(timeout or _DEFAULT_TIMEOUT) as scope:
            where: str | Endpoint = service
            options: ChannelOptions = {"max_receive_message_length": max_message_size}
            if not is_direct:
                await _wait_for_mesh(mesh_socket, wait=wait)
                where = mesh_socket_endpoint(mesh_socket)
                options["metadata"] = ((TARGET_METADATA_KEY, service),)
            async with connect_to(where, **options) as channel:
                lengths = channel.message_lengths
                channel.message_lengths = MessageLengths(
                    lengths.max_receive_length, lengths.max_send_length, "--max-message-size"
                )
                try:
                    found = await resolve_method(channel, method, service, types)
                    if timeout is None and (found.client_streaming or found.server_streaming):
                        scope.deadline = math.inf
                    await _call_method(channel, found, messages, pairs, print_reply)
                except trio.Cancelled:
                    # Why no connection was made in time, if that is so.
                    obstacle = channel.picker.unavailable_reason
                    raise

    try:
        run_async(run)
    except trio.TooSlowError:
        seconds = timeout or _DEFAULT_TIMEOUT
        text = f"{service} did not finish the call within {seconds:g} s (--timeout)"
        if not is_direct:
            obstacle = _describe_obstacle(service, mesh_socket)
        raise purerpc.DeadlineExceededError(": ".join(filter(None, (text, obstacle)))) from None


def _is_address(service: str) -> bool:
    """Whether `service` is an address. Raises UsageError if it is neither that nor a name."""
    is_address = service.startswith(("unix:", "tcp:"))
    try:
        if is_address:
            Address.parse(service)
        else:
            encode_metadata(((TARGET_METADATA_KEY, service),))
    except ValueError as exc:
        text = str(exc) if is_address else f"{service!r} is not a service name: {exc}"
        raise UsageError(text) from None
    return is_address


def _describe_obstacle(service: str, mesh_socket: Path | None) -> str:
    """Describe why no mesh answers, or why the service has no endpoints; "" if neither is so."""
    request = registry_messages.ResolveRequest(service=service)
    try:
        state = run_with_registry(lambda stub: stub.Resolve(request), mesh_socket, timeout=1)
    except NoMeshError as exc:
        return str(exc.status.status_message)
    except (MeshRequestError, trio.TooSlowError):
        return ""
    return "" if state.endpoints else describe_unavailable(state)


def _parse_metadata_pair(text: str) -> tuple[str, str | bytes]:
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


async def _call_method(
    channel: Channel,
    descriptor: MethodDescriptor,
    messages: tuple[str, ...],
    metadata: MetadataLike,
    print_reply: Callable[[Message], None],
) -> None:
    argument = await _make_argument(descriptor, messages)
    method = make_multicallable(channel, method_from_descriptor(descriptor))
    try:
        reply = method(argument, metadata=metadata)
        if descriptor.server_streaming:
            async for each in reply:
                await wait_stdout_writable()
                print_reply(each)
        else:
            print_reply(await reply)
    except purerpc.RpcFailedError as exc:
        pool = descriptor.containing_service.file.pool
        for detail in _format_details(exc.status_details, pool):
            exc.add_note(detail)
        raise


async def _wait_for_mesh(mesh_socket: Path | None, *, wait: bool) -> None:
    """Check that a mesh answers, or with `wait`, wait until one does."""
    while True:
        try:
            async with connect_to_mesh(mesh_socket):
                return
        except NoMeshError as exc:
            if not wait or isinstance(exc, UntrustedMeshError):
                raise
        await trio.sleep(_MESH_POLL_INTERVAL)


# -- requests --------------------------------------------------------------------------------


async def _make_argument(descriptor: MethodDescriptor, messages: tuple[str, ...]) -> Any:
    """Return what the stub's method takes: a message, or an iterator of messages."""
    parse = partial(parse_request, descriptor)
    if descriptor.client_streaming:
        return _parse_each(parse, messages)
    if len(messages) > 1:
        raise UsageError(f"{descriptor.name} takes one message, not {len(messages)}")
    text = messages[0] if messages else "{}"
    return parse(await read_stdin() if text == _STDIN else text)


async def _parse_each(
    parse: Callable[[str], Message], messages: Iterable[str]
) -> AsyncIterator[Message]:
    for text in messages:
        if text != _STDIN:
            yield parse(text)
            continue
        async for line in read_stdin_lines():
            yield parse(line)


def parse_request(descriptor: MethodDescriptor, text: str) -> Any:
    """Parse a request message from JSON. Raises UsageError, with a text of one line."""
    kind, pool = descriptor.input_type, descriptor.containing_service.file.pool
    try:
        message: Any = Parse(text, GetMessageClass(kind)(), descriptor_pool=pool)
        if not message.IsInitialized():
            missing = ", ".join(message.FindInitializationErrors())
            raise ParseError(f"required fields are missing: {missing}")
    except _PARSE_ERRORS as exc:
        why = "nested too deeply" if isinstance(exc, RecursionError) else exc
        raise UsageError(escape_unprintable(f"not a {kind.full_name} in JSON: {why}")) from None
    return message


# -- replies ---------------------------------------------------------------------------------


def _make_reply_printer(*, as_json: bool) -> Callable[[Message], None]:
    if as_json or not sys.stdout.isatty():
        return lambda message: print_json_line(message_to_json_value(message))
    from rich.highlighter import JSONHighlighter

    from meshtrio.cli import rich_output

    console, highlight = rich_output.make_console(), JSONHighlighter()

    def print_reply(message: Message) -> None:
        text = to_json_text(message_to_json_value(message), indent=2)
        console.print(highlight(text), soft_wrap=True)

    return print_reply


def _format_details(data: bytes, pool: DescriptorPool) -> list[str]:
    """Format the details of a google.rpc.Status, whose field 3 they are."""
    try:
        spans = [span for span in iter_fields(data) if span[0] == _DETAILS_FIELD]
        details = [
            any_pb2.Any.FromString(data[value:end]) for _, _, value, end in spans if value >= 0
        ]
    except (MalformedProtobufError, DecodeError):
        return [f"status details ({len(data)} bytes) are not a valid google.rpc.Status"]
    return [_format_detail(each, pool) for each in details]


def _format_detail(detail: Any, pool: DescriptorPool) -> str:
    name = detail.type_url.rpartition("/")[2]
    try:
        kind = GetMessageClass(pool.FindMessageTypeByName(name))
        message: Message = kind.FromString(detail.value)
    except (KeyError, DecodeError):
        return f"{name}, {len(detail.value)} bytes"
    return f"{name} {to_json_text(message_to_json_value(message))}"
