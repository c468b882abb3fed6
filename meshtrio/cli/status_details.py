"""The details of a failed call's status: google.rpc.Status in `grpc-status-details-bin`.

The type is built here from the field numbers of google/rpc/status.proto.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import purerpc
from google.protobuf import any_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from meshtrio.cli.json_output import to_json_text
from meshtrio.cli.protojson import message_to_json_value


class CallFailedError(Exception):
    """A call ended with a status other than OK. `details` has one line for each detail."""

    def __init__(self, status: purerpc.Status, details: list[str]) -> None:
        super().__init__(status.status_message)
        self.status = status
        self.details = details

    @classmethod
    def from_rpc_error(cls, exc: purerpc.RpcFailedError, pool: DescriptorPool) -> CallFailedError:
        """Make the error from purerpc's. `pool`: types of the details."""
        return cls(exc.status, _format_details(getattr(exc, "status_details", None), pool))


def _format_details(data: bytes | None, pool: DescriptorPool) -> list[str]:
    try:
        status: Any = _make_status_class().FromString(data or b"")
    except DecodeError:
        return [f"status details ({len(data or b'')} bytes) are not a valid google.rpc.Status"]
    return [_format_detail(each, pool) for each in status.details]


def _format_detail(detail: Any, pool: DescriptorPool) -> str:
    name = detail.type_url.rpartition("/")[2]
    try:
        message: Message = GetMessageClass(pool.FindMessageTypeByName(name)).FromString(
            detail.value
        )
    except (KeyError, DecodeError):
        return f"{name}, {len(detail.value)} bytes"
    return f"{name} {to_json_text(message_to_json_value(message, pool))}"


@cache
def _make_status_class() -> Any:
    any_file = FileDescriptorProto()
    any_pb2.DESCRIPTOR.CopyToProto(any_file)
    file = FileDescriptorProto(
        name="google/rpc/status.proto",
        package="google.rpc",
        syntax="proto3",
        dependency=[any_file.name],
    )
    status = file.message_type.add(name="Status")
    optional, repeated = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
    status.field.add(name="code", number=1, type=FieldDescriptorProto.TYPE_INT32, label=optional)
    status.field.add(
        name="message", number=2, type=FieldDescriptorProto.TYPE_STRING, label=optional
    )
    status.field.add(
        name="details",
        number=3,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        type_name=".google.protobuf.Any",
        label=repeated,
    )
    pool = DescriptorPool()
    pool.Add(any_file)
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status"))
