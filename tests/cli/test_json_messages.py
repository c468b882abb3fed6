"""Messages as JSON, of types that a server may describe in any way. Pure."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from meshtrio.cli.protojson import message_to_json_value


def message_with(package: str, name: str, field: str, data: bytes, syntax: str = "proto3") -> Any:
    """A message whose type has one field, a text, read from bytes."""
    file = FileDescriptorProto(name="a.proto", package=package, syntax=syntax)
    kind = file.message_type.add(name=name)
    kind.field.add(
        name=field,
        number=1,
        type=FieldDescriptorProto.TYPE_STRING,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )
    pool = DescriptorPool()
    pool.Add(file)
    found: Any = GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
    return found.FromString(data)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *(("Timestamp", "x"), ("Duration", "x"), ("FieldMask", "x"), ("Int64Value", "x")),
        *(("Any", "value"), ("Struct", "fields"), ("ListValue", "values"), ("Value", "kind")),
    ],
)
def test_well_known_types_that_are_described_otherwise(name: str, field: str) -> None:
    message = message_with("google.protobuf", name, field, b"\x0a\x01a")
    assert message_to_json_value(message) in ({field: "a"}, "a")


def test_a_text_of_proto2_that_is_not_utf8() -> None:
    message = message_with("a", "M", "text", b"\x0a\x02\xff\xfe", "proto2")
    assert "//4=" in str(message_to_json_value(message))
