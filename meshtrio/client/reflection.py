"""Client of server reflection, v1 or else v1alpha.

Servers are untrusted: responses are limited before protobuf parses them, in a thread, and once more
before it builds descriptors from them (see `descriptor_pool_builder`).
"""

from __future__ import annotations

import contextlib
import re
from functools import partial
from typing import Any

import purerpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from meshtrio.client.call_destination import CallDestination
from meshtrio.client.descriptor_pool_builder import (
    DescriptorPoolBuilder,
    ReflectedTypes,
    build_schema,
    check_max,
    decode_name,
)
from meshtrio.client.multicallable import make_multicallable, make_raw_method
from meshtrio.messages import reflection_v1, reflection_v1alpha
from meshtrio.rpc.method import Method
from meshtrio.util.errors import UsageError
from meshtrio.util.protobuf_wire import MalformedProtobufError, iter_fields
from meshtrio.util.worker_threads import GilYielder, run_computation

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FULL_NAME = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern})*")

MAX_SERVICES = 1000
"""Services that a server may list."""
_MAX_FIELDS = 10_000
"""Fields of a response."""

_RESPONSE_SCHEMA = build_schema(reflection_v1.ServerReflectionResponse.DESCRIPTOR)
"""Messages in a ServerReflectionResponse, which is the same in both versions."""
_FIELDS = {4: "file_descriptor_response", 6: "list_services_response", 7: "error_response"}


def _reflection_method(module: Any) -> Method:
    service = module.DESCRIPTOR.services_by_name["ServerReflection"]
    return make_raw_method(service.methods_by_name["ServerReflectionInfo"])


_VERSIONS = tuple((each, _reflection_method(each)) for each in (reflection_v1, reflection_v1alpha))


class ReflectionError(UsageError):
    """The server does not describe a service or file, or its description is invalid."""


class ReflectionUnavailableError(ReflectionError):
    """The server does not implement reflection."""


async def list_services(channel: CallDestination) -> list[str]:
    """Return the names of a server's services.

    Raises:
        ReflectionError: The server does not list them.
    """
    response = await _query(channel, channel.name, {"list_services": ""})
    return [each.name for each in response.list_services_response.service]


async def fetch_types(channel: CallDestination, *services: str, server: str = "") -> ReflectedTypes:
    """Fetch the files that declare services, and those that they import.

    `server` is the name of the server in errors, by default the channel's name.

    Raises:
        ReflectionError: The server does not describe a service, or its files are invalid.
    """
    server = server or channel.name
    builder = DescriptorPoolBuilder()
    for service in services:
        await _add_files(channel, server, {"file_containing_symbol": service}, builder)
    while builder.missing_imports:
        name = next(iter(builder.missing_imports))
        await _add_files(channel, server, {"file_by_filename": name}, builder)
        if name in builder.missing_imports:
            raise ReflectionError(f"{server} did not send the file {name}")
    try:
        return await run_computation(builder.build)
    except MalformedProtobufError as exc:
        raise ReflectionError(f"{server} sent inconsistent file descriptors: {exc}") from None


async def _add_files(
    channel: CallDestination, server: str, request: dict[str, str], builder: DescriptorPoolBuilder
) -> None:
    response = await _query(channel, server, request)
    files = response.file_descriptor_response.file_descriptor_proto
    try:
        await run_computation(partial(builder.add, files))
    except MalformedProtobufError as exc:
        text = f"{server} sent malformed file descriptors for {request}: {exc}"
        raise ReflectionError(text) from None


def is_full_name(text: str) -> bool:
    """Whether a text is a valid full name of a service."""
    return _FULL_NAME.fullmatch(text) is not None


def split_method(method: str) -> tuple[str, str]:
    """Split `pkg.Service/Method`.

    Raises:
        UsageError: The text has another form.
    """
    service, _, name = method.removeprefix("/").rpartition("/")
    if not _FULL_NAME.fullmatch(service) or not _NAME.fullmatch(name):
        raise UsageError(f"{method!r} is not pkg.Service/Method")
    return service, name


def find_method(pool: DescriptorPool, method: str, source: str) -> MethodDescriptor:
    """Find the method `pkg.Service/Method` in a pool, which `source` describes in errors.

    Raises:
        UsageError: `method` has another form.
        ReflectionError: There is no such service or method.
    """
    service_name, name = split_method(method)
    try:
        service = pool.FindServiceByName(service_name)
    except KeyError:
        raise ReflectionError(f"there is no service {service_name} in {source}") from None
    found: MethodDescriptor | None = service.methods_by_name.get(name)
    if found is None:
        names = ", ".join(service.methods_by_name)
        raise ReflectionError(f"{service_name} has no method {name!r}; it has {names}")
    return found


def _parse_response(response_type: Any, data: bytes, pace: GilYielder) -> Any:
    """Parse a response, once its fields have been counted. Its files are not parsed.

    Raises:
        MalformedProtobufError: It is malformed, or exceeds a limit.
    """
    count, pending = 0, [(_RESPONSE_SCHEMA, 0, len(data))]
    while pending:
        schema, begin, end = pending.pop()
        for number, _, value, stop in iter_fields(data, begin, end):
            pace()
            count += 1
            check_max(count, _MAX_FIELDS, "a response has more than {:,} fields")
            if value >= 0 and number in schema:
                pending.append((schema[number], value, stop))
    response = response_type()
    try:
        # The rest, such as the echo of the request, is of no use, and need not be valid.
        for number, _, value, stop in iter_fields(data):
            if value >= 0 and number in _FIELDS:
                getattr(response, _FIELDS[number]).MergeFromString(data[value:stop])
    except DecodeError as exc:
        raise MalformedProtobufError(str(exc)) from None
    services = response.list_services_response.service
    check_max(len(services), MAX_SERVICES, "there are more than {:,} services")
    for each in services:
        decode_name(each.name.encode())
    return response


async def _query(channel: CallDestination, server: str, request: dict[str, str]) -> Any:
    """Send one request, in the first version that the server implements."""
    for module, method in _VERSIONS:
        with contextlib.suppress(purerpc.UnimplementedError):
            async with make_multicallable(channel, method)() as call:
                await call.send_message(module.ServerReflectionRequest(**request))
                reply = await call.receive_message()
            reason = "no answer"
            if reply is not None:
                parse = partial(_parse_response, module.ServerReflectionResponse, reply.data)
                try:
                    response = await run_computation(parse)
                    if not response.HasField("error_response"):
                        return response
                    reason = response.error_response.error_message[:1024]
                except MalformedProtobufError as exc:
                    reason = str(exc)
            what = " ".join(request.values())
            raise ReflectionError(f"{server} does not describe {what}: {reason}")
    raise ReflectionUnavailableError(f"{server} does not support reflection")
