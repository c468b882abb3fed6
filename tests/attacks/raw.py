"""A client that speaks bytes of HTTP/2: for what no well-behaved client would send."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.frames import FrameType, Setting
from meshtrio.http2.hpack import encoder

SERVICE = "echo.v1.EchoService"
AUTHORITY = "plugin.echo"
"""The service that a gateway passes the calls of attacks on to."""


def encode_request_headers(path: str, **more: str) -> bytes:
    """Encode the header block of a call of `path`; `more` is metadata.

    Calls of SERVICE go to AUTHORITY, others to the server that they are sent to.
    """
    authority = AUTHORITY if path.startswith(f"/{SERVICE}/") else "localhost"
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    fields += [(key.replace("_", "-").encode(), value.encode()) for key, value in more.items()]
    return encoder.encode(fields)


def encode_message(payload: bytes, *, compressed: bool = False) -> bytes:
    """Add the five bytes that gRPC puts before a message."""
    return bytes([compressed]) + len(payload).to_bytes(4, "big") + payload


def headers_frames(stream_id: int, block: bytes, *, end: bool = False) -> bytes:
    return frames.encode_header_block(stream_id, block, end_stream=end, max_frame_size=16_384)


def data_frames(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    """Build DATA frames of at most 16 KiB each."""
    pieces = [payload[i : i + 16_384] for i in range(0, len(payload), 16_384)] or [b""]
    built = [frames.encode_frame(FrameType.DATA, 0, stream_id, piece) for piece in pieces[:-1]]
    built.append(frames.encode_frame(FrameType.DATA, int(end), stream_id, pieces[-1]))
    return b"".join(built)


class RawConnection:
    """One connection, with the windows that the server has granted."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.closed = False
        self.goaway = ""
        """The error code of the server's GOAWAY, if it has sent one."""
        self.reset_streams: set[int] = set()
        """Streams that the server has reset."""
        self.answers = 0
        """Header blocks that the server has sent."""
        self._initial = frames.DEFAULT_INITIAL_WINDOW_SIZE
        self._connection = frames.DEFAULT_INITIAL_WINDOW_SIZE
        self._streams: defaultdict[int, int] = defaultdict(int)
        self._sending = trio.Lock()
        self._changed = trio.Event()
        self._reading = trio.CancelScope()
        self._reader = FrameReader(
            expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20
        )

    async def send(self, raw: bytes) -> None:
        """Send it all. Raises OSError once the server has closed the connection."""
        view = memoryview(raw)
        async with self._sending:
            while view:
                view = view[await self.sock.send(view) :]

    async def send_data(self, stream_id: int, payload: bytes, *, end: bool = False) -> None:
        """Send DATA as the windows allow, until the server resets the stream."""
        view = memoryview(payload)
        while view and stream_id not in self.reset_streams:
            room = min(self.send_window(stream_id), 16_384 * 16)
            if room <= 0:
                await self.wait_for_change()
                continue
            piece = bytes(view[:room])
            view = view[room:]
            self.consume_window(stream_id, len(piece))
            await self.send(data_frames(stream_id, piece, end=end and not view))

    def send_window(self, stream_id: int) -> int:
        """Return how many bytes of DATA may be sent on a stream."""
        return min(self._connection, self._initial + self._streams[stream_id])

    def consume_window(self, stream_id: int, count: int) -> None:
        self._connection -= count
        self._streams[stream_id] -= count

    async def wait_for_change(self) -> None:
        """Wait until the server has sent something. Raises BrokenPipeError once it has closed."""
        if self.closed:
            raise BrokenPipeError("the server has closed the connection")
        await self._changed.wait()

    def stop_reading(self) -> None:
        """Read no more."""
        self._reading.cancel()

    async def read(self) -> None:
        """Read what the server sends until it closes."""
        try:
            with self._reading:
                while received := await self.sock.recv(262_144):
                    for frame in self._reader.feed(received):
                        self._on_frame(*frame)
                    self._notify()
                return
            await trio.sleep_forever()
        except OSError:
            pass
        finally:
            self.closed = True
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == FrameType.WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if stream_id:
                self._streams[stream_id] += increment
            else:
                self._connection += increment
        elif kind == FrameType.SETTINGS and not flags & frames.ACK:
            settings = dict(frames.iter_settings(payload))
            self._initial = settings.get(Setting.INITIAL_WINDOW_SIZE, self._initial)
        elif kind == FrameType.GOAWAY:
            self.goaway = ErrorCode(int.from_bytes(payload[4:8], "big")).name
        elif kind == FrameType.RST_STREAM:
            self.reset_streams.add(stream_id)
        elif kind == FrameType.HEADERS:
            self.answers += 1


@asynccontextmanager
async def connect_raw(
    address: str, settings: dict[int, int] | None = None
) -> AsyncIterator[RawConnection]:
    """Open a connection for the block."""
    with trio.socket.socket(socket.AF_UNIX) as sock:
        await sock.connect(path_of(address))
        connection = RawConnection(sock)
        await connection.send(frames.PREFACE + frames.settings(settings or {}))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.read)
            yield connection
            nursery.cancel_scope.cancel()


def path_of(address: str) -> str:
    """Return the path of a `unix:` address."""
    return address.removeprefix("unix:").removeprefix("//")


async def run_concurrently(count: int, attack: Any, *arguments: Any) -> None:
    """Run `attack` `count` times at once; what the server refuses ends that one only."""

    async def one() -> None:
        try:
            await attack(*arguments)
        except* OSError:
            pass

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
