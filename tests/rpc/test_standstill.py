"""A process that was suspended does not take its peers for dead."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshtrio.client.channel import connect_to
from meshtrio.http2 import frames
from meshtrio.rpc.server import Server
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.transport.listener import unix_listener
from tests.support.connection_pairs import CallbackServicer
from tests.support.frame_client import GOAWAY, FrameClient

PING = 6
TIMES = Timeouts(keepalive_time=20, keepalive_timeout=10)
CLIENTS = 20
STOOD_STILL = 100.0
ACK = frames.ping(b"alive?..", ack=True)


async def pass_time(clock: MockClock, seconds: int) -> None:
    for _ in range(seconds):
        clock.jump(1)
        await wait_all_tasks_blocked(0.001)


async def test_a_server_reads_first_what_clients_have_sent(
    short_dir: Path, mock_clock: MockClock
) -> None:
    path = short_dir / "s"
    server = Server(CallbackServicer(), timeouts=TIMES)
    with unix_listener(path) as listener, ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listener)
            clients = [FrameClient.connect(path) for _ in range(CLIENTS)]
            for client in clients:
                stack.enter_context(client.blocking_sock)
            await pass_time(mock_clock, 22)
            for client in clients:
                while not client.frames_of_type(PING):
                    await client.read_some()
            for client in clients:
                client.blocking_sock.sendall(ACK)
            mock_clock.jump(STOOD_STILL)
            await wait_all_tasks_blocked(0.001)
            await pass_time(mock_clock, 3)
            assert len(server.connections) == CLIENTS
            # A client that does not answer is still found.
            await pass_time(mock_clock, 40)
            assert not server.connections
            for client in clients:
                await client.read_to_end()
                assert client.frames_of_type(GOAWAY)
            nursery.cancel_scope.cancel()


async def test_a_client_reads_first_what_servers_have_sent(
    short_dir: Path, mock_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery, trio.open_nursery() as listening:
        servers: list[trio.SocketStream] = []
        pings: dict[trio.SocketStream, trio.Event] = {}

        async def accept(stream: trio.SocketStream) -> None:
            servers.append(stream)
            pings[stream] = trio.Event()
            await stream.send_all(frames.settings({}))
            seen = b""
            while data := await stream.receive_some(65536):
                seen += data
                if b"alive?.." in seen:
                    pings[stream].set()

        paths = [short_dir / str(number) for number in range(CLIENTS)]
        with ExitStack() as stack:
            for path in paths:
                sock = stack.enter_context(unix_listener(path))
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
                await listening.start(partial(trio.serve_listeners, accept, [listener]))
            for path in paths:
                channel = connect_to(f"unix:{path}", timeouts=TIMES)
                nursery.start_soon(_hold_connection, channel)
            while len(servers) < CLIENTS:
                await pass_time(mock_clock, 1)
            await pass_time(mock_clock, 22)
            for stream in servers:
                await pings[stream].wait()
            for stream in servers:
                stream.socket._sock.send(ACK)
            mock_clock.jump(STOOD_STILL)
            await wait_all_tasks_blocked(0.001)
            await pass_time(mock_clock, 3)
            assert len(servers) == CLIENTS, "a client has connected again"
            nursery.cancel_scope.cancel()
            listening.cancel_scope.cancel()


async def _hold_connection(channel: object) -> None:
    async with channel:  # type: ignore[attr-defined]
        await trio.sleep_forever()
