"""Protobuf messages as fields on the wire, without building objects of them. Pure.

protobuf parses a message in one go, and holds the interpreter meanwhile: 4 MB that are all empty
messages take half a second and 200 MB. What a peer may have made up is therefore looked at here
first, and parsed in parts.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED_64, _LENGTH_DELIMITED, _FIXED_32 = 0, 1, 2, 5

FieldSpan = tuple[int, int, int, int]
"""The number of a field, where it begins with its tag, where its value begins, and where it ends.
The value begins at -1 for one that is a number."""


class MalformedProtobufError(ValueError):
    """It is no message, or one that is not taken."""


def iter_fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[FieldSpan]:
    """Give the fields of a message, in the order that they are in.

    Args:
        data: Has the message, from `start` to `end`; all of it by default.

    Raises:
        MalformedError: It is no message. Groups, which proto3 does not have, are none.
    """
    position, end = start, len(data) if end is None else end
    while position < end:
        begin = position
        tag, position = _read_varint(data, position, end)
        kind, value = tag & 7, -1
        if kind == _LENGTH_DELIMITED:
            length, value = _read_varint(data, position, end)
            position = value + length
        elif kind == _VARINT:
            _, position = _read_varint(data, position, end)
        elif kind in (_FIXED_64, _FIXED_32):
            position += 8 if kind == _FIXED_64 else 4
        else:
            raise MalformedProtobufError(f"wire type {kind} at byte {begin}")
        if position > end or tag < 8:
            raise MalformedProtobufError(f"field {tag >> 3} at byte {begin} is not whole")
        yield tag >> 3, begin, value, position


def _read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    if position < end and (byte := data[position]) < 0x80:
        return byte, position + 1
    number = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    raise MalformedProtobufError(f"a number at byte {position} is not whole")


def split_message(data: bytes, start: int, end: int, size: int) -> Iterator[tuple[bytes, int]]:
    """Cut a message between its fields. Parsed one after the other into the same message, the
    parts are the whole.

    Args:
        data: Has the message, from `start` to `end`.
        size: Bytes of a part, about.

    Yields:
        Each part, and how many fields it has.

    Raises:
        MalformedError: A field has more than twice that, or it is no message.
    """
    begin, count = start, 0
    for _, field_start, _, stop in iter_fields(data, start, end):
        count += 1
        if stop - field_start > 2 * size:
            raise MalformedProtobufError(f"a field has {stop - field_start:,} bytes")
        if stop - begin >= size:
            yield data[begin:stop], count
            begin, count = stop, 0
    if begin < end:
        yield data[begin:end], count
