"""What a plugin answers to load, log levels, tap and health costs what was asked of it, and no
more: the mesh tells of the others, and goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import control, tap
from meshtrio.rpc.method_load import MAX_METHODS
from meshtrio.services import log_level_controller
from meshtrio.supervisor import events
from tests.plugins.nonsense_replies import ANSWERS, EMPTY_MESSAGES, HEALTHS
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.loop_latency import measure_cpu_time, measure_loop_latency
from tests.support.mesh_processes import echo_plugin_table, plugin_table

CONTROL = control.DESCRIPTOR.services_by_name["Control"]


@pytest.fixture(autouse=True)
def _long_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time limits are not what is tested."""
    monkeypatch.setattr(log_level_controller, "CALL_TIMEOUT", 100.0)


async def check_statistics(stub: Any) -> None:
    while True:
        found = await stub.GetStatistics(control.GetStatisticsRequest())
        bad, good = found.instances
        if good.HasField("load"):
            break
    for name in ("median", "p99"):
        assert not bad.HasField("load") or 0 <= getattr(bad.load, name) < math.inf
    assert found.ByteSize() < 10_000


async def check_methods(stub: Any) -> None:
    request = control.WatchStatisticsRequest(interval=0.1, by_method=True)
    async with stub.WatchStatistics(request) as reports:
        for _ in range(10):
            found = await anext(reports)
            assert len(found.methods) <= MAX_METHODS + 1
            assert found.ByteSize() < 100_000


async def check_log_levels(stub: Any) -> None:
    request = control.SetLogLevelRequest(name="echo", level="debug")
    assert (await stub.SetLogLevel(request)).plugins[0].instances[0].level == "debug"
    found = await stub.GetLogLevels(control.GetLogLevelsRequest())
    bad, good = found.plugins
    assert good.instances[0].level == "debug"
    assert len(bad.instances[0].level) <= 64


async def check_watched_calls(watched: RecordedMesh, stub: Any) -> None:
    """Watch calls of the other plugin, whatever this one reports."""
    async with (
        watched.mesh.connect("plugin.echo") as channel,
        stub.WatchCalls(control.WatchCallsOfRequest()) as calls,
        trio.open_nursery() as nursery,
    ):

        async def call() -> None:
            while True:
                await channel.stub(EchoServiceStub).Echo(EchoRequest(message="hi"))
                await trio.sleep(0.05)

        nursery.start_soon(call)
        async for found in calls:
            if found.HasField("call"):
                assert math.isfinite(found.call.time)
                assert 0 <= found.call.seconds < math.inf
            if found.plugin == "echo" and found.call.method.endswith("/Echo"):
                nursery.cancel_scope.cancel()
                return


def parse_empty_messages() -> None:
    """Parse one answer of empty messages, as the mesh would."""
    for call in tap.EndedCalls.FromString(EMPTY_MESSAGES[: 2**20]).calls:
        control.WatchedCall(call=call)


@pytest.mark.parametrize("kind", [*ANSWERS, "flood"])
async def test_answers_that_make_no_sense(short_dir: Path, kind: str) -> None:
    config = plugin_table("bad", "nonsense_replies.py", kind) + echo_plugin_table()
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
        async with (
            connect_to_mesh(watched.mesh.socket) as channel,
            measure_loop_latency() as turns,
        ):
            stub = DynamicStub(channel, CONTROL)
            with trio.fail_after(240):
                await check_statistics(stub)
                await check_methods(stub)
                await check_log_levels(stub)
                await check_watched_calls(watched, stub)
                await check_statistics(stub)
        assert turns.max_cpu_time < measure_cpu_time(parse_empty_messages)
        assert {status.restarts for status in watched.mesh.instances()} == {0}


@pytest.mark.parametrize("kind", HEALTHS)
async def test_a_health_check_that_makes_no_sense_is_none(short_dir: Path, kind: str) -> None:
    config = (
        plugin_table("bad", "nonsense_replies.py", f"health-{kind}", ready_timeout=3)
        + echo_plugin_table()
    )
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready, plugin="echo")
        ended = await watched.wait_for_event(events.Exited, plugin="bad")
        assert "was not ready within 3 s: " in str(ended.event)
        async with watched.mesh.connect("plugin.echo") as channel:
            with trio.fail_after(30):
                await channel.stub(EchoServiceStub).Echo(EchoRequest(message="hi"))
