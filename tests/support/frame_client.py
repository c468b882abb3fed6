"""A gRPC client that shows each frame it receives."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio
from echo.v1 import echo_pb2 as pb

from meshtrio.grpc.framing import frame_message
from meshtrio.http2 import frames
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.hpack import encoder

HEADERS, RST_STREAM, GOAWAY = 1, 3, 7


@attrs.frozen
class ReceivedFrame:
    kind: int
    stream: int
    payload: bytes

    @property
    def words(self) -> tuple[int, ...]:
        """The first two words of the payload, or the one it has: of GOAWAY and RST_STREAM."""
        words = self.payload[:8]
        return tuple(int.from_bytes(words[at : at + 4], "big") for at in range(0, len(words), 4))


@attrs.define
class FrameClient:
    """An HTTP/2 client that records the frames it receives."""

    sock: trio.socket.SocketType
    reader: FrameReader
    blocking_sock: socket.socket
    """The same socket, to send on at once."""
    received: list[ReceivedFrame] = attrs.field(factory=list)

    @classmethod
    def connect(cls, path: Path) -> FrameClient:
        """Connect without giving other tasks a turn, and send the preface."""
        plain = socket.socket(socket.AF_UNIX)
        plain.connect(str(path))
        plain.sendall(frames.PREFACE + frames.settings({}))
        plain.setblocking(False)
        reader = FrameReader(expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20)
        return cls(trio.socket.from_stdlib_socket(plain), reader, plain)

    async def start_call(self, stream: int, target: str | None = None) -> None:
        """Send the request of an Echo call, which goes to a plugin if it has a target."""
        await trio.lowlevel.checkpoint()
        self.start_call_now(stream, target)

    def start_call_now(self, stream: int, target: str | None = None) -> None:
        """Start a call as `begin` does, without a checkpoint."""
        block = encoder.encode(
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", b"/echo.v1.EchoService/Echo"),
                (b":authority", b"x"),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                *([] if target is None else [(b"x-mesh-target", target.encode())]),
            ]
        )
        data = frame_message(pb.EchoRequest(message="hi").SerializeToString())
        head = frames.encode_frame(HEADERS, frames.END_HEADERS, stream, block)
        self.blocking_sock.sendall(head + frames.encode_frame(0, frames.END_STREAM, stream, data))

    async def read_some(self) -> bool:
        """Record what is received next; False at the end of the connection."""
        data = await self.sock.recv(65536)
        for kind, _, stream, payload in self.reader.feed(data):
            self.received.append(ReceivedFrame(kind, stream, bytes(payload)))
        return bool(data)

    async def read_to_end(self) -> None:
        """Record what is received until the server closes the connection."""
        while await self.read_some():
            pass

    def frames_of_type(self, kind: int) -> list[ReceivedFrame]:
        """Give the frames of a kind, in the order that they came."""
        return [frame for frame in self.received if frame.kind == kind]


@asynccontextmanager
async def connect_frame_client(path: Path) -> AsyncIterator[FrameClient]:
    """Connect for the block."""
    await trio.lowlevel.checkpoint()
    client = FrameClient.connect(path)
    with client.sock:
        yield client
