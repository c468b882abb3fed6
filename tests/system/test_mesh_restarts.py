"""Calls through the gateway when the mesh stops, is started again, or has to renew its socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import grpc
import trio
from echo.v1 import echo_pb2 as pb

from meshtrio.wire import frames, hpack
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.framing import FrameReader
from meshtrio.wire.grpc import frame_message
from tests.meshes import running
from tests.programs import echo, plugin, served, until
from tests.system.test_grpcio import GrpcioStub

HEADERS, RST_STREAM, GOAWAY = 1, 3, 7
RESTARTS = 4
WORKERS = 4
NEVER_READY = plugin("echo", "-c", "import time; time.sleep(600)", ready_timeout=600.0)
TARGET = [("x-mesh-target", "plugin.echo")]


@attrs.frozen
class Frame:
    kind: int
    stream: int
    payload: bytes


@attrs.define
class RawClient:
    """An HTTP/2 client that records the frames it receives."""

    sock: trio.socket.SocketType
    reader: FrameReader
    received: list[Frame] = attrs.field(factory=list)

    async def begin(self, stream: int) -> None:
        block = hpack.encode(
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", b"/echo.v1.EchoService/Echo"),
                (b":authority", b"x"),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                (b"x-mesh-target", b"plugin.echo"),
            ]
        )
        data = frame_message(pb.EchoRequest(message="hi").SerializeToString())
        head = frames.frame(HEADERS, frames.END_HEADERS, stream, block)
        await self.sock.send(head + frames.frame(0, frames.END_STREAM, stream, data))

    async def read_to_end(self) -> None:
        while data := await self.sock.recv(65536):
            for kind, _, stream, payload in self.reader.feed(data):
                self.received.append(Frame(kind, stream, bytes(payload)))

    def of(self, kind: int) -> list[Frame]:
        return [frame for frame in self.received if frame.kind == kind]


@asynccontextmanager
async def raw_client(path: Path) -> AsyncIterator[RawClient]:
    with trio.socket.socket(socket.AF_UNIX) as sock:
        await sock.connect(str(path))
        await sock.send(frames.PREFACE + frames.settings({}))
        reader = FrameReader(expect_preface=False, max_frame_size=2**24 - 1, max_block_size=2**20)
        yield RawClient(sock, reader)


async def test_a_call_that_waits_for_an_instance_is_refused_when_the_mesh_stops(
    short_dir: Path,
) -> None:
    async with running(NEVER_READY, short_dir) as watched:
        path = watched.mesh.socket
        async with raw_client(path) as client, raw_client(path) as late, trio.open_nursery() as n:
            for stream in (1, 3, 5):
                await client.begin(stream)
            await trio.testing.wait_all_tasks_blocked(0.05)
            # What has not even been read when the mesh stops is above the last stream id.
            n.cancel_scope.shield = True
            n.start_soon(client.read_to_end)
            n.start_soon(late.read_to_end)
            watched.stop()
    resets = {reset.stream: int.from_bytes(reset.payload, "big") for reset in client.of(RST_STREAM)}
    assert resets == dict.fromkeys((1, 3, 5), ErrorCode.REFUSED_STREAM)
    assert client.of(HEADERS) == []
    for each in (client, late):
        goaways = each.of(GOAWAY)
        assert goaways
        assert {int.from_bytes(goaway.payload[:4], "big") for goaway in goaways} == {0}
        assert {int.from_bytes(goaway.payload[4:8], "big") for goaway in goaways} == {0}


def _keep_calling(path: Path, stop: threading.Event, failures: list[str], done: list[int]) -> None:
    with grpc.insecure_channel(f"unix:{path}", options=_RECONNECT) as channel:
        stub = GrpcioStub(channel)
        while not stop.is_set():
            try:
                request = pb.EchoRequest(message="hi")
                stub.Echo(request, timeout=120, wait_for_ready=True, metadata=TARGET)
                done.append(1)
            except grpc.RpcError as exc:
                failures.append(f"{exc.code()}: {exc.details()}")


_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),
]


def test_no_call_of_a_foreign_client_is_lost_when_the_mesh_is_started_again(
    short_dir: Path,
) -> None:
    stop, failures, done = threading.Event(), [], []  # type: ignore[var-annotated]
    path = short_dir / "run" / "mesh.sock"
    workers = [
        threading.Thread(target=_keep_calling, args=(path, stop, failures, done))
        for _ in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    try:
        for _ in range(RESTARTS):
            with served(short_dir, echo()) as mesh:
                # As soon as there are calls, whether its plugin is quite ready or not.
                before = len(done)
                until(lambda before=before: len(done) > before + 20)  # type: ignore[misc]
                assert mesh.stop() == 0
        with served(short_dir, echo()):
            before = len(done)
            until(lambda: len(done) > before + 20)
            stop.set()
            for worker in workers:
                worker.join()
    finally:
        stop.set()
        for worker in workers:
            worker.join(150)
    assert failures == []


def test_calls_outlive_the_renewal_of_the_mesh_socket(short_dir: Path) -> None:
    with served(short_dir, echo(), ready=1) as mesh:
        words: list[str] = []
        more = threading.Semaphore(0)

        def requests() -> Iterator[pb.EchoRequest]:
            for number in range(4):
                more.acquire()
                yield pb.EchoRequest(message=str(number))

        with grpc.insecure_channel(f"unix:{mesh.socket}") as channel:
            replies = GrpcioStub(channel).Chat(requests(), timeout=120, metadata=TARGET)
            for number in range(4):
                more.release()
                words.append(next(replies).message)
                if number == 3:
                    break
                inode = mesh.socket.stat().st_ino
                os.unlink(mesh.socket)
                until(lambda: mesh.socket.exists())
                assert mesh.socket.stat().st_ino != inode
                # New connections are accepted on the new socket.
                assert mesh.run("ps").returncode == 0
            assert list(replies) == []
            assert words == ["0", "1", "2", "3"]
        assert mesh.stop() == 0
