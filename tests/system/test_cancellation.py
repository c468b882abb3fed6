"""One cancellation model: the caller's scope and deadline end the handler in another process."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import plugin_table
from tests.support.scheduling_delay import SchedulingDelay

CHAIN = plugin_table("chain", "echo_chain.py")


@asynccontextmanager
async def chained(config: str, folder: Path) -> AsyncIterator[tuple[RecordedMesh, Any]]:
    async with run_mesh(config, folder) as watched:
        async with watched.mesh.connect("plugin.chain") as channel:
            yield watched, channel.stub(EchoServiceStub)


async def test_the_handler_is_cancelled_and_no_stream_is_left(short_dir: Path) -> None:
    with SchedulingDelay() as late:
        async with chained(CHAIN, short_dir) as (watched, stub):
            await stub.Echo(EchoRequest(message="ready"))
            with trio.move_on_after(0.2) as scope:
                await stub.Slow(SlowRequest(message="never", seconds=60))
            returned = trio.current_time()
            assert scope.cancelled_caught
            cancelled = await watched.wait_for_event(events.LineWritten, line="slow cancelled")
            assert cancelled.time - returned < 0.1 + late.allowance
            assert (await stub.Echo(EchoRequest(message="streams"))).message == "0 0"
            objects = gc.get_objects()
            clients = [c for c in objects if isinstance(c, ClientConnection) and not c.closed]
            assert [len(client.streams) for client in clients] == [0] * len(clients)
            assert [client._engine.open_stream_count for client in clients] == [0] * len(clients)


async def test_cancelling_without_a_deadline_resets_the_stream(short_dir: Path) -> None:
    with SchedulingDelay() as late:
        async with chained(CHAIN, short_dir) as (watched, stub):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stub.Slow, SlowRequest(message="never", seconds=60))
                await watched.wait_for_event(events.LineWritten, line="slow begins")
                nursery.cancel_scope.cancel()
                cancelled_at = trio.current_time()
            seen = await watched.wait_for_event(events.LineWritten, line="slow cancelled")
            assert seen.time - cancelled_at < 0.1 + late.allowance


@pytest.mark.parametrize(
    ("callers", "plugins"), [(1.0, 30.0), (30.0, 1.0)], ids=["callers-first", "plugins-first"]
)
async def test_the_shorter_deadline_reaches_the_second_plugin(
    callers: float, plugins: float, short_dir: Path
) -> None:
    config = CHAIN + plugin_table("second", "echo_chain.py")
    async with chained(config, short_dir) as (watched, stub):
        for name in ("chain", "second"):
            await watched.wait_for_event(events.Ready, plugin=name)
        with trio.fail_after(callers):
            reply = await stub.Echo(EchoRequest(message=f"ask-second {plugins}"))
        assert 0 < float(reply.message) <= 1.0


async def test_without_a_deadline_none_is_sent(short_dir: Path) -> None:
    async with chained(CHAIN, short_dir) as (_, stub):
        assert (await stub.Echo(EchoRequest(message="deadline"))).message == "none"
