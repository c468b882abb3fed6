"""What the connection tests share: engines past their handshake, raw frames, a pair in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pytest

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2 import frames
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.events import Http2Event
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.http2.limits import Limits

REQUEST = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/echo.Echo/Say"),
    (b":authority", b"plugin.echo"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
RESPONSE = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS = ((b"grpc-status", b"0"),)

HeaderFields = Iterable[tuple[bytes, bytes]]


class Frame(NamedTuple):
    """A frame as a peer would see it."""

    type: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def last_word(self) -> int:
        """The last four bytes: an error code, a window's increment."""
        return int.from_bytes(self.payload[-4:], "big")


def parse_frames(data: bytes) -> list[Frame]:
    """Cut what an engine sent into frames, sharing no code with the engine's own reader."""
    data = data.removeprefix(frames.PREFACE)
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        stream_id = int.from_bytes(data[5:9], "big")
        assert len(data) >= 9 + length, "an engine never sends half a frame"
        found.append(Frame(data[3], data[4], stream_id, data[9 : 9 + length]))
        data = data[9 + length :]
    return found


def sent_frames(engine: GrpcConnection, *types: FrameType) -> list[Frame]:
    """Take the frames that `engine` sends, of these types if any are given."""
    return [f for f in parse_frames(engine.data_to_send()) if not types or f.type in types]


def data_frame(stream_id: int, payload: bytes = b"", *, end: bool = False, pad: int = 0) -> bytes:
    flags = frames.END_STREAM if end else 0
    if pad:
        flags, payload = flags | frames.PADDED, bytes((pad - 1,)) + payload + bytes(pad - 1)
    return frames.encode_frame(FrameType.DATA, flags, stream_id, payload)


def headers_frame(stream_id: int, fields: HeaderFields = REQUEST, *, end: bool = False) -> bytes:
    return headers_frame_of_block(stream_id, encoder.encode(fields), end=end)


def headers_frame_of_block(
    stream_id: int, block: bytes, *, end: bool = False, flags: int = 0
) -> bytes:
    flags |= frames.END_HEADERS | (frames.END_STREAM if end else 0)
    return frames.encode_frame(FrameType.HEADERS, flags, stream_id, block)


def make_server(
    limits: Limits | None = None, settings: Mapping[int, int] | None = None
) -> GrpcConnection:
    """A server that has read a client's preface, and whose own was taken away."""
    engine = GrpcConnection(Role.SERVER, limits)
    engine.receive_data(frames.PREFACE + frames.settings(settings or {}))
    engine.data_to_send()
    return engine


def make_client(
    limits: Limits | None = None, settings: Mapping[int, int] | None = None
) -> GrpcConnection:
    """A client that has read a server's preface, and whose own was taken away."""
    engine = GrpcConnection(Role.CLIENT, limits)
    engine.receive_data(frames.settings(settings or {}))
    engine.data_to_send()
    return engine


def make_client_with_request(
    limits: Limits | None = None, settings: Mapping[int, int] | None = None
) -> GrpcConnection:
    """A client with a request open on stream 1."""
    engine = make_client(limits, settings)
    send_request(engine)
    engine.data_to_send()
    return engine


def make_server_with_request(
    limits: Limits | None = None, settings: Mapping[int, int] | None = None
) -> GrpcConnection:
    """A server with a request open on stream 1."""
    engine = make_server(limits, settings)
    engine.receive_data(headers_frame(1))
    return engine


def send_request(engine: GrpcConnection, *, end: bool = False) -> int:
    return engine.open_stream(encoder.encode(REQUEST), end_stream=end)


def send_response(engine: GrpcConnection, stream_id: int = 1, *, end: bool = False) -> None:
    engine.send_headers(stream_id, encoder.encode(RESPONSE), end_stream=end)


def answers_ping(engine: GrpcConnection) -> bool:
    """Return whether the engine still answers, as it must after a stream error."""
    engine.data_to_send()
    engine.receive_data(frames.ping(b"are you?", ack=False))
    return sent_frames(engine) == [Frame(FrameType.PING, frames.ACK, 0, b"are you?")]


def parametrize_violations(*table: tuple[str, bytes, ErrorCode]) -> pytest.MarkDecorator:
    """Rows of (what the peer does, the bytes, the code) as parameters."""
    return pytest.mark.parametrize(
        ("received", "code"),
        [pytest.param(received, code, id=what) for what, received, code in table],
    )


class EnginePair:
    """A client and a server joined in memory."""

    def __init__(
        self, client_limits: Limits | None = None, server_limits: Limits | None = None
    ) -> None:
        self.client = GrpcConnection(Role.CLIENT, client_limits)
        self.server = GrpcConnection(Role.SERVER, server_limits)
        self.exchange()

    def exchange(self) -> tuple[list[Http2Event], list[Http2Event]]:
        """Exchange bytes until neither side sends more; return the events of client and server."""
        at_client: list[Http2Event] = []
        at_server: list[Http2Event] = []
        while True:
            up, down = self.client.data_to_send(), self.server.data_to_send()
            if not up and not down:
                return at_client, at_server
            at_server += self.server.receive_data(up)
            at_client += self.client.receive_data(down)
