"""Protobuf messages as fields: cut anywhere, and made up."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.descriptor_pb2 import DESCRIPTOR, FileDescriptorProto

from meshtrio.util.protobuf_wire import MalformedProtobufError, iter_fields, split_message

WHOLE = DESCRIPTOR.serialized_pb


def test_fields_are_those_that_protobuf_finds() -> None:
    file = FileDescriptorProto(name="f", package="p", public_dependency=[1, 300], syntax="proto3")
    data = file.SerializeToString()
    found = [(number, data[value:end]) for number, _, value, end in iter_fields(data) if value >= 0]
    assert found == [(1, b"f"), (2, b"p"), (12, b"proto3")]
    assert [number for number, _, value, _ in iter_fields(data) if value < 0] == [10, 10]
    assert b"".join(data[begin:end] for _, begin, _, end in iter_fields(data)) == data


@pytest.mark.parametrize("size", [1, 100, 1000, 100_000])
def test_parts_are_the_whole(size: int) -> None:
    made, count = FileDescriptorProto(), 0
    with contextlib.suppress(MalformedProtobufError):  # Fields that are larger than two parts.
        for data, number in split_message(WHOLE, 0, len(WHOLE), size):
            made.MergeFromString(data)
            count += number
        assert made == FileDescriptorProto.FromString(WHOLE)
        assert count == len(list(iter_fields(WHOLE)))


def test_a_message_that_is_cut_anywhere_is_none_or_a_shorter_one() -> None:
    for length in range(len(WHOLE)):
        with contextlib.suppress(MalformedProtobufError):
            assert sum(1 for _ in iter_fields(WHOLE[:length])) < len(list(iter_fields(WHOLE)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # no length
        b"\x0a\x02x",  # too short
        b"\x08",  # no number
        b"\x09\0\0\0",  # half of eight bytes
        b"\x0b",  # a group
        b"\x0f",  # no wire type
        b"\x00\x00",  # field 0
        b"\xff" * 11,  # a number without end
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # 2**64 - 1 bytes
    ],
)
def test_what_is_no_message_is_told(data: bytes) -> None:
    with pytest.raises(MalformedProtobufError):
        list(iter_fields(data))


def test_a_field_that_is_larger_than_two_parts_is_not_taken() -> None:
    data = b"\x0a\x7f" + b"x" * 127
    with pytest.raises(MalformedProtobufError, match="a field has 129 bytes"):
        list(split_message(data, 0, len(data), 10))
