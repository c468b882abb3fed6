"""Operations on a running supervisor, in virtual time."""

from __future__ import annotations

import itertools
import math

import attrs
import pytest
import trio
from trio.testing import MockClock

from meshtrio.config import GroupConfig, MeshConfig, RestartPolicy
from meshtrio.errors import PluginFailedError
from meshtrio.supervisor.operations import ReloadResult, compare_configs
from meshtrio.util.backoff import Backoff
from meshtrio.util.errors import ConfigError, UsageError
from tests.support.fake_processes import (
    ProcessScript,
    SupervisorHarness,
    make_plugin_config,
    make_supervisor,
)

STEADY = Backoff(initial=1, maximum=8, multiplier=2, jitter=0)
NEVER_READY = ProcessScript(ready_after=math.inf)


def count_endpoints(harness: SupervisorHarness, service: str = "plugin.p") -> int:
    return len(harness.registry.resolve(service).endpoints)


async def test_stop_and_start(autojump_clock: MockClock) -> None:
    async with make_supervisor(
        [make_plugin_config("p", instances=2), make_plugin_config("q")]
    ) as harness:
        await harness.run_until(1)
        await harness.operations.stop("p")
        assert harness.states() == {"p/0": "stopped", "p/1": "stopped", "q/0": "ready"}
        await harness.run_until(1000)
        assert harness.states()["p/0"] == "stopped"
        await harness.operations.start("plugin.p")
        assert harness.states()["p/1"] == "ready"
        assert count_endpoints(harness) == 2


async def test_start_gives_what_failed_another_chance(autojump_clock: MockClock) -> None:
    scripts = {"p": [ProcessScript(lifetime=1), ProcessScript(lifetime=1), ProcessScript()]}
    async with make_supervisor(
        [make_plugin_config("p", restart=RestartPolicy.NEVER)], scripts
    ) as harness:
        await harness.run_until(5)
        assert harness.states() == {"p/0": "failed"}
        await harness.operations.start("p")
        await harness.run_until(10)
        assert harness.states() == {"p/0": "failed"}
        await harness.operations.start("p")
        await harness.run_until(100)
        assert harness.states() == {"p/0": "ready"}


async def test_start_tells_of_one_that_gives_up(autojump_clock: MockClock) -> None:
    scripts = {"p": [ProcessScript(lifetime=1), ProcessScript(ready_after=5, lifetime=1)]}
    async with make_supervisor(
        [make_plugin_config("p", restart=RestartPolicy.NEVER)], scripts
    ) as harness:
        await harness.run_until(5)
        with pytest.raises(PluginFailedError, match="p/0 exited with status 1"):
            await harness.operations.start("p")


async def test_an_unknown_name_is_refused_with_those_there_are(autojump_clock: MockClock) -> None:
    async with make_supervisor([make_plugin_config("p"), make_plugin_config("q")]) as harness:
        with pytest.raises(UsageError, match="no plugin 'r'; the plugins are: p, q"):
            await harness.operations.restart("r")


async def test_a_rolling_restart_always_has_one_registered(autojump_clock: MockClock) -> None:
    scripts = {
        "p": itertools.chain(
            [ProcessScript()] * 2, itertools.repeat(ProcessScript(ready_after=3, stop_duration=2))
        )
    }
    async with make_supervisor([make_plugin_config("p", instances=2)], scripts) as harness:
        await harness.run_until(1)
        seen: set[int] = set()
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while True:
                    seen.add(count_endpoints(harness))
                    await trio.sleep(0.1)

            nursery.start_soon(watch)
            await harness.operations.restart("p")
            nursery.cancel_scope.cancel()
        assert min(seen) >= 2
        assert harness.events_of("Renewing", "Ready", "Stopped")[2:] == [
            *["Renewing p", "Ready p", "Stopped p"],
            *["Renewing p/1", "Ready p/1", "Stopped p/1"],
        ]
        assert harness.supervisor.statuses()[0].restarts == 0
        assert harness.supervisor.statuses()[0].socket.name == "p-0.b.sock"


async def test_a_successor_that_is_never_ready_leaves_the_old_one(
    autojump_clock: MockClock,
) -> None:
    async with make_supervisor(
        [make_plugin_config("p")], {"p": [ProcessScript(), NEVER_READY]}
    ) as harness:
        await harness.run_until(1)
        with pytest.raises(PluginFailedError, match=r"was not ready.*; the active process"):
            await harness.operations.restart("p")
        assert harness.states() == {"p/0": "ready"}
        assert count_endpoints(harness) == 1
        await harness.operations.restart("p")
        assert count_endpoints(harness) == 1


async def test_one_that_dies_while_it_is_renewed_is_succeeded(autojump_clock: MockClock) -> None:
    scripts = {"p": [ProcessScript(lifetime=5), ProcessScript(ready_after=8)]}
    async with make_supervisor([make_plugin_config("p", backoff=STEADY)], scripts) as harness:
        await harness.run_until(4)
        await harness.operations.restart("p")
        await harness.run_until(100)
        assert len(harness.event_times("Starting p")) == 2
        assert harness.states() == {"p/0": "ready"}


async def test_a_group_can_be_named(autojump_clock: MockClock) -> None:
    group = GroupConfig("g", ["p", "q"])
    async with make_supervisor(
        [
            make_plugin_config("p"),
            make_plugin_config("q", depends_on=["p"]),
            make_plugin_config("r"),
        ],
        groups=[group],
    ) as harness:
        await harness.run_until(1)
        await harness.operations.stop("g")
        assert harness.states() == {"p/0": "stopped", "q/0": "stopped", "r/0": "ready"}
        assert harness.events_of("Stopped") == ["Stopped q", "Stopped p"]


