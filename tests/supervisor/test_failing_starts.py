"""Plugins that do not start: their restarts come ever later, and nobody waits for them for ever."""

from __future__ import annotations

import itertools
import math

import attrs
import pytest
import trio
from trio.testing import MockClock

from meshtrio.config import MeshConfig, PluginConfig, RestartPolicy
from meshtrio.errors import PluginFailedError
from meshtrio.util.backoff import Backoff
from tests.support.fake_processes import (
    ProcessScript,
    SupervisorHarness,
    make_plugin_config,
    make_supervisor,
)

STEADY = Backoff(initial=1, maximum=60, multiplier=2, jitter=0)
NEVER_READY = ProcessScript(ready_after=math.inf)
DIES = ProcessScript(ready_after=math.inf, lifetime=0.5, exit_status=3)


def repeat_forever(script: ProcessScript) -> itertools.repeat[ProcessScript]:
    return itertools.repeat(script)


def make_crash_looping_config(name: str, **settings: object) -> PluginConfig:
    return make_plugin_config(name, backoff=STEADY, **settings)


async def assert_fails(operation: object, match: str) -> None:
    with pytest.raises(PluginFailedError, match=match), trio.fail_after(1000):
        await operation  # type: ignore[misc]


async def test_a_plugin_that_never_gets_ready_is_restarted_ever_later(
    autojump_clock: MockClock,
) -> None:
    """With a min_uptime that is as long as its ready_timeout, as both are by default."""
    plugin = make_crash_looping_config("p", ready_timeout=10, min_uptime=10)
    async with make_supervisor([plugin], {"p": repeat_forever(NEVER_READY)}) as harness:
        await harness.run_until(300)
        starts = harness.event_times("Starting p")
    pauses = [round(after - before - 10) for before, after in itertools.pairwise(starts)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_a_successor_that_never_gets_ready_is_started_ever_later(
    autojump_clock: MockClock,
) -> None:
    plugin = make_crash_looping_config("p", max_age=100, max_age_variance=0, ready_timeout=10)
    scripts = {"p": itertools.chain([ProcessScript()], repeat_forever(NEVER_READY))}
    async with make_supervisor([plugin], scripts) as harness:
        await harness.run_until(200)
        starts = harness.event_times("Starting p")[1:]
        assert harness.states() == {"p/0": "ready"}
    pauses = [after - before - 10 for before, after in itertools.pairwise(starts)]
    assert [math.floor(pause) for pause in pauses] == [1, 2, 4, 8, 16]


async def test_a_start_fails_with_the_first_process_that_does(autojump_clock: MockClock) -> None:
    async with make_supervisor(
        [make_crash_looping_config("p")], {"p": repeat_forever(DIES)}
    ) as harness:
        await harness.run_until(0.1)
        await assert_fails(
            harness.operations.start("p"), r"^p/0 exited with status 3; .* again in 1.0 s$"
        )
        assert harness.event_times("GaveUp p") == []
        await harness.run_until(1000)
        assert harness.states() == {"p/0": "backoff"}
        # It does not wait for the end of a long delay to try.
        before = trio.current_time()
        await assert_fails(harness.operations.start("p"), "p/0 exited with status 3")
        assert trio.current_time() - before < 1


async def test_a_start_succeeds_though_earlier_ones_failed(autojump_clock: MockClock) -> None:
    async with make_supervisor(
        [make_crash_looping_config("p")], {"p": [DIES, DIES, ProcessScript(ready_after=2)]}
    ) as harness:
        await harness.run_until(3)
        await harness.operations.start("p")
        assert harness.states() == {"p/0": "ready"}


async def test_what_a_plugin_waits_for_and_does_not_start_is_told(
    autojump_clock: MockClock,
) -> None:
    plugins = [
        make_crash_looping_config("a"),
        make_crash_looping_config("b", depends_on=["a"]),
        make_crash_looping_config("c", depends_on=["b"]),
    ]
    async with make_supervisor(plugins, {"a": repeat_forever(DIES)}) as harness:
        await assert_fails(
            harness.operations.start("c"), r"^c/0 waits for a/0 exited with status 3; "
        )
        await harness.operations.stop("a")
        await assert_fails(harness.operations.start("c"), r"^c/0 waits for a/0 is stopped$")


async def test_one_of_several_instances_is_enough_for_what_waits(autojump_clock: MockClock) -> None:
    plugins = [
        make_crash_looping_config("a", instances=2),
        make_crash_looping_config("b", depends_on=["a"]),
    ]
    async with make_supervisor(plugins, {"a": [DIES, ProcessScript(ready_after=5)]}) as harness:
        await harness.operations.start("b")
        assert harness.states()["b/0"] == "ready"


async def test_a_start_ends_if_the_plugin_is_stopped_meanwhile(autojump_clock: MockClock) -> None:
    async with (
        make_supervisor([make_crash_looping_config("p")], {"p": [NEVER_READY]}) as harness,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(assert_fails, harness.operations.start("p"), "p/0 is stopped")
        await harness.run_until(1)
        await harness.operations.stop("p")


async def restarted(harness: SupervisorHarness, *plugins: PluginConfig) -> MeshConfig:
    await harness.run_until(1)
    return MeshConfig([attrs.evolve(plugin, env={"K": "v"}) for plugin in plugins])


async def test_a_reload_tells_of_all_that_do_not_start_once_the_rest_is_done(
    autojump_clock: MockClock,
) -> None:
    slow, one, two = (
        make_crash_looping_config("slow"),
        make_crash_looping_config("one"),
        make_crash_looping_config("two"),
    )
    scripts = {
        "slow": [ProcessScript(), ProcessScript(ready_after=9)],
        "one": [ProcessScript(), DIES],
        "new": repeat_forever(DIES),
    }
    async with make_supervisor([slow, one, two], scripts) as harness:
        config = await restarted(harness, slow, one, two)
        config = attrs.evolve(config, plugins=[*config.plugins, make_crash_looping_config("new")])
        with pytest.raises(PluginFailedError) as caught, trio.fail_after(60):
            await harness.operations.reload(config)
        first, second = sorted(str(caught.value).splitlines())
        assert first.startswith("new/0 exited with status 3")
        assert second.startswith("the replacement of one/0 exited with status 3; the active")
        assert harness.supervisor.config is config
        assert len(harness.effects.processes["slow"]) == len(harness.effects.processes["two"]) == 2
        assert harness.states()["slow/0"] == "ready"


async def test_a_scale_fails_with_an_instance_that_does_not_start(
    autojump_clock: MockClock,
) -> None:
    async with make_supervisor(
        [make_crash_looping_config("p")],
        {"p": itertools.chain([ProcessScript()], repeat_forever(DIES))},
    ) as harness:
        await harness.run_until(1)
        await assert_fails(harness.operations.scale("p", 2), r"^p/1 exited with status 3; ")


async def test_a_clean_end_before_it_is_ready_is_a_failed_start(autojump_clock: MockClock) -> None:
    done = attrs.evolve(DIES, exit_status=0)
    async with make_supervisor(
        [make_crash_looping_config("p", restart=RestartPolicy.ON_FAILURE)], {"p": [done]}
    ) as harness:
        await assert_fails(harness.operations.start("p"), r"^p/0 exited with status 0$")


@pytest.mark.parametrize(("waited", "ends"), [(0.0, 10.0), (8.0, 18.0), (1000.0, 40.0)])
async def test_time_in_which_it_waited_for_a_cpu_does_not_count(
    waited: float, ends: float, autojump_clock: MockClock
) -> None:
    plugin = make_plugin_config("p", ready_timeout=10, restart=RestartPolicy.NEVER)
    async with make_supervisor([plugin], {"p": [ProcessScript(ready_after=1e6)]}) as harness:
        harness.effects.cpu_wait = waited
        await harness.run_until(100)
        assert harness.event_times("Exited p") == [ends]
        (status,) = harness.supervisor.statuses()
        assert "was not ready within 10 s: it is a fake" in status.reason
        assert ("since it waited for a CPU" in status.reason) == bool(waited)
