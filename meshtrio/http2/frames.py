"""Layout and encoding of HTTP/2 frames, RFC 9113 §4 and §6."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""First bytes of a client, RFC 9113 §3.4."""

FRAME_HEADER_SIZE = 9
MAX_WINDOW_SIZE = 2**31 - 1
MAX_STREAM_ID = 2**31 - 1
DEFAULT_INITIAL_WINDOW_SIZE = 65_535
DEFAULT_MAX_FRAME_SIZE = 16_384
MAX_MAX_FRAME_SIZE = 2**24 - 1


class FrameType(IntEnum):
    """Frame types, RFC 9113 §6."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20


class Setting(IntEnum):
    """Parameters of the SETTINGS frame, RFC 9113 §6.5.2."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


# As integers, because looking up a member of an IntEnum is slow.
DATA, HEADERS, CONTINUATION = map(int, (FrameType.DATA, FrameType.HEADERS, FrameType.CONTINUATION))
_RST_STREAM, _WINDOW_UPDATE = int(FrameType.RST_STREAM), int(FrameType.WINDOW_UPDATE)
_PING = int(FrameType.PING)

# A frame header is a 24-bit length, type, flags and stream id; the length is read as 16 + 8 bits
# because struct has no 24-bit integer.
_HEADER = struct.Struct(">HBBBL")
unpack_frame_header = _HEADER.unpack_from
"""(length >> 8, length & 0xFF, type, flags, stream id with its reserved bit)."""
unpack_length_and_type = struct.Struct(">LBL").unpack_from
"""The same in three values, of which the first is the length and, in the lowest byte, the type."""
pack_frame_header = _HEADER.pack
"""Encodes the same five values; for code that runs for every frame, which saves a call by it."""

_U32 = struct.Struct(">L")
_TWO_U32 = struct.Struct(">LL")
_SETTING = struct.Struct(">HL")

read_u32 = _U32.unpack_from
read_two_u32 = _TWO_U32.unpack_from
iter_settings = _SETTING.iter_unpack
"""Iterates over (parameter, value) of a payload whose length is a multiple of six."""


def encode_frame(type_: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Encode a frame. The payload must not exceed the peer's maximum frame size."""
    length = len(payload)
    return pack_frame_header(length >> 8, length & 0xFF, type_, flags, stream_id) + payload


def encode_frame_header(length: int, type_: int, flags: int, stream_id: int) -> bytes:
    """Encode the header of a frame whose payload is sent as a separate buffer, uncopied."""
    return pack_frame_header(length >> 8, length & 0xFF, type_, flags, stream_id)


def encode_data_frames(
    stream_id: int, data: bytes | memoryview, flags: int, max_frame_size: int
) -> list[bytes | memoryview]:
    """Encode DATA frames as headers and payloads in turn; `flags` are those of the last one."""
    out: list[bytes | memoryview] = []
    view = memoryview(data)
    last = (len(view) - 1) // max_frame_size * max_frame_size
    for start in range(0, len(view), max_frame_size):
        payload = view[start : start + max_frame_size]
        frame_flags = flags if start == last else 0
        out += (encode_frame_header(len(payload), DATA, frame_flags, stream_id), payload)
    return out


def settings(values: Mapping[int, int]) -> bytes:
    """Encode SETTINGS."""
    payload = b"".join(_SETTING.pack(key, value) for key, value in values.items())
    return encode_frame(FrameType.SETTINGS, 0, 0, payload)


SETTINGS_ACK = encode_frame(FrameType.SETTINGS, ACK, 0)


def rst_stream(stream_id: int, error_code: int) -> bytes:
    """Encode RST_STREAM."""
    return encode_frame(_RST_STREAM, 0, stream_id, _U32.pack(error_code))


def window_update(stream_id: int, increment: int) -> bytes:
    """Encode WINDOW_UPDATE, for the connection if the stream id is 0."""
    return encode_frame(_WINDOW_UPDATE, 0, stream_id, _U32.pack(increment))


def ping(payload: bytes, *, ack: bool) -> bytes:
    """Encode PING with a payload of eight bytes."""
    return encode_frame(_PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int, error_code: int, debug_data: bytes = b"") -> bytes:
    """Encode GOAWAY."""
    payload = _TWO_U32.pack(last_stream_id, error_code) + debug_data
    return encode_frame(FrameType.GOAWAY, 0, 0, payload)


def encode_header_block(
    stream_id: int, block: bytes, *, end_stream: bool, max_frame_size: int
) -> bytes:
    """Encode HEADERS, and CONTINUATION if the block is longer than a frame (§4.3)."""
    flags, length = END_STREAM if end_stream else 0, len(block)
    if length <= max_frame_size:
        flags |= END_HEADERS
        return _HEADER.pack(length >> 8, length & 0xFF, HEADERS, flags, stream_id) + block
    pieces = [block[i : i + max_frame_size] for i in range(0, len(block), max_frame_size)]
    out = [encode_frame(HEADERS, flags, stream_id, pieces[0])]
    out += [encode_frame(CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1]]
    out.append(encode_frame(CONTINUATION, END_HEADERS, stream_id, pieces[-1]))
    return b"".join(out)
