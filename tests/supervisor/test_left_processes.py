"""Instances whose processes cannot be killed: how many of them there may be."""

from __future__ import annotations

from pathlib import Path

import attrs
import trio

from meshtrio.config import MeshConfig
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor.process.cleanup.leftover_killer import (
    LeftoverReport,
    RunIdentity,
    UnkillableProcess,
)
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.util.backoff import Backoff
from tests.support.fake_processes import (
    FOREVER,
    FakeEffects,
    ProcessScript,
    SupervisorHarness,
    make_plugin_config,
)


@attrs.frozen
class RunningProcess(UnkillableProcess):
    """A process that does not end."""

    @property
    def is_running(self) -> bool:
        return True


async def left(identity: RunIdentity) -> LeftoverReport:
    await trio.lowlevel.checkpoint()
    assert identity.session_id is not None
    return LeftoverReport(unkillable=(RunningProcess(identity.session_id, "odd", "it is a fake"),))


async def test_an_instance_does_not_leave_ever_more_processes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    effects, registry = (
        FakeEffects({"p": [ProcessScript(FOREVER, is_unkillable=True)] * 100}),
        Registry(),
    )
    plugin = make_plugin_config("p", ready_timeout=1.0, stop_timeout=1.0, backoff=Backoff(0.1, 0.1))
    fake = attrs.evolve(effects.make_effects(), kill_orphans=left)
    supervisor = Supervisor(MeshConfig([plugin]), registry, Path("/run/fake"), effects=fake)
    harness = SupervisorHarness(supervisor, effects, registry)
    supervisor.subscribe(harness.on_event)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await harness.run_until(3600)
        (status,) = supervisor.statuses()
        nursery.cancel_scope.cancel()
    assert len(effects.processes["p"]) == 4
    assert status.state.value == "failed"
    assert "cannot be killed, left running, as do 3 others of its processes" in status.reason
    reported = harness.events_of("GaveUp", "LeftRunning")
    assert reported == [*["LeftRunning p"] * 4, "GaveUp p"]
    # They are watched by the warden for as long as they run.
    assert len(effects.guarded_pids) == 4
