"""Code of others that is called with lifecycle events, and errors of the mesh itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from meshtrio.client.endpoint import Departure
from meshtrio.config import MeshConfig
from meshtrio.registry.memory import MemoryRegistry
from meshtrio.supervise import events
from meshtrio.supervise.tree import Tree
from tests.supervise.fakes import FakeWorld, Lab, Script, lab, plug


class OddError(BaseException):
    """What is no Exception, as asyncio.CancelledError."""


@pytest.mark.parametrize("error", [ValueError, OddError, ExceptionGroup], ids=str)
async def test_a_subscriber_that_raises_ends_nothing(
    error: Any, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: events.Event) -> None:
        raise error("no", [ValueError("inner")]) if error is ExceptionGroup else error("no")

    seen: list[str] = []
    async with lab([plug("a"), plug("b")], {"a": [Script(lives=5)]}) as made:
        made.tree.subscribe(broken)
        made.tree.subscribe(lambda event: seen.append(type(event).__name__))
        await made.run_until(60)
        assert made.states() == {"a/0": "ready", "b/0": "ready"}
        assert {"Starting", "Ready", "Exited", "Restarting"} <= set(seen)
    assert len(made.tree.report.stopped) == 2
    records = [r for r in caplog.records if "a subscriber of lifecycle events raised" in r.message]
    # One a minute, however many events there are.
    assert 1 <= len(records) <= 2
    assert records[0].levelno == logging.ERROR


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_a_subscriber_may_end_the_program_and_all_is_stopped(
    error: type[BaseException], autojump_clock: trio.testing.MockClock
) -> None:
    def leaving(event: events.Event) -> None:
        if isinstance(event, events.Ready):
            raise error(3)

    world, registry = FakeWorld(), MemoryRegistry()
    config = MeshConfig([plug("a"), plug("b")])
    tree = Tree(config, registry, Path("/run/fake"), [leaving], world=world.world())
    with pytest.raises(error):
        await tree.run()
    assert world.guarded == set()
    assert not any(status.pid for status in tree.statuses())


async def test_an_error_of_the_mesh_ends_one_process_only(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([RuntimeError("of the probe")])

    class Failing(FakeWorld):
        async def check(
            self, address: str, within: float, tls: Any = None, connect: Any = None
        ) -> Any:
            found = await super().check(address, within, tls, connect)
            if "/a-0" in address:
                for failure in failures:
                    raise failure
            return found

    world, registry = Failing(), MemoryRegistry()
    config = MeshConfig([plug("a"), plug("b")])
    tree = Tree(config, registry, Path("/run/fake"), world=world.world())
    made = Lab(tree, world, registry)
    tree.subscribe(made.take)
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.run)
        await made.run_until(60)
        assert made.states() == {"a/0": "ready", "b/0": "ready"}
        assert [len(world.processes[name]) for name in ("a", "b")] == [2, 1]
        assert made.told("Exited", "Restarting") == ["Exited a", "Restarting a"]
        nursery.cancel_scope.cancel()
    assert "internal error" in caplog.text
    assert "of the probe" in caplog.text


@pytest.mark.parametrize("where", ["guard", "registry"])
async def test_an_error_around_a_process_leaves_none_behind(
    where: str, autojump_clock: trio.testing.MockClock
) -> None:
    """What watches it, or the registry, fails for one instance."""

    class Failing(FakeWorld):
        def watch(self, pid: int, pidfd: int) -> None:
            super().watch(pid, pidfd)
            first = [process.pid for process in self.processes["a"][:1]]
            if where == "guard" and pid in first:
                raise RuntimeError("of the guard")

    class FailingRegistry(MemoryRegistry):
        def deregister(self, service: str, departure: Departure) -> None:
            if where == "registry" and service == "plugin.a":
                raise RuntimeError("of the registry")
            super().deregister(service, departure)

    world, registry = Failing({"a": [Script(lives=1)]}), FailingRegistry()
    tree = Tree(MeshConfig([plug("a"), plug("b")]), registry, Path("/fake"), world=world.world())
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.run)
        await trio.sleep(60)
        assert [each.state.value for each in tree.statuses()] == ["ready", "ready"]
        assert [len(world.processes[name]) for name in ("a", "b")] == [2, 1]
        assert world.processes["a"][0].ended
        nursery.cancel_scope.cancel()
    assert all(each.ended for name in "ab" for each in world.processes[name])


async def test_an_error_of_the_sweep_ends_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def sweep(owner: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("of the sweep")

    world, registry = FakeWorld({"a": [Script(lives=1)]}), MemoryRegistry()
    fake = attrs.evolve(world.world(), sweep=sweep)
    tree = Tree(MeshConfig([plug("a")]), registry, Path("/run/fake"), world=fake)
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.run)
        await trio.sleep(60)
        assert tree.statuses()[0].state.value == "ready"
        nursery.cancel_scope.cancel()
    assert "of the sweep" in caplog.text
