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

from meshtrio import mesh
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.messages import control
from meshtrio.supervise import events
from tests.meshes import Watched, running
from tests.plugins.answering import ANSWERS, HEALTHS
from tests.programs import echo, plugin
from tests.turns import watching_turns

CONTROL = control.DESCRIPTOR.services_by_name["Control"]
LONGEST_TURN = 0.25
"""Seconds of CPU time; 4 MB of empty messages take 0.5 s and more in one go."""


async def statistics_are_sound(stub: Any) -> None:
    found = await stub.GetStatistics(control.GetStatisticsRequest())
    bad, good = found.instances
    assert good.HasField("load")
    for name in ("median", "p99"):
        assert not bad.HasField("load") or 0 <= getattr(bad.load, name) < math.inf
    assert found.ByteSize() < 10_000


async def log_levels_are_told(stub: Any) -> None:
    request = control.SetLogLevelRequest(name="echo", level="debug")
    assert (await stub.SetLogLevel(request)).plugins[0].instances[0].level == "debug"
    found = await stub.GetLogLevels(control.GetLogLevelsRequest())
    bad, good = found.plugins
    assert good.instances[0].level == "debug"
    assert len(bad.instances[0].level) <= 64


async def calls_are_told(watched: Watched, stub: Any) -> None:
    """Those of the other plugin, whatever this one says."""
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


@pytest.mark.parametrize("kind", [*ANSWERS, "flood"])
async def test_answers_that_make_no_sense(short_dir: Path, kind: str) -> None:
    config = plugin("bad", "answering.py", kind) + echo()
    async with running(config, short_dir) as watched:
        await watched.wait(events.Ready, count=2)
        async with mesh.connect_to_mesh(watched.mesh.socket) as channel, watching_turns() as turns:
            stub = DynamicStub(channel, CONTROL)
            with trio.fail_after(120):
                await statistics_are_sound(stub)
                await log_levels_are_told(stub)
                await calls_are_told(watched, stub)
                await statistics_are_sound(stub)
        assert turns.longest < LONGEST_TURN
        assert {status.restarts for status in watched.mesh.instances()} == {0}


@pytest.mark.parametrize("kind", HEALTHS)
async def test_a_health_check_that_makes_no_sense_is_none(short_dir: Path, kind: str) -> None:
    config = plugin("bad", "answering.py", f"health-{kind}", ready_timeout=3) + echo()
    async with running(config, short_dir) as watched:
        await watched.wait(events.Ready, plugin="echo")
        ended = await watched.wait(events.Exited, plugin="bad")
        assert "was not ready within 3 s: " in str(ended.event)
        async with watched.mesh.connect("plugin.echo") as channel:
            with trio.fail_after(30):
                await channel.stub(EchoServiceStub).Echo(EchoRequest(message="hi"))
