"""Splits serialized protobuf messages into fields, without parsing them into objects.

protobuf parses a message at once and holds the GIL meanwhile: 4 MB of empty messages take half a
second and 200 MB. Messages of untrusted peers are therefore checked here first, and parsed in
parts.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

_MAX_OTHER_BYTES = 1024
"""Maximum bytes of a message in fields other than the repeated one that it is sent for."""
_VARINT, _FIXED_64, _LENGTH_DELIMITED, _FIXED_32 = 0, 1, 2, 5

FieldSpan = tuple[int, int, int, int]
"""Field number, start of the tag, start of the value, and end. The start of the value is -1 for
numbers, as only length-delimited fields are read."""


class MalformedProtobufError(ValueError):
    """The data is not a message, or exceeds a limit."""


def iter_fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[FieldSpan]:
    """Yield the fields of the message in `data[start:end]` in order.

    Raises MalformedProtobufError if it is not a message, or has groups, which proto3 lacks.
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
            raise MalformedProtobufError(f"field {tag >> 3} at byte {begin} is truncated")
        yield tag >> 3, begin, value, position


def _read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Decode a varint; return it and its end."""
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
    raise MalformedProtobufError(f"a number at byte {position} is truncated")


def split_repeated(
    data: bytes,
    field: int,
    max_count: int,
    what: str,
    checkpoint: Callable[[], object] = lambda: None,
) -> tuple[list[tuple[int, int]], bytes]:
    """Return where the messages of a repeated field begin and end, and the bytes of other fields.

    `checkpoint` is called for each field. Raises MalformedProtobufError if `data` is not a message,
    or has more than `max_count` of `what`, or too many other bytes.
    """
    spans, others = [], bytearray()
    for number, begin, value, end in iter_fields(data):
        checkpoint()
        if number == field and value >= 0:
            spans.append((value, end))
        else:
            others += data[begin:end]
        if len(spans) > max_count:
            raise MalformedProtobufError(f"more than {max_count:,} {what}")
        if len(others) > _MAX_OTHER_BYTES:
            raise MalformedProtobufError(f"too many bytes outside of {what}")
    return spans, bytes(others)


def split_message(data: bytes, start: int, end: int, size: int) -> Iterator[tuple[bytes, int]]:
    """Split the message in `data[start:end]` between fields into parts of about `size` bytes.

    Yields each part and its number of fields; merging the parts into one object gives the message.
    Raises MalformedProtobufError if it is not a message, or a field exceeds twice the size.
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
