"""Calls by plugin and method, and through the gateway, in the statistics of a mesh."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, RepeatRequest, SlowRequest

from meshtrio.client.channel import Channel
from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub, make_multicallable
from meshtrio.messages import control
from meshtrio.rpc.method import Method
from meshtrio.supervisor import events
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import echo_plugin_table, plugin_table

ECHO = "echo.v1.EchoService"
Sums = dict[tuple[str, str], Counter[str]]


@attrs.define
class Watcher:
    """Adds up what a stream of statistics says of methods."""

    reports: Any
    last: Any = None
    plugins: Sums = attrs.field(factory=dict)
    gateway: Sums = attrs.field(factory=dict)

    async def next(self) -> Any:
        self.last = await anext(self.reports)
        for sums, rows in (
            (self.plugins, self.last.methods),
            (self.gateway, self.last.gateway),
        ):
            for row in rows:
                ended = sums.setdefault((row.target, row.method), Counter())
                ended.update(row.ended)
                ended["started"] += row.started
                assert (row.service == ECHO) is (row.method != "other")
                assert row.HasField("p50") == row.HasField("p99")
        return self.last

    async def until(self, sums: Sums, target: str, method: str, **wanted: int) -> None:
        while {k: sums.get((target, method), Counter())[k] for k in wanted} != wanted:
            await self.next()

    def find(self, rows: str, method: str) -> Any:
        return next((row for row in getattr(self.last, rows) if row.method == method), None)

    async def until_in_flight(self, rows: str, count: int) -> None:
        while (row := self.find(rows, "Slow")) is None or row.in_flight != count:
            await self.next()


@asynccontextmanager
async def watched(config: str, folder: Path, ready: int) -> AsyncIterator[tuple[Any, Channel, Any]]:
    """A mesh, a channel to its socket and a stub of its control."""
    async with run_mesh(config, folder) as running:
        await running.wait_for_event(events.Ready, count=ready)
        async with connect_to_mesh(running.mesh.socket) as channel:
            with trio.fail_after(60):
                yield (
                    running,
                    channel,
                    DynamicStub(channel, control.DESCRIPTOR.services_by_name["Control"]),
                )


@asynccontextmanager
async def watching(stub: Any) -> AsyncIterator[Watcher]:
    request = control.WatchStatisticsRequest(interval=0.1, by_method=True)
    async with stub.WatchStatistics(request) as reports:
        watcher = Watcher(reports)
        first = await watcher.next()
        assert (list(first.methods), list(first.gateway), first.interval) == ([], [], 0)
        yield watcher


async def call_unknown(channel: Channel, path: str) -> None:
    method = Method.from_path(path, (EchoRequest, EchoRequest), False, False)
    await make_multicallable(channel, method)(EchoRequest())


async def test_calls_are_counted_by_method_over_all_instances(short_dir: Path) -> None:
    async with watched(echo_plugin_table(instances=2), short_dir, 2) as (running, _, stub):
        async with watching(stub) as watcher, running.mesh.connect("plugin.echo") as channel:
            echo = channel.stub(EchoServiceStub)
            await wait_counted(watcher, echo)
            before = watcher.plugins["plugin.echo", "Echo"].copy()
            for _ in range(20):
                await echo.Echo(EchoRequest())
            assert len([r async for r in echo.Repeat(RepeatRequest(count=3))]) == 3
            count = before["started"] + 20
            await watcher.until(watcher.plugins, "plugin.echo", "Echo", OK=count, started=count)
            await watcher.until(watcher.plugins, "plugin.echo", "Repeat", OK=1, started=1)
            assert watcher.last.interval > 0.05
            assert [(r.plugin, r.method) for r in watcher.last.methods] == [
                ("echo", "Echo"), ("echo", "Repeat"),
            ]  # fmt: skip
            assert watcher.gateway == {}


async def wait_counted(watcher: Watcher, echo: Any) -> None:
    """Call until instances count by method, which they begin a moment after the watch."""
    while "Echo" not in {method for _, method in watcher.plugins}:
        for _ in range(8):
            await echo.Echo(EchoRequest())
        await watcher.next()


async def test_calls_in_flight_before_the_watch_are_counted(short_dir: Path) -> None:
    async with (
        watched(echo_plugin_table(), short_dir, 1) as (running, channel, stub),
        running.mesh.connect("plugin.echo") as direct,
        trio.open_nursery() as nursery,
    ):
        scope = trio.CancelScope()
        nursery.start_soon(call_slow, channel.stub(EchoServiceStub), scope)
        nursery.start_soon(call_slow, direct.stub(EchoServiceStub), trio.CancelScope())
        statistics = control.Statistics()
        while not statistics.instances or statistics.instances[0].load.in_flight != 2:
            statistics = await stub.GetStatistics(control.GetStatisticsRequest())
        async with watching(stub) as watcher:
            await watcher.until_in_flight("methods", 2)
            row = watcher.find("gateway", "Slow")
            assert (row.target, row.in_flight, row.started) == ("plugin.echo", 1, 0)
            scope.cancel()
            await watcher.until(watcher.gateway, "plugin.echo", "Slow", CANCELLED=1, started=0)
            await watcher.until(watcher.plugins, "plugin.echo", "Slow", CANCELLED=1, started=0)
            await watcher.until_in_flight("gateway", 0)
            await watcher.until_in_flight("methods", 1)
        nursery.cancel_scope.cancel()


async def call_slow(stub: Any, scope: trio.CancelScope) -> None:
    with scope:
        await stub.Slow(SlowRequest(seconds=3600))


async def test_the_gateway_counts_what_it_forwards_and_what_it_refuses(short_dir: Path) -> None:
    """Methods that there are not, whose names may be anything, are in one row."""
    async with (
        watched(echo_plugin_table(), short_dir, 1) as (_, channel, stub),
        watching(stub) as watcher,
    ):
        echo = channel.stub(EchoServiceStub)
        for _ in range(5):
            await echo.Echo(EchoRequest())
        for number in range(300):
            with pytest.raises(purerpc.UnimplementedError):
                await call_unknown(channel, f"/{ECHO}/No{number}")
        with pytest.raises(purerpc.UnimplementedError):
            await call_unknown(channel, "/no.such.Service/Method")
        await watcher.until(watcher.gateway, "plugin.echo", "Echo", OK=5, started=5)
        others: Counter[str] = Counter()
        while others["UNIMPLEMENTED"] != 301:
            await watcher.next()
            others = watcher.gateway.get(("", "other"), Counter())
        assert watcher.gateway.keys() == {("plugin.echo", "Echo"), ("", "other")}
        await stub.Stop(control.StopRequest(name="echo"))
        with trio.move_on_after(0.2):
            await echo.Echo(EchoRequest())
        calls = watcher.gateway["plugin.echo", "Echo"]
        while calls.total() != 12:
            await watcher.next()
        # Which of the two depends on whether the cancellation arrives before the deadline.
        assert calls["CANCELLED"] + calls["DEADLINE_EXCEEDED"] == 1
        assert (calls["OK"], calls["started"]) == (5, 6)


async def test_plugins_that_count_nothing_are_seen_through_the_gateway(short_dir: Path) -> None:
    config = plugin_table("other", "grpcio_echo.py", "ends", services=[ECHO])
    async with watched(config, short_dir, 1) as (_, channel, stub), watching(stub) as watcher:
        await channel.stub(EchoServiceStub).Echo(EchoRequest())
        await watcher.until(watcher.gateway, "plugin.other", "Echo", OK=1, started=1)
        assert watcher.plugins == {}


async def test_methods_are_not_counted_while_nobody_asks_for_them(short_dir: Path) -> None:
    async with watched(echo_plugin_table(), short_dir, 1) as (_, channel, stub):
        echo = channel.stub(EchoServiceStub)
        async with stub.WatchStatistics(control.WatchStatisticsRequest(interval=0.1)) as reports:
            statistics = await anext(reports)
            await echo.Echo(EchoRequest())
            while statistics.instances[0].load.ended != 1:
                statistics = await anext(reports)
            assert not any((statistics.methods, statistics.gateway, statistics.interval))
            async with watching(stub) as watcher:
                await wait_counted(watcher, echo)
            # The plain watch goes on with reports of its own.
            ended = statistics.instances[0].load.ended
            await echo.Echo(EchoRequest())
            while statistics.instances[0].load.ended <= ended:
                statistics = await anext(reports)
            assert not statistics.instances[0].load.methods
