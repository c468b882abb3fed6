"""What a server says of its services: reflection, asked in v1 or else in v1alpha.

A server may say anything. What it says is taken apart as bytes, in a thread, and bounded before
protobuf makes descriptors of it: see `described_files`.
"""

from __future__ import annotations

import contextlib
import re
from functools import partial
from typing import Any

import attrs
import purerpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from meshtrio.client.calls import stub_method
from meshtrio.client.described_files import DescribedFiles, Description, decoded
from meshtrio.client.picker import Picker
from meshtrio.client.raw import raw_method_of
from meshtrio.errors import UsageError
from meshtrio.messages import reflection_v1, reflection_v1alpha
from meshtrio.rpc.seam import Method
from meshtrio.threads import Pace, compute
from meshtrio.wire.protobuf import MalformedError, fields

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FULL_NAME = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern})*")

MAX_SERVICES = 1000
_MAX_FIELDS = 10_000
"""Fields of an answer, each of which has many more inside."""

_FILES, _SERVICES, _ERROR = 4, 6, 7
"""Fields of ServerReflectionResponse."""


def _method_of(module: Any) -> Method:
    service = module.DESCRIPTOR.services_by_name["ServerReflection"]
    return raw_method_of(service.methods_by_name["ServerReflectionInfo"])


_METHODS = tuple((each, _method_of(each)) for each in (reflection_v1, reflection_v1alpha))


class NoReflectionError(UsageError):
    """The server does not describe itself, or not what was asked for."""


class ReflectionUnavailableError(NoReflectionError):
    """The server does not implement reflection at all."""


async def list_services(picker: Picker) -> list[str]:
    """The names of what a server serves. Raises NoReflectionError."""
    return (await _ask(picker, picker.name, {"list_services": ""})).services


async def describe(picker: Picker, *services: str, server: str = "") -> DescriptorPool:
    """Learn the types of services, as `describe_all`."""
    return (await describe_all(picker, *services, server=server)).pool


async def describe_all(picker: Picker, *services: str, server: str = "") -> Description:
    """Learn the files that declare services, and what they import.

    Args:
        picker: Leads to the server.
        services: Full names.
        server: What to call the server in errors; by default the picker's name.

    Raises:
        NoReflectionError: The server does not describe them, or what it says cannot be used.
    """
    server = server or picker.name
    found = DescribedFiles()
    for service in services:
        await _add_files(picker, server, {"file_containing_symbol": service}, found)
    while found.missing:
        name = next(iter(found.missing))
        await _add_files(picker, server, {"file_by_filename": name}, found)
        if name in found.missing:
            raise NoReflectionError(f"{server} does not give the file {name}")
    try:
        return await compute(found.built)
    except MalformedError as exc:
        raise NoReflectionError(f"{server} gives files that do not fit: {exc}") from None


async def _add_files(
    picker: Picker, server: str, question: dict[str, str], found: DescribedFiles
) -> None:
    answer = await _ask(picker, server, question)
    try:
        await compute(partial(found.add, answer.files))
    except MalformedError as exc:
        text = f"{server} gives something else than files for {question}: {exc}"
        raise NoReflectionError(text) from None


def is_full_name(text: str) -> bool:
    """Whether a service can have this name."""
    return _FULL_NAME.fullmatch(text) is not None


def split_method(method: str) -> tuple[str, str]:
    """Split `pkg.Service/Method`. Raises UsageError for anything else."""
    service, _, name = method.removeprefix("/").rpartition("/")
    if not _FULL_NAME.fullmatch(service) or not _NAME.fullmatch(name):
        raise UsageError(f"{method!r} is not pkg.Service/Method")
    return service, name


def method_in(pool: DescriptorPool, method: str, source: str) -> MethodDescriptor:
    """Find a method among types that `source` has described.

    Raises UsageError for one that is not `pkg.Service/Method`, NoReflectionError for one that is
    not there.
    """
    service_name, name = split_method(method)
    try:
        service = pool.FindServiceByName(service_name)
    except KeyError:
        raise NoReflectionError(f"there is no service {service_name} in {source}") from None
    found: MethodDescriptor | None = service.methods_by_name.get(name)
    if found is None:
        names = ", ".join(service.methods_by_name)
        raise NoReflectionError(f"{service_name} has no method {name!r}; it has {names}")
    return found


@attrs.define
class _Answer:
    """What was answered to one question, not parsed by protobuf."""

    services: list[str] = attrs.field(factory=list)
    files: list[bytes] = attrs.field(factory=list)
    error: str | None = None

    @classmethod
    def read(cls, data: bytes, pace: Pace) -> _Answer:
        """Take a ServerReflectionResponse apart. Raises MalformedError for what is none."""
        answer = cls()
        left = _MAX_FIELDS
        for number, _, begin, end in fields(data):
            left = _counted(left, pace)
            if number == _ERROR:
                answer.error = ""
            if begin < 0 or number not in (_FILES, _SERVICES, _ERROR):
                continue
            for inner, _, value, stop in fields(data, begin, end):
                left = _counted(left, pace)
                if value >= 0:
                    answer._take(number, inner, data[value:stop])
        return answer

    def _take(self, number: int, inner: int, value: bytes) -> None:
        if number == _FILES and inner == 1:
            self.files.append(value)
        elif number == _SERVICES and inner == 1:
            self.services += [
                decoded(value[v:e]) for n, _, v, e in fields(value) if n == 1 and v >= 0
            ]
            if len(self.services) > MAX_SERVICES:
                raise MalformedError(f"there are over {MAX_SERVICES:,} services")
        elif number == _ERROR and inner == 2:
            self.error = value[:1024].decode("utf-8", "replace")


def _counted(left: int, pace: Pace) -> int:
    pace()
    if left <= 0:
        raise MalformedError(f"it has over {_MAX_FIELDS:,} fields")
    return left - 1


async def _ask(picker: Picker, server: str, question: dict[str, str]) -> _Answer:
    """Put one question to the server's reflection."""
    what = " ".join(question.values())
    for module, method in _METHODS:
        with contextlib.suppress(purerpc.UnimplementedError):
            async with stub_method(picker, method)() as asking:
                await asking.send_message(module.ServerReflectionRequest(**question))
                reply = await asking.receive_message()
            try:
                data = b"" if reply is None else reply.data
                answer = await compute(partial(_Answer.read, data))
            except MalformedError as exc:
                raise NoReflectionError(f"{server} does not describe {what}: {exc}") from None
            if reply is None or answer.error is not None:
                reason = answer.error if reply else "no answer"
                raise NoReflectionError(f"{server} does not describe {what}: {reason}")
            return answer
    raise ReflectionUnavailableError(f"{server} offers no reflection, which types are learned from")
