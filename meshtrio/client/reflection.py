"""Client of server reflection, v1 or else v1alpha.

Servers are untrusted: responses are parsed field by field, in a thread, and limited before protobuf
builds descriptors from them (see `descriptor_pool_builder`).
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import attrs
import purerpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from meshtrio.client.call_destination import CallDestination
from meshtrio.client.descriptor_pool_builder import (
    DescriptorPoolBuilder,
    ReflectedTypes,
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

_FIELDS = _FILE_DESCRIPTOR_FIELD, _LIST_SERVICES_FIELD, _ERROR_FIELD = 4, 6, 7
"""Field numbers of ServerReflectionResponse."""


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
    return (await _query(channel, channel.name, {"list_services": ""})).services


async def fetch_pool(channel: CallDestination, *services: str, server: str = "") -> DescriptorPool:
    """Fetch the descriptors of services; see `fetch_types`."""
    return (await fetch_types(channel, *services, server=server)).pool


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
    try:
        await run_computation(partial(builder.add, response.files))
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


@attrs.define
class _Response:
    """A ServerReflectionResponse whose files are not parsed."""

    services: list[str] = attrs.field(factory=list)
    """Names of the listed services."""
    files: list[bytes] = attrs.field(factory=list)
    """Serialized files."""
    error: str | None = None
    """The error message, None if there is no error."""

    @classmethod
    def parse(cls, data: bytes, pace: GilYielder) -> _Response:
        """Parse a response.

        Raises:
            MalformedProtobufError: It is malformed, or exceeds a limit.
        """
        response, counter = cls(), itertools.count(1)

        def read_fields(begin: int, end: int) -> Iterator[tuple[int, int, int]]:
            for number, _, value, stop in iter_fields(data, begin, end):
                pace()
                if next(counter) > _MAX_FIELDS:
                    raise MalformedProtobufError(f"a response has more than {_MAX_FIELDS:,} fields")
                yield number, value, stop

        for number, begin, end in read_fields(0, len(data)):
            if number == _ERROR_FIELD:
                response.error = ""
            if begin >= 0 and number in _FIELDS:
                for inner, value, stop in read_fields(begin, end):
                    if value >= 0:
                        response._add_field(number, inner, data[value:stop])
        return response

    def _add_field(self, number: int, inner: int, value: bytes) -> None:
        if number == _FILE_DESCRIPTOR_FIELD and inner == 1:
            self.files.append(value)
        elif number == _LIST_SERVICES_FIELD and inner == 1:
            self.services += [
                decode_name(value[v:e]) for n, _, v, e in iter_fields(value) if n == 1 and v >= 0
            ]
            if len(self.services) > MAX_SERVICES:
                raise MalformedProtobufError(f"there are more than {MAX_SERVICES:,} services")
        elif number == _ERROR_FIELD and inner == 2:
            self.error = value[:1024].decode("utf-8", "replace")


async def _query(channel: CallDestination, server: str, request: dict[str, str]) -> _Response:
    """Send one request, in the first version that the server implements."""
    what = " ".join(request.values())
    for module, method in _VERSIONS:
        with contextlib.suppress(purerpc.UnimplementedError):
            async with make_multicallable(channel, method)() as call:
                await call.send_message(module.ServerReflectionRequest(**request))
                reply = await call.receive_message()
            try:
                data = b"" if reply is None else reply.data
                response = await run_computation(partial(_Response.parse, data))
            except MalformedProtobufError as exc:
                raise ReflectionError(f"{server} does not describe {what}: {exc}") from None
            if reply is None or response.error is not None:
                reason = response.error if reply else "no answer"
                raise ReflectionError(f"{server} does not describe {what}: {reason}")
            return response
    raise ReflectionUnavailableError(f"{server} does not support reflection")
