"""What a server says of its services: reflection, asked in v1 or else in v1alpha."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import purerpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.client.picker import Picker
from meshtrio.errors import UsageError
from meshtrio.messages import reflection_v1, reflection_v1alpha

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FULL_NAME = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern})*")


class NoReflectionError(UsageError):
    """The server does not describe itself, or not what was asked for."""


class ReflectionUnavailableError(NoReflectionError):
    """The server does not implement reflection at all."""


async def list_services(picker: Picker) -> list[str]:
    """The names of what a server serves. Raises NoReflectionError."""
    reply = await _ask(picker, picker.name, {"list_services": ""})
    return [service.name for service in reply.list_services_response.service]


async def describe(picker: Picker, *services: str, server: str = "") -> DescriptorPool:
    """Learn the files that declare services, and what they import.

    Args:
        picker: Leads to the server.
        services: Full names.
        server: What to call the server in errors; by default the picker's name.

    Raises:
        NoReflectionError: The server does not describe them, or what it says cannot be used.
    """
    server = server or picker.name
    found: dict[str, FileDescriptorProto] = {}
    for service in services:
        await _add_files(picker, server, {"file_containing_symbol": service}, found)
    while True:
        missing = {needed for file in found.values() for needed in file.dependency} - found.keys()
        if not missing:
            break
        name = missing.pop()
        await _add_files(picker, server, {"file_by_filename": name}, found)
        if name not in found:
            raise NoReflectionError(f"{server} does not give the file {name}")
    try:
        return build_pool(found)
    except (TypeError, KeyError, RecursionError) as exc:
        raise NoReflectionError(f"{server} gives files that do not fit: {exc}") from None


async def _add_files(
    picker: Picker, server: str, question: dict[str, str], found: dict[str, FileDescriptorProto]
) -> None:
    reply = await _ask(picker, server, question)
    for data in reply.file_descriptor_response.file_descriptor_proto:
        try:
            file = FileDescriptorProto.FromString(data)
            found.setdefault(file.name, file)
        except (DecodeError, UnicodeDecodeError):
            text = f"{server} gives something else than a file for {question}"
            raise NoReflectionError(text) from None


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


def build_pool(files: Mapping[str, FileDescriptorProto]) -> DescriptorPool:
    """Put files together, each by its name, into a pool of their own.

    Raises KeyError for an import that is not among them, TypeError for files that contradict each
    other, RecursionError for imports in a circle.
    """
    ordered: dict[str, FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for dependency in files[name].dependency:
                add(dependency)
            ordered[name] = files[name]

    for name in files:
        add(name)
    pool = DescriptorPool()
    for file in ordered.values():
        pool.Add(file)
    return pool


async def _ask(picker: Picker, server: str, question: dict[str, str]) -> Any:
    """Put one question to the server's reflection."""
    for module in (reflection_v1, reflection_v1alpha):
        stub = DynamicStub(picker, module.DESCRIPTOR.services_by_name["ServerReflection"])
        with contextlib.suppress(purerpc.UnimplementedError):
            async with stub.ServerReflectionInfo() as asking:
                await asking.send_message(module.ServerReflectionRequest(**question))
                reply = await asking.receive_message()
            if reply is None or reply.HasField("error_response"):
                reason = reply.error_response.error_message if reply else "no answer"
                what = " ".join(str(value) for value in question.values())
                raise NoReflectionError(f"{server} does not describe {what}: {reason}")
            return reply
    raise ReflectionUnavailableError(f"{server} offers no reflection, which types are learned from")
