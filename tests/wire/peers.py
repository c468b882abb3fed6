"""What the connection tests share: engines past their handshake, raw frames, a pair in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pytest

from meshtrio.wire import frames, hpack
from meshtrio.wire.connection import Connection, Role
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.events import Event
from meshtrio.wire.frames import FrameType
from meshtrio.wire.limits import Limits

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

Fields = Iterable[tuple[bytes, bytes]]


class Frame(NamedTuple):
    """A frame as a peer would see it."""

    type: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def number(self) -> int:
        """The last four bytes: an error code, a window's increment."""
        return int.from_bytes(self.payload[-4:], "big")


def cut(data: bytes) -> list[Frame]:
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


def sent(engine: Connection, *types: FrameType) -> list[Frame]:
    """Take what `engine` has to say; of these types only, where some are given."""
    return [f for f in cut(engine.data_to_send()) if not types or f.type in types]


def data(stream_id: int, payload: bytes = b"", *, end: bool = False, pad: int = 0) -> bytes:
    flags = frames.END_STREAM if end else 0
    if pad:
        flags, payload = flags | frames.PADDED, bytes((pad - 1,)) + payload + bytes(pad - 1)
    return frames.frame(FrameType.DATA, flags, stream_id, payload)


def headers(stream_id: int, fields: Fields = REQUEST, *, end: bool = False) -> bytes:
    return headers_of(stream_id, hpack.encode(fields), end=end)


def headers_of(stream_id: int, block: bytes, *, end: bool = False, flags: int = 0) -> bytes:
    flags |= frames.END_HEADERS | (frames.END_STREAM if end else 0)
    return frames.frame(FrameType.HEADERS, flags, stream_id, block)


def server(limits: Limits | None = None, settings: Mapping[int, int] | None = None) -> Connection:
    """A server that has read a client's preface, and whose own was taken away."""
    engine = Connection(Role.SERVER, limits)
    engine.receive_data(frames.PREFACE + frames.settings(settings or {}))
    engine.data_to_send()
    return engine


def client(limits: Limits | None = None, settings: Mapping[int, int] | None = None) -> Connection:
    """A client that has read a server's preface, and whose own was taken away."""
    engine = Connection(Role.CLIENT, limits)
    engine.receive_data(frames.settings(settings or {}))
    engine.data_to_send()
    return engine


def calling_client(
    limits: Limits | None = None, settings: Mapping[int, int] | None = None
) -> Connection:
    """A client with a request open on stream 1."""
    engine = client(limits, settings)
    open_stream(engine)
    engine.data_to_send()
    return engine


def serving_server(
    limits: Limits | None = None, settings: Mapping[int, int] | None = None
) -> Connection:
    """A server with a request open on stream 1."""
    engine = server(limits, settings)
    engine.receive_data(headers(1))
    return engine


def open_stream(engine: Connection, *, end: bool = False) -> int:
    return engine.open_stream(hpack.encode(REQUEST), end_stream=end)


def respond(engine: Connection, stream_id: int = 1, *, end: bool = False) -> None:
    engine.send_headers(stream_id, hpack.encode(RESPONSE), end_stream=end)


def is_alive(engine: Connection) -> bool:
    """Whether the engine still answers, as it must after an error that cost one stream only."""
    engine.data_to_send()
    engine.receive_data(frames.ping(b"are you?", ack=False))
    return sent(engine) == [Frame(FrameType.PING, frames.ACK, 0, b"are you?")]


def rows(*table: tuple[str, bytes, ErrorCode]) -> pytest.MarkDecorator:
    """Rows of (what the peer does, the bytes, the code) as parameters."""
    return pytest.mark.parametrize(
        ("said", "code"), [pytest.param(said, code, id=what) for what, said, code in table]
    )


class Pair:
    """A client and a server joined in memory."""

    def __init__(
        self, client_limits: Limits | None = None, server_limits: Limits | None = None
    ) -> None:
        self.client = Connection(Role.CLIENT, client_limits)
        self.server = Connection(Role.SERVER, server_limits)
        self.exchange()

    def exchange(self) -> tuple[list[Event], list[Event]]:
        """Carry bytes both ways until neither has more to say; give (client's, server's) events."""
        at_client: list[Event] = []
        at_server: list[Event] = []
        while True:
            up, down = self.client.data_to_send(), self.server.data_to_send()
            if not up and not down:
                return at_client, at_server
            at_server += self.server.receive_data(up)
            at_client += self.client.receive_data(down)