async def test_scaling_up_and_down(autojump_clock: MockClock) -> None:
    async with make_supervisor([make_plugin_config("p"), make_plugin_config("q")]) as harness:
        await harness.run_until(1)
        await harness.operations.scale("p", 3)
        assert list(harness.states()) == ["p/0", "p/1", "p/2", "q/0"]
        assert count_endpoints(harness) == 3
        await harness.operations.scale("p", 1)
        assert list(harness.states()) == ["p/0", "q/0"]
        assert sorted(harness.events_of("Stopped")) == ["Stopped p/1", "Stopped p/2"]
        with pytest.raises(UsageError, match="cannot scale p to 0"):
            await harness.operations.scale("p", 0)


async def test_a_reload_touches_only_what_changed(autojump_clock: MockClock) -> None:
    same, scaled, gone = (
        make_plugin_config("same"),
        make_plugin_config("scaled"),
        make_plugin_config("gone"),
    )
    changed, adjusted = make_plugin_config("changed"), make_plugin_config("adjusted")
    async with make_supervisor([same, scaled, gone, changed, adjusted]) as harness:
        await harness.run_until(1)
        following = MeshConfig(
            [
                same,
                attrs.evolve(scaled, instances=2),
                attrs.evolve(changed, env={"K": "v"}),
                attrs.evolve(adjusted, restart=RestartPolicy.NEVER),
                make_plugin_config("new", depends_on=["same"]),
            ]
        )
        assert await harness.operations.reload(following) == ReloadResult(
            added=("new",),
            removed=("gone",),
            restarted=("changed",),
            scaled=("scaled",),
            adjusted=("adjusted",),
        )
        assert sorted(harness.states()) == [
            *["adjusted/0", "changed/0", "new/0", "same/0", "scaled/0", "scaled/1"]
        ]
        assert set(harness.states().values()) == {"ready"}
        started = {name: len(lives) for name, lives in harness.effects.processes.items()}
        assert started == {
            "same": 1,
            "scaled": 2,
            "gone": 1,
            "changed": 2,
            "adjusted": 1,
            "new": 1,
        }


def test_an_unchanged_config_changes_nothing() -> None:
    config = MeshConfig([make_plugin_config("p"), make_plugin_config("q")])
    assert compare_configs(config, config) == ReloadResult()


async def test_an_operation_ends_with_the_mesh(autojump_clock: MockClock) -> None:
    async with (
        make_supervisor([make_plugin_config("p")], {"p": [NEVER_READY]}) as harness,
        trio.open_nursery() as nursery,
    ):
        refused = trio.Event()

        async def start() -> None:
            with pytest.raises(UsageError, match="the mesh is stopping"):
                await harness.operations.start("p")
            refused.set()

        nursery.start_soon(start)
        await harness.run_until(1)
        harness.supervisor.start_shutdown()
        await refused.wait()


async def test_a_reload_that_has_failed_is_made_again(autojump_clock: MockClock) -> None:
    """Not told to have changed nothing: what runs is not what the config says."""
    scripts = {"p": [ProcessScript(), NEVER_READY, ProcessScript()]}
    async with make_supervisor(
        [make_plugin_config("p"), make_plugin_config("q")], scripts
    ) as harness:
        await harness.run_until(1)
        following = MeshConfig([make_plugin_config("p", env={"K": "v"}), make_plugin_config("q")])
        with pytest.raises(PluginFailedError, match="the active process keeps running"):
            await harness.operations.reload(following)
        assert await harness.operations.reload(following) == ReloadResult(restarted=("p",))
        assert await harness.operations.reload(following) == ReloadResult()
        assert len(harness.effects.processes["p"]) == 3


async def test_a_number_of_instances_that_cannot_be_changes_nothing(
    autojump_clock: MockClock,
) -> None:
    async with make_supervisor([make_plugin_config("p", metrics="127.0.0.1:65530")]) as harness:
        await harness.run_until(1)
        with pytest.raises(ConfigError, match="the highest is 65535"):
            await harness.operations.scale("p", 4)
        assert harness.states() == {"p/0": "ready"}


async def test_scaling_by_a_slip_of_the_finger_changes_nothing(autojump_clock: MockClock) -> None:
    async with make_supervisor(
        [make_plugin_config("p"), make_plugin_config("q", max_instances=3)]
    ) as harness:
        await harness.run_until(1)
        for name, instances in (("p", 3_000_000), ("p", 257), ("q", 4)):
            with pytest.raises(ConfigError, match=f"instances: {instances} is more than its max"):
                await harness.operations.scale(name, instances)
        assert harness.states() == {"p/0": "ready", "q/0": "ready"}
        await harness.operations.scale("q", 3)


async def test_why_nobody_serves_a_service_is_in_the_registry(autojump_clock: MockClock) -> None:
    never, once = (
        make_plugin_config("never", restart=RestartPolicy.NEVER),
        make_plugin_config("once"),
    )
    async with make_supervisor(
        [never, once], {"never": [ProcessScript(lifetime=1, ready_after=math.inf)]}
    ) as harness:
        await harness.run_until(2)
        await harness.operations.stop("once")
        (failed,) = harness.registry.resolve("plugin.never").exit_infos
        (stopped,) = harness.registry.resolve("plugin.once").exit_infos
    assert "exited with status" in failed.reason
    assert failed.is_process_exit
    assert stopped.reason.endswith("was stopped")
    assert (stopped.exit_status, stopped.signal) == (0, None)
