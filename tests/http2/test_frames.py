"""Frames byte for byte.

The other tests build what a peer says with these same builders, so they are held to RFC 9113 here.
"""

from __future__ import annotations

import pytest

from meshtrio.http2 import frames
from meshtrio.http2.frames import FrameType, Setting

BUILT = {
    "empty": (frames.encode_frame(FrameType.DATA, 0, 1), "000000 00 00 00000001"),
    "all of a header": (
        frames.encode_frame(0xFE, 0xFF, 2**31 - 1, b"x"),
        "000001 fe ff 7fffffff 78",
    ),
    "long": (frames.encode_frame_header(0x123456, 0, 0, 1), "123456 00 00 00000001"),
    "DATA, the end": (
        frames.encode_frame(FrameType.DATA, frames.END_STREAM, 3, b"hi"),
        "000002 00 01 00000003 6869",
    ),
    "DATA, padded": (
        frames.encode_frame(FrameType.DATA, frames.PADDED, 3, b"\0"),
        "000001 00 08 00000003 00",
    ),
    "HEADERS": (
        frames.encode_header_block(1, b"\x88", end_stream=False, max_frame_size=1),
        "000001 01 04 00000001 88",
    ),
    "HEADERS, the end": (
        frames.encode_header_block(1, b"\x88", end_stream=True, max_frame_size=1),
        "000001 01 05 00000001 88",
    ),
    "HEADERS and CONTINUATION": (
        frames.encode_header_block(1, b"abcde", end_stream=True, max_frame_size=2),
        "000002 01 01 00000001 6162 000002 09 00 00000001 6364 000001 09 04 00000001 65",
    ),
    "HEADERS with priority": (
        frames.encode_frame(
            FrameType.HEADERS, frames.HAS_PRIORITY | frames.END_HEADERS, 1, bytes(5)
        ),
        "000005 01 24 00000001 0000000000",
    ),
    "RST_STREAM": (frames.rst_stream(5, 8), "000004 03 00 00000005 00000008"),
    "SETTINGS": (
        frames.settings({Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: 65_535}),
        "00000c 04 00 00000000 0002 00000000 0004 0000ffff",
    ),
    "SETTINGS ACK": (frames.SETTINGS_ACK, "000000 04 01 00000000"),
    "PING": (
        frames.ping(b"\1\2\3\4\5\6\7\10", ack=False),
        "000008 06 00 00000000 0102030405060708",
    ),
    "PING ACK": (frames.ping(bytes(8), ack=True), "000008 06 01 00000000 0000000000000000"),
    "GOAWAY": (frames.goaway(7, 2, b"why"), "00000b 07 00 00000000 00000007 00000002 776879"),
    "WINDOW_UPDATE": (frames.window_update(0, 2**31 - 1), "000004 08 00 00000000 7fffffff"),
}


@pytest.mark.parametrize("name", BUILT)
def test_frames_byte_for_byte(name):
    built, expected = BUILT[name]
    assert built == bytes.fromhex(expected)


FRAME_TYPES = """
    DATA HEADERS PRIORITY RST_STREAM SETTINGS PUSH_PROMISE PING GOAWAY WINDOW_UPDATE CONTINUATION
"""
SETTINGS_FROM_ONE = """
    HEADER_TABLE_SIZE ENABLE_PUSH MAX_CONCURRENT_STREAMS INITIAL_WINDOW_SIZE MAX_FRAME_SIZE
    MAX_HEADER_LIST_SIZE
"""


def test_the_numbers_of_rfc_9113():
    assert frames.PREFACE == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert {t.name: t.value for t in FrameType} == numbered(FRAME_TYPES, 0)
    assert {s.name: s.value for s in Setting} == numbered(SETTINGS_FROM_ONE, 1)


def numbered(names: str, start: int) -> dict[str, int]:
    return {name: number for number, name in enumerate(names.split(), start)}


def test_settings_are_read_as_they_were_written():
    values = {1: 0, 3: 2**32 - 1, 0xFFFF: 5}
    assert dict(frames.iter_settings(frames.settings(values)[9:])) == values
