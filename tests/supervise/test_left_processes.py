"""Instances whose processes cannot be killed: how many of them there may be."""

from __future__ import annotations

from pathlib import Path

import attrs
import trio

from meshtrio.backoff import Backoff
from meshtrio.config import MeshConfig
from meshtrio.registry.memory import MemoryRegistry
from meshtrio.supervise.processes.remains import LeftProcess, Remains, RunIdentity
from meshtrio.supervise.tree import Tree
from tests.supervise.fakes import FOREVER, FakeWorld, Lab, Script, plug


@attrs.frozen
class StillRunning(LeftProcess):
    """One that does not end."""

    @property
    def runs(self) -> bool:
        return True


async def left(identity: RunIdentity) -> Remains:
    await trio.lowlevel.checkpoint()
    assert identity.session is not None
    return Remains(left=(StillRunning(identity.session, "odd", "it is a fake"),))


async def test_an_instance_does_not_leave_ever_more_processes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world, registry = FakeWorld({"p": [Script(FOREVER, unkillable=True)] * 100}), MemoryRegistry()
    plugin = plug("p", ready_timeout=1.0, stop_timeout=1.0, backoff=Backoff(0.1, 0.1))
    fake = attrs.evolve(world.world(), sweep=left)
    tree = Tree(MeshConfig([plugin]), registry, Path("/run/fake"), world=fake)
    made = Lab(tree, world, registry)
    tree.subscribe(made.take)
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.run)
        await made.run_until(3600)
        (status,) = tree.statuses()
        nursery.cancel_scope.cancel()
    assert len(world.processes["p"]) == 4
    assert status.state.value == "failed"
    assert "cannot be killed, left running, as do 3 others of its processes" in status.reason
    told = made.told("GaveUp", "LeftRunning")
    assert told == [*["LeftRunning p"] * 4, "GaveUp p"]
    # They are watched by the warden for as long as they run.
    assert len(world.guarded) == 4
