"""Calls through a mesh's gateway while its plugins are renewed, scaled and killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import echo_plugin_table

CALLERS = 20


class Callers:
    """Tasks that call through the mesh socket again and again."""

    def __init__(self) -> None:
        self.answered = 0
        self.failures: Counter[str] = Counter()
        self._progress = trio.lowlevel.ParkingLot()

    async def call(self, stub: EchoServiceStub) -> None:
        while True:
            try:
                reply = await stub.Echo(EchoRequest(message="x"))
                assert reply.message == "x"
                self.answered += 1
                self._progress.unpark_all()
            except purerpc.RpcFailedError as exc:
                self.failures[f"{exc.status.status_code.name}: {exc.status.status_message}"] += 1

    async def go_on(self, calls: int) -> None:
        """Wait until `calls` more are answered."""
        goal = self.answered + calls
        while self.answered < goal:
            await self._progress.park()


@asynccontextmanager
async def calling(watched: RecordedMesh) -> AsyncIterator[Callers]:
    callers = Callers()
    async with connect_to(f"unix:{watched.mesh.socket}") as channel, trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(callers.call, channel.stub(EchoServiceStub))
        with trio.fail_after(60):
            await callers.go_on(CALLERS)
            yield callers
        nursery.cancel_scope.cancel()


@pytest.mark.long
async def test_no_call_is_lost_while_plugins_are_renewed_and_scaled(short_dir: Path) -> None:
    async with run_mesh(echo_plugin_table(instances=2), short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
        async with calling(watched) as callers:
            for instances in (3, 1, 2):
                await watched.mesh.restart("echo")
                await callers.go_on(50)
                await watched.mesh.scale("echo", instances)
                await callers.go_on(50)
        assert callers.failures == {}


async def test_what_a_killed_plugin_had_under_way_fails_and_says_so(short_dir: Path) -> None:
    async with run_mesh(echo_plugin_table(instances=2), short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
        async with calling(watched) as callers:
            killed = watched.mesh.instances()[0].pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await callers.go_on(200)
            await watched.wait_for_event(events.Ready, count=3)
            await callers.go_on(200)
        # No more than it can have had, each with the reason.
        assert sum(callers.failures.values()) <= CALLERS
        for text in callers.failures:
            assert text.startswith("UNAVAILABLE: ")
            assert f"pid {killed}" in text
            assert "SIGKILL" in text
