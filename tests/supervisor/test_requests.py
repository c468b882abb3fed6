"""Requests that coincide: stops, restarts and replacements of one instance."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from meshtrio.config import GroupConfig, MeshConfig, RestartPolicy, Strategy
from meshtrio.discovery.registry import Registry
from meshtrio.errors import PluginFailedError
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.util.backoff import Backoff
from meshtrio.util.errors import UsageError
from tests.support.fake_processes import (
    FakeEffects,
    ProcessScript,
    SupervisorHarness,
    make_plugin_config,
    make_supervisor,
)

STEADY = Backoff(initial=1, maximum=8, multiplier=2, jitter=0)
SLOW_STOP = itertools.repeat(ProcessScript(stop_duration=4))


async def test_an_instance_that_waits_to_be_stopped_is_not_replaced(
    autojump_clock: MockClock,
) -> None:
    plugins = [
        make_plugin_config("p", max_age=5, max_age_variance=0),
        make_plugin_config("q", depends_on=["p"]),
    ]
    group = GroupConfig("g", ["p", "q"])
    async with make_supervisor(plugins, {"q": SLOW_STOP}, [group]) as harness:
        await harness.run_until(3)
        await harness.operations.stop("g")
        assert harness.events_of("Renewing", "Stopped") == ["Stopped q", "Stopped p"]
        assert harness.event_times("Stopped p") == [7.2]


async def test_a_restart_of_an_instance_that_waits_to_be_stopped_starts_it_again(
    autojump_clock: MockClock,
) -> None:
    plugins = [make_plugin_config("p"), make_plugin_config("q", depends_on=["p"])]
    group = GroupConfig("g", ["p", "q"])
    async with (
        make_supervisor(plugins, {"q": SLOW_STOP}, [group]) as harness,
        trio.open_nursery() as nursery,
    ):
        await harness.run_until(3)
        nursery.start_soon(harness.operations.stop, "g")
        await harness.run_until(4)
        await harness.operations.restart("p")
        assert harness.event_times("Stopped p") == harness.event_times("Starting p")[1:] == [7.2]
        assert harness.states() == {"p/0": "ready", "q/0": "stopped"}
        nursery.cancel_scope.cancel()


async def test_a_restart_fails_if_its_instance_is_stopped(autojump_clock: MockClock) -> None:
    scripts = {"p": [ProcessScript(), ProcessScript(ready_after=5)]}
    async with (
        make_supervisor([make_plugin_config("p")], scripts) as harness,
        trio.open_nursery() as nursery,
    ):
        failed = trio.Event()

        async def restart() -> None:
            with pytest.raises(PluginFailedError, match="p/0 was stopped before it was replaced"):
                await harness.operations.restart("p")
            failed.set()

        await harness.run_until(1)
        nursery.start_soon(restart)
        await harness.run_until(3)
        await harness.operations.stop("p")
        await failed.wait()
        assert harness.states() == {"p/0": "stopped"}
        assert harness.events_of("Stopped") == ["Stopped p", "Stopped p"]


async def test_a_replacement_that_was_stopped_has_not_failed(autojump_clock: MockClock) -> None:
    """So that the next one for the size or age of the instance is not delayed."""
    plugin = make_plugin_config("p", renew_above=100, backoff=Backoff(1000, 1000, 1, 0))
    scripts = {"p": [ProcessScript(), ProcessScript(ready_after=5)]}
    async with make_supervisor([plugin], scripts) as harness:
        await harness.run_until(1)
        harness.effects.resident_by_pgid[harness.effects.processes["p"][0].pid] = 101
        await harness.run_until(4)
        assert harness.events_of("Starting", "Renewing") == [
            "Starting p",
            "Renewing p",
            "Starting p",
        ]
        await harness.operations.stop("p")
        await harness.operations.start("p")
        harness.effects.resident_by_pgid[harness.effects.processes["p"][2].pid] = 101
        await harness.run_until(10)
        assert harness.events_of("Renewing") == ["Renewing p"] * 2
        assert len(harness.effects.processes["p"]) == 4


async def test_a_groups_restart_does_not_start_what_is_being_stopped(
    autojump_clock: MockClock,
) -> None:
    plugins = [make_plugin_config("a"), make_plugin_config("b", backoff=STEADY)]
    scripts = {"a": SLOW_STOP, "b": [ProcessScript(lifetime=5)]}
    group = GroupConfig("g", ["a", "b"], Strategy.ONE_FOR_ALL)
    async with make_supervisor(plugins, scripts, [group]) as harness:
        await harness.run_until(4)
        await harness.operations.stop("a")
        await harness.run_until(30)
        assert harness.states() == {"a/0": "stopped", "b/0": "ready"}
        assert harness.event_times("Exited b") == [5]
        assert harness.event_times("Starting b") == [0, 6]


async def test_a_mesh_that_stops_starts_nothing(autojump_clock: MockClock) -> None:
    async with make_supervisor([make_plugin_config("p")], {"p": SLOW_STOP}) as harness:
        await harness.run_until(1)
        harness.supervisor.start_shutdown()
        await harness.run_until(2)
        with pytest.raises(UsageError, match="the mesh is stopping"):
            await harness.operations.start("p")
        with pytest.raises(UsageError, match="the mesh is stopping"):
            await harness.operations.scale("p", 2)
        await harness.run_until(100)
        assert harness.events_of("Starting") == ["Starting p"]
        assert harness.states() == {"p/0": "stopped"}


async def test_a_failed_instance_is_failed_still_when_its_predecessor_has_drained(
    autojump_clock: MockClock,
) -> None:
    plugin = make_plugin_config("p", restart=RestartPolicy.NEVER, stop_timeout=60)
    scripts = {"p": [ProcessScript(stop_duration=30), ProcessScript(lifetime=3)]}
    async with (
        make_supervisor([plugin], scripts) as harness,
        trio.open_nursery() as nursery,
    ):
        await harness.run_until(1)
        nursery.start_soon(harness.operations.restart, "p")
        await harness.run_until(10)
        assert harness.states() == {"p/0": "failed"}
        await harness.run_until(100)
        assert harness.event_times("Stopped p") == [31.1]
        assert harness.states() == {"p/0": "failed"}
        assert harness.supervisor.statuses()[0].reason == "exited with status 1"


async def test_a_start_during_a_stop_waits_for_the_new_process(autojump_clock: MockClock) -> None:
    scripts = {"p": [ProcessScript(stop_duration=4), ProcessScript(ready_after=2)]}
    async with (
        make_supervisor([make_plugin_config("p")], scripts) as harness,
        trio.open_nursery() as nursery,
    ):
        await harness.run_until(1)
        nursery.start_soon(harness.operations.stop, "p")
        await harness.run_until(2)
        await harness.operations.start("p")
        assert harness.event_times("Ready p") == [0, 7.1]
        nursery.cancel_scope.cancel()


async def test_a_replacement_waits_until_its_address_is_free(autojump_clock: MockClock) -> None:
    plugin = make_plugin_config("p", renew_above=100, stop_timeout=60)
    scripts = {"p": [ProcessScript(stop_duration=30)]}
    async with (
        make_supervisor([plugin], scripts) as harness,
        trio.open_nursery() as nursery,
    ):
        await harness.run_until(1)
        nursery.start_soon(harness.operations.restart, "p")
        await harness.run_until(2)
        harness.effects.resident_by_pgid[harness.effects.processes["p"][1].pid] = 101
        await harness.run_until(100)
        assert harness.event_times("Stopped p")[0] == 31.1
        assert harness.event_times("Renewing p") == [1, 31.1]


async def test_an_instance_is_replaced_though_the_check_of_a_later_one_fails(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def is_socket_removed(socket: Path) -> bool:
        if socket.name.startswith("b-"):
            raise OSError(errno.EMFILE, "no descriptors")
        return trio.current_time() - harness.started_at > 5

    effects, registry = FakeEffects(), Registry()
    fake = attrs.evolve(effects.make_effects(), is_socket_removed=is_socket_removed)
    config = MeshConfig([make_plugin_config("a"), make_plugin_config("b")])
    supervisor = Supervisor(config, registry, Path("/run/fake"), effects=fake)
    harness = SupervisorHarness(supervisor, effects, registry)
    supervisor.subscribe(harness.on_event)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await harness.run_until(8)
        assert harness.events_of("Renewing")[:1] == ["Renewing a"]
        nursery.cancel_scope.cancel()
    assert "no descriptors" in caplog.text
