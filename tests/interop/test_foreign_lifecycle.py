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
from meshtrio.supervise import events
from tests.interop.foreign import (
    PATIENCE,
    STACKS,
    ForeignClient,
    OurClient,
    Result,
    foreign_client,
    foreign_plugin,
    target,
)
from tests.meshes import Watched, running

stacks = pytest.mark.parametrize("stack", STACKS)

DIRECT = ("in process", "from outside")
"""Routes of meshtrio clients that go straight to the plugin's socket."""
HELD = {"metadata": [("x-sleep-ms", "60000")]}
METHODS = ("Unary", "ServerStream")


@attrs.define
class Callers:
    """A client on each route to a plugin; the foreign one is on the plugin's own stack."""

    ours: dict[str, OurClient]
    theirs: ForeignClient

    async def call(self, route: str, method: str, **options: object) -> Result:
        if route in self.ours:
            return await self.ours[route].call(method, b"hello", **options)
        return await trio.to_thread.run_sync(self._call_foreign, method, options)

    def _call_foreign(self, method: str, options: dict[str, object]) -> Result:
        return self.theirs.call(method, b"hello", **options)

    @property
    def routes(self) -> tuple[str, ...]:
        return (*self.ours, "foreign client")


@asynccontextmanager
async def callers_of(watched: Watched, stack: str) -> AsyncIterator[Callers]:
    name, socket = f"plugin.{stack}", watched.mesh.socket
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        ours = {
            "in process": OurClient(await enter(watched.mesh.connect(name))),
            "from outside": OurClient(await enter(mesh.connect(name, mesh_socket=socket))),
            "gateway": OurClient(await enter(connect_to(f"unix:{socket}")), target(stack)),
        }
        client = foreign_client(stack, f"unix:{socket}", target(stack))
        yield Callers(ours, opened.enter_context(client))


@asynccontextmanager
async def held_calls(watched: Watched, callers: Callers) -> AsyncIterator[dict[str, Result]]:
    """Have calls in flight that would take a minute; their results are there after the block."""
    results: dict[str, Result] = {}

    async def hold(route: str, method: str) -> None:
        results[f"{route}, {method}"] = await callers.call(route, method, **HELD)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for route in callers.routes:
                for method in METHODS:
                    nursery.start_soon(hold, route, method)
            count = len(callers.routes) * len(METHODS)
            await watched.wait(events.LineWritten, count=count, line="holding")
            yield results


def check_died(results: dict[str, Result], text: str) -> None:
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
    async with running(foreign_plugin(stack, *arguments), short_dir) as watched:
        with trio.fail_after(PATIENCE):
            await watched.wait(events.Ready)
            async with callers_of(watched, stack) as callers:
                for route in callers.routes:
                    result = await callers.call(route, "Unary")
                    assert (str(result), result.replies) == ("OK: ", (b"hello",)), route
        assert len(watched.find(events.Starting)) == 1


@stacks
async def test_a_kill_is_reported_to_every_caller(stack: str, short_dir: Path) -> None:
    async with running(foreign_plugin(stack), short_dir) as watched:
        ready = await watched.wait(events.Ready)
        assert isinstance(ready.event, events.Ready)
        async with callers_of(watched, stack) as callers:
            async with held_calls(watched, callers) as results:
                os.kill(ready.event.pid, signal.SIGKILL)
            check_died(results, "SIGKILL")
            with trio.fail_after(PATIENCE):
                for route in callers.routes:
                    assert str(await callers.call(route, "Unary")) == "OK: ", route


@stacks
async def test_a_stop_that_takes_too_long_is_reported_to_every_caller(
    stack: str, short_dir: Path
) -> None:
    """What ends the process is the mesh: SIGKILL, or in Go the request for its stacks."""
    async with running(foreign_plugin(stack, stop_timeout=0.3), short_dir) as watched:
        await watched.wait(events.Ready)
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

    async with running(foreign_plugin(stack), short_dir) as watched:
        await watched.wait(events.Ready)
        with trio.fail_after(3 * PATIENCE):
            async with callers_of(watched, stack) as callers, trio.open_nursery() as nursery:
                for route in callers.routes * 3:
                    nursery.start_soon(call_on, callers, route)
                for _ in range(2):
                    await go_on(callers)
                    await watched.mesh.restart(stack)
                await go_on(callers)
                stopping.set()
        forced = [seen.event for seen in watched.find(events.Stopped) if seen.event.forced]
    assert failures == {}
    assert forced == []
