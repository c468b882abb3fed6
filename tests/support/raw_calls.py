"""The frames of calls, for clients that speak bytes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.http2.hpack.decoder import HeaderDecoder
from tests.support.connection_pairs import RawPeer
from tests.support.gateways import GatewayHarness

ECHO_PATH = b"/echo.v1.EchoService/Echo"


def request_headers_frame(
    stream_id: int, *extra: tuple[bytes, bytes], path: bytes = ECHO_PATH
) -> bytes:
    """HEADERS of a call, with more fields if wanted."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    block = encoder.encode([*fields, *extra])
    return frames.encode_header_block(stream_id, block, end_stream=False, max_frame_size=16_384)


def message_data_frames(
    stream_id: int, message: bytes, *, end: bool = False, compressed: bool = False
) -> bytes:
    """DATA of one message, in frames of 16 KiB at most."""
    raw = bytes([compressed]) + len(message).to_bytes(4, "big") + message
    pieces = [raw[i : i + 16_384] for i in range(0, len(raw), 16_384)]
    built = [frames.encode_frame(FrameType.DATA, 0, stream_id, piece) for piece in pieces[:-1]]
    flags = frames.END_STREAM if end else 0
    return b"".join([*built, frames.encode_frame(FrameType.DATA, flags, stream_id, pieces[-1])])


def reset_requests(count: int) -> bytes:
    ids = range(1, 2 * count, 2)
    return b"".join(request_headers_frame(n) + frames.rst_stream(n, ErrorCode.CANCEL) for n in ids)


async def attack_and_read_goaway(path: Path, attack: bytes) -> str:
    """Connect, send it, and give the reason of the GOAWAY; "" if the connection still works."""
    reader = FrameReader(expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20)
    probe = frames.ping(b"8 bytes!", ack=False)
    async with await trio.open_unix_socket(path) as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(frames.PREFACE + frames.settings({}) + attack + probe)
        with trio.fail_after(60):
            while data := await stream.receive_some(65536):
                for kind, flags, _, payload in reader.feed(data):
                    if kind == FrameType.GOAWAY:
                        assert int.from_bytes(payload[4:8], "big") == ErrorCode.ENHANCE_YOUR_CALM
                        return payload[8:].decode()
                    if kind == FrameType.PING and flags == frames.ACK:
                        return ""
        raise AssertionError("closed without a reason")


def encode_request_headers(method: str, *more: tuple[bytes, bytes]) -> bytes:
    return encoder.encode(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/echo.v1.EchoService/" + method.encode()),
            (b":authority", b"x"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *more,
        ]
    )


@asynccontextmanager
async def connect_raw_socket(behind: GatewayHarness) -> AsyncIterator[trio.socket.SocketType]:
    with trio.socket.socket(socket.AF_UNIX) as sock:
        await sock.connect(str(behind.folder / "mesh.sock"))
        await send_all(sock, frames.PREFACE + frames.settings({}))
        yield sock


async def send_all(sock: trio.socket.SocketType, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[await sock.send(view) :]


def decode_sent_headers(peer: RawPeer) -> list[tuple[bytes, bytes]]:
    """The fields of all header blocks that the server has sent since the last time."""
    decoder = HeaderDecoder(2**20)
    return [
        field
        for kind, _, stream_id, payload in peer.read_frames()
        if kind == FrameType.HEADERS and stream_id
        for field in decoder.decode(payload, tuple)
    ]
