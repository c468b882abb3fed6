"""Readiness, kills and stops of plugins on foreign gRPC stacks, seen by callers on each route."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from meshtrio import mesh
from meshtrio.client.channel import connect_to
from meshtrio.errors import PluginDiedError
from meshtrio.supervisor import events
from tests.interop.foreign_peers import (
    RESULT_TIMEOUT,
    STACKS,
    CallResult,
    ForeignClient,
    MeshtrioClient,
    foreign_client,
    foreign_peer_table,
    target_metadata,
)
from tests.support.in_process_mesh import RecordedMesh, run_mesh

stacks = pytest.mark.parametrize("stack", STACKS)

DIRECT = ("in process", "from outside")
"""Routes of meshtrio clients that go straight to the plugin's socket."""
HELD = {"metadata": [("x-sleep-ms", "60000")]}
METHODS = ("Unary", "ServerStream")


@attrs.define
class Callers:
    """A client on each route to a plugin; the foreign one is on the plugin's own stack."""

    ours: dict[str, MeshtrioClient]
    theirs: ForeignClient

    async def call(self, route: str, method: str, **options: object) -> CallResult:
        if route in self.ours:
            return await self.ours[route].call(method, b"hello", **options)
        return await trio.to_thread.run_sync(self._call_foreign, method, options)

    def _call_foreign(self, method: str, options: dict[str, object]) -> CallResult:
        return self.theirs.call(method, b"hello", **options)

    @property
    def routes(self) -> tuple[str, ...]:
        return (*self.ours, "foreign client")


@asynccontextmanager
async def callers_of(watched: RecordedMesh, stack: str) -> AsyncIterator[Callers]:
    name, socket = f"plugin.{stack}", watched.mesh.socket
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        ours = {
            "in process": MeshtrioClient(await enter(watched.mesh.connect(name))),
            "from outside": MeshtrioClient(await enter(mesh.connect(name, mesh_socket=socket))),
            "gateway": MeshtrioClient(
                await enter(connect_to(f"unix:{socket}")), target_metadata(stack)
            ),
        }
        client = foreign_client(stack, f"unix:{socket}", target_metadata(stack))
        yield Callers(ours, opened.enter_context(client))


@asynccontextmanager
async def held_calls(
    watched: RecordedMesh, callers: Callers
) -> AsyncIterator[dict[str, CallResult]]:
    """Have calls in flight that would take a minute; their results are there after the block."""
    results: dict[str, CallResult] = {}

    async def hold(route: str, method: str) -> None:
        results[f"{route}, {method}"] = await callers.call(route, method, **HELD)

    with trio.fail_after(RESULT_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for route in callers.routes:
                for method in METHODS:
                    nursery.start_soon(hold, route, method)
            count = len(callers.routes) * len(METHODS)
            await watched.wait_for_event(events.LineWritten, count=count, line="holding")
            yield results


def check_died(results: dict[str, CallResult], text: str) -> None:
    """Check that every caller got to know, in this text, how the plugin ended."""
    for route, result in results.items():
        assert result.name == "UNAVAILABLE", f"{route}: {result}"
        assert text in result.message, f"{route}: {result}"
        if route.startswith(DIRECT):
            assert isinstance(result.error, PluginDiedError), f"{route}: {result.error!r}"


@pytest.mark.parametrize(
    ("stack", "arguments"),
    [("js", ()), ("js", ("page",)), ("java", ()), ("connect", ()), ("connect", ("no-health",))],
)
async def test_a_foreign_plugin_becomes_ready(
    stack: str, arguments: tuple[str, ...], short_dir: Path
) -> None:
    """`page` and `no-health` answer a health check with HTTP's 404 and a page; js and java with
    UNIMPLEMENTED."""
    async with run_mesh(foreign_peer_table(stack, *arguments), short_dir) as watched:
        with trio.fail_after(RESULT_TIMEOUT):
            await watched.wait_for_event(events.Ready)
            async with callers_of(watched, stack) as callers:
                for route in callers.routes:
                    result = await callers.call(route, "Unary")
                    assert (str(result), result.replies) == ("OK: ", (b"hello",)), route
        assert len(watched.find_events(events.Starting)) == 1


@stacks
async def test_a_kill_is_reported_to_every_caller(stack: str, short_dir: Path) -> None:
    async with run_mesh(foreign_peer_table(stack), short_dir) as watched:
        ready = await watched.wait_for_event(events.Ready)
        assert isinstance(ready.event, events.Ready)
        async with callers_of(watched, stack) as callers:
            async with held_calls(watched, callers) as results:
                os.kill(ready.event.pid, signal.SIGKILL)
            check_died(results, "SIGKILL")
            with trio.fail_after(RESULT_TIMEOUT):
                for route in callers.routes:
                    assert str(await callers.call(route, "Unary")) == "OK: ", route


@stacks
async def test_a_stop_that_takes_too_long_is_reported_to_every_caller(
    stack: str, short_dir: Path
) -> None:
    """What ends the process is the mesh: SIGKILL, or in Go the request for its stacks."""
    async with run_mesh(foreign_peer_table(stack, stop_timeout=0.3), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        async with callers_of(watched, stack) as callers:
            async with held_calls(watched, callers) as results:
                await watched.mesh.stop(stack)
        check_died(results, "did not stop within 0.3 s")


@stacks
async def test_restarts_lose_no_call(stack: str, short_dir: Path) -> None:
    failures: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    stopping = threading.Event()
    slow = {"metadata": [("x-sleep-ms", "20")]}

    async def call_on(callers: Callers, route: str) -> None:
        while not stopping.is_set():
            result = await callers.call(route, "Unary", **slow)
            if result.code:
                failures[f"{route}: {result}"] += 1
            answered[route] += 1

    async def go_on(callers: Callers) -> None:
        """Wait until each route has had some more answers."""
        goals = {route: answered[route] + 10 for route in callers.routes}
        while any(answered[route] < goal for route, goal in goals.items()):
            await callers.call("in process", "Unary")

    async with run_mesh(foreign_peer_table(stack), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        with trio.fail_after(3 * RESULT_TIMEOUT):
            async with callers_of(watched, stack) as callers, trio.open_nursery() as nursery:
                for route in callers.routes * 3:
                    nursery.start_soon(call_on, callers, route)
                for _ in range(2):
                    await go_on(callers)
                    await watched.mesh.restart(stack)
                await go_on(callers)
                stopping.set()
        forced = [
            seen.event for seen in watched.find_events(events.Stopped) if seen.event.was_killed
        ]
    assert failures == {}
    assert forced == []
