"""What a server says of its services: reflection, asked in v1 or else in v1alpha."""

from __future__ import annotations

import contextlib
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


class NoReflectionError(UsageError):
    """The server does not describe itself, or not what was asked for."""


async def list_services(picker: Picker) -> list[str]:
    """The names of what a server serves. Raises NoReflectionError."""
    reply = await _ask(picker, {"list_services": ""})
    return [service.name for service in reply.list_services_response.service]


async def describe(picker: Picker, *services: str) -> DescriptorPool:
    """The files that declare services, and what they import. Raises NoReflectionError."""
    found: dict[str, FileDescriptorProto] = {}
    for service in services:
        await _add_files(picker, {"file_containing_symbol": service}, found)
    while True:
        missing = {needed for file in found.values() for needed in file.dependency} - found.keys()
        if not missing:
            break
        name = missing.pop()
        await _add_files(picker, {"file_by_filename": name}, found)
        if name not in found:
            raise NoReflectionError(f"{picker.name} does not give the file {name}")
    pool = DescriptorPool()
    try:
        for file in _imports_first(found):
            pool.Add(file)
    except (TypeError, RecursionError) as exc:
        raise NoReflectionError(f"{picker.name} gives files that do not fit: {exc}") from None
    return pool


async def _add_files(
    picker: Picker, question: dict[str, str], found: dict[str, FileDescriptorProto]
) -> None:
    reply = await _ask(picker, question)
    for data in reply.file_descriptor_response.file_descriptor_proto:
        try:
            file = FileDescriptorProto.FromString(data)
        except DecodeError:
            text = f"{picker.name} gives something else than a file for {question}"
            raise NoReflectionError(text) from None
        found.setdefault(file.name, file)


async def find_method(picker: Picker, method: str) -> MethodDescriptor:
    """Learn a method's types. Raises UsageError for one that is not `pkg.Service/Method`, and
    NoReflectionError for one that is not there."""
    service_name, _, method_name = method.strip("/").rpartition("/")
    if not service_name:
        raise UsageError(f"{method!r} is not pkg.Service/Method")
    service = (await describe(picker, service_name)).FindServiceByName(service_name)
    descriptor: MethodDescriptor | None = service.methods_by_name.get(method_name)
    if descriptor is None:
        names = ", ".join(service.methods_by_name)
        raise NoReflectionError(f"{service_name} has no method {method_name!r}; it has {names}")
    return descriptor


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


async def _ask(picker: Picker, question: dict[str, str]) -> Any:
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
                raise NoReflectionError(f"{picker.name} does not describe {what}: {reason}")
            return reply
    raise NoReflectionError(f"{picker.name} offers no reflection, which types are learned from")
