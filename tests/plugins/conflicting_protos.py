"""A plugin `python conflicting_protos.py PACKAGE` that serves PACKAGE.Service, whose messages are
of a file `common.proto` that is another in each such plugin, directly and by way of
`between.proto`.
"""

from __future__ import annotations

import sys
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from meshtrio import plugin
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor

_STRING = FieldDescriptorProto.TYPE_STRING
_MESSAGE = FieldDescriptorProto.TYPE_MESSAGE
_OPTIONAL = FieldDescriptorProto.LABEL_OPTIONAL


def common(*packages: str) -> FileDescriptorProto:
    """Declare common.Shared, whose fields are named after packages, and a message for each."""
    file = FileDescriptorProto(name="common.proto", package="common", syntax="proto3")
    message = file.message_type.add(name="Shared")
    for number, package in enumerate(packages, 1):
        message.field.add(name=f"of_{package}", number=number, type=_STRING, label=_OPTIONAL)
        file.message_type.add(name=f"Of_{package}")
    return file


def between() -> FileDescriptorProto:
    """Declare the same in every plugin; but what it imports differs."""
    file = FileDescriptorProto(name="between.proto", package="between", syntax="proto3")
    file.dependency.append("common.proto")
    message = file.message_type.add(name="Wrapper")
    message.field.add(
        name="shared", number=1, type=_MESSAGE, type_name=".common.Shared", label=_OPTIONAL
    )
    return file


def api(package: str) -> FileDescriptorProto:
    file = FileDescriptorProto(name=f"{package}/api.proto", package=package, syntax="proto3")
    file.dependency.extend(["between.proto", "common.proto"])
    message = file.message_type.add(name="Echoed")
    types = (".common.Shared", ".between.Wrapper", f".common.Of_{package}")
    for number, name in enumerate(types, 1):
        message.field.add(
            name=f"field_{number}",
            number=number,
            type=_MESSAGE,
            type_name=name,
            label=_OPTIONAL,
        )
    service = file.service.add(name="Service")
    service.method.add(
        name="Echo", input_type=f".{package}.Echoed", output_type=f".{package}.Echoed"
    )
    return file


class Servicer:
    """Gives each message back."""

    def __init__(self, package: str) -> None:
        pool: Any = DescriptorPool()
        for file in (common(package), between(), api(package)):
            pool.Add(file)
        self.service = service_from_descriptor(pool.FindServiceByName(f"{package}.Service"), self)

    async def Echo(self, request: Any) -> Any:
        return request


if __name__ == "__main__":
    plugin.run(Servicer(sys.argv[1]))
