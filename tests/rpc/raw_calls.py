"""The frames of calls, for clients that speak bytes."""

from __future__ import annotations

from meshtrio.wire import frames, hpack
from meshtrio.wire.frames import FrameType

ECHO = b"/echo.v1.EchoService/Echo"


def head_frame(stream_id: int, *extra: tuple[bytes, bytes], path: bytes = ECHO) -> bytes:
    """HEADERS of a call, with more fields if wanted."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    block = hpack.encode([*fields, *extra])
    return frames.header_frames(stream_id, block, end_stream=False, max_size=16_384)


def message_frames(
    stream_id: int, message: bytes, *, end: bool = False, compressed: bool = False
) -> bytes:
    """DATA of one message, in frames of 16 KiB at most."""
    raw = bytes([compressed]) + len(message).to_bytes(4, "big") + message
    pieces = [raw[i : i + 16_384] for i in range(0, len(raw), 16_384)]
    built = [frames.frame(FrameType.DATA, 0, stream_id, piece) for piece in pieces[:-1]]
    flags = frames.END_STREAM if end else 0
    return b"".join([*built, frames.frame(FrameType.DATA, flags, stream_id, pieces[-1])])
