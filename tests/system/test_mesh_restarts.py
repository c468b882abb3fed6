"""Calls through the gateway when the mesh stops, is started again, or has to renew its socket."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import grpc
import purerpc
import trio
from echo.v1 import echo_pb2 as pb
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.client.channel import connect_to
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.server import Server
from meshtrio.transport.listener import unix_listener
from tests.support.connection_pairs import CallbackServicer
from tests.support.frame_client import GOAWAY, HEADERS, RST_STREAM, connect_frame_client
from tests.support.grpcio_methods import make_echo_method
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import (
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    wait_for_server,
    wait_until,
)
from tests.tools import find_tool

RESTARTS = RENEWALS = 4
WORKERS = 4
NEVER_READY = plugin_table("echo", "-c", "import time; time.sleep(600)", ready_timeout=600.0)
TARGET = [("x-mesh-target", "plugin.echo")]


async def test_a_call_that_waits_for_an_instance_is_refused_when_the_mesh_stops(
    short_dir: Path,
) -> None:
    async with run_mesh(NEVER_READY, short_dir) as watched:
        path = watched.mesh.socket
        async with (
            connect_frame_client(path) as client,
            connect_frame_client(path) as late,
            trio.open_nursery() as n,
        ):
            for stream in (1, 3, 5):
                await client.start_call(stream, "plugin.echo")
            await trio.testing.wait_all_tasks_blocked(0.05)
            # What has not even been read when the mesh stops is above the last stream id.
            n.cancel_scope.shield = True
            n.start_soon(client.read_to_end)
            n.start_soon(late.read_to_end)
            watched.stop()
    resets = {reset.stream: reset.words for reset in client.frames_of_type(RST_STREAM)}
    assert resets == dict.fromkeys((1, 3, 5), (ErrorCode.REFUSED_STREAM,))
    assert client.frames_of_type(HEADERS) == []
    for each in (client, late):
        # The last stream that was processed, and NO_ERROR.
        assert {goaway.words for goaway in each.frames_of_type(GOAWAY)} == {(0, 0)}


_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),
]


@attrs.define
class Callers:
    """Threads that call through the gateway all the time, as grpcio does."""

    path: Path
    done: list[int] = attrs.field(factory=lambda: [0] * WORKERS)
    """Number of calls that each thread has made."""
    failures: list[str] = attrs.field(factory=list)
    stop: threading.Event = attrs.field(factory=threading.Event)

    def call(self, number: int) -> None:
        with grpc.insecure_channel(f"unix:{self.path}", options=_RECONNECT) as channel:
            call = make_echo_method(channel, "unary_unary", "Echo")
            while not self.stop.is_set():
                try:
                    request = pb.EchoRequest(message="hi")
                    call(request, timeout=120, wait_for_ready=True, metadata=TARGET)
                    self.done[number] += 1
                except grpc.RpcError as exc:
                    self.failures.append(f"{exc.code()}: {exc.details()}")

    def go_on(self) -> None:
        """Wait until each thread has made some more calls.

        A call that the second mesh in a row refuses fails: gRPC's core repeats a call that was sent
        and not processed once (gRFC A6).
        """
        before = self.done.copy()
        wait_until(lambda: all(now > then + 4 for now, then in zip(self.done, before, strict=True)))


@contextmanager
def call_repeatedly(path: Path) -> Iterator[Callers]:
    """Call during the block; none of the calls may fail."""
    callers = Callers(path)
    threads = [threading.Thread(target=callers.call, args=[n]) for n in range(WORKERS)]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        callers.stop.set()
        for thread in threads:
            thread.join(150)
    assert callers.failures == []


def test_no_call_of_a_foreign_client_is_lost_when_the_mesh_is_started_again(
    short_dir: Path,
) -> None:
    with ExitStack() as last:
        with call_repeatedly(short_dir / "run" / "mesh.sock") as callers:
            for _ in range(RESTARTS):
                with serve_mesh(short_dir, echo_plugin_table()) as mesh:
                    # As soon as there are calls, whether its plugin is quite ready or not.
                    callers.go_on()
                    assert mesh.stop() == 0
            last.enter_context(serve_mesh(short_dir, echo_plugin_table()))
            callers.go_on()


def test_no_call_of_a_foreign_client_is_lost_when_the_mesh_socket_is_renewed(
    short_dir: Path,
) -> None:
    with (
        serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh,
        call_repeatedly(mesh.socket) as callers,
    ):
        for _ in range(RENEWALS):
            callers.go_on()
            mesh.socket.unlink()
            wait_for_server(mesh.socket)
        callers.go_on()


def test_calls_outlive_the_renewal_of_the_mesh_socket(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        words: list[str] = []
        more = threading.Semaphore(0)

        def requests() -> Iterator[pb.EchoRequest]:
            for number in range(4):
                more.acquire()
                yield pb.EchoRequest(message=str(number))

        with grpc.insecure_channel(f"unix:{mesh.socket}") as channel:
            chat = make_echo_method(channel, "stream_stream", "Chat")
            replies = chat(requests(), timeout=120, metadata=TARGET)
            for number in range(4):
                more.release()
                words.append(next(replies).message)
                if number == 3:
                    break
                inode = mesh.socket.stat().st_ino
                os.unlink(mesh.socket)
                wait_for_server(mesh.socket)
                assert mesh.socket.stat().st_ino != inode
                # New connections are accepted on the new socket.
                assert mesh.run_command("ps").returncode == 0
            assert list(replies) == []
            assert words == ["0", "1", "2", "3"]
        assert mesh.stop() == 0


@asynccontextmanager
async def stop_during_call(
    folder: Path, drain_timeout: float
) -> AsyncIterator[tuple[trio.Event, list[str]]]:
    """Stop a mesh during a call to a service that it does not run; yields what ends the call."""
    begun, ended, release, results = trio.Event(), trio.Event(), trio.Event(), list[str]()

    async def hold(message: pb.EchoRequest) -> pb.EchoReply:
        begun.set()
        await release.wait()
        return pb.EchoReply(message=message.message)

    config = f"[mesh.gateway]\ndrain_timeout = {drain_timeout}\n"
    async with run_mesh(config, folder) as watched:
        with trio.CancelScope(shield=True), unix_listener(folder / "outside") as listener:
            async with trio.open_nursery() as serving:
                await serving.start(Server(CallbackServicer(Echo=hold)).serve, listener)
                async with (
                    connect_to(f"unix:{watched.mesh.socket}") as channel,
                    trio.open_nursery() as nursery,
                ):
                    with watched.mesh.register("outside", f"unix:{folder / 'outside'}"):

                        @nursery.start_soon
                        async def call() -> None:
                            try:
                                stub = channel.stub(EchoServiceStub)
                                target = [("x-mesh-target", "outside")]
                                request = pb.EchoRequest(message="hi")
                                reply = await stub.Echo(request, metadata=target)
                                results.append(reply.message)
                            except purerpc.RpcFailedError as exc:
                                results.append(str(exc.status))
                            finally:
                                ended.set()

                        await begun.wait()
                        watched.stop()
                        yield release, results
                        await ended.wait()
                serving.cancel_scope.cancel()


def accepts_connections(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True


async def test_a_call_to_a_service_outside_may_end_when_the_mesh_stops(short_dir: Path) -> None:
    async with stop_during_call(short_dir, 600.0) as (release, results):
        while accepts_connections(short_dir / "run" / "mesh.sock"):  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert results == []
        release.set()
    assert results == ["hi"]


async def test_a_call_to_a_service_outside_is_ended_when_its_time_is_over(short_dir: Path) -> None:
    async with stop_during_call(short_dir, 0.1) as (_, results):
        pass
    (result,) = results
    assert "UNAVAILABLE" in result
    assert "the mesh stopped during the call" in result


def test_a_call_of_grpc_go_outlives_the_renewal_of_the_mesh_socket(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        target = ["-H", "x-mesh-target: plugin.echo", f"unix://{mesh.socket}"]
        command = [
            find_tool("grpcurl"),
            "-plaintext",
            "-d",
            "@",
            *target,
            "echo.v1.EchoService/Chat",
        ]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b'{"message": "before"}')
            process.stdin.flush()
            while b"before" not in process.stdout.readline():
                assert process.poll() is None
            mesh.socket.unlink()
            wait_for_server(mesh.socket)
            rest, _ = process.communicate(b'{"message": "after"}', timeout=120)
            assert b"after" in rest
            assert process.returncode == 0
