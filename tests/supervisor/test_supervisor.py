"""The supervisor in virtual time: backoff, intensity, groups, order and liveness."""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import MockClock

from meshtrio.config import (
    Containment,
    EscalationScope,
    GroupConfig,
    Liveness,
    RestartPolicy,
    Strategy,
)
from meshtrio.errors import MeshFailedError
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.supervisor.shutdown_report import ShutdownReport
from meshtrio.supervisor.statistics import LifecycleCounts
from meshtrio.util.backoff import Backoff
from tests.support.fake_processes import (
    NOT_ANSWERING,
    NOT_SERVING,
    SERVING,
    ProcessScript,
    make_plugin_config,
    make_supervisor,
)

STEADY = Backoff(initial=1, maximum=8, multiplier=2, jitter=0)
CRASHING = itertools.repeat(ProcessScript(lifetime=0.5))


async def test_backoff_grows_to_its_cap_and_starts_again_after_min_uptime(
    autojump_clock: MockClock,
) -> None:
    lives = [0.5] * 5 + [10] + [0.5] * 2
    scripts = {"p": (ProcessScript(lifetime=each) for each in lives)}
    async with make_supervisor(
        [make_plugin_config("p", backoff=STEADY, min_uptime=10)], scripts
    ) as harness:
        await harness.run_until(60)
        starts = harness.event_times("Starting p")
        ends = harness.event_times("Exited p")
        delays = [round(start - end, 3) for end, start in zip(ends, starts[1:], strict=True)]
        assert delays == [1, 2, 4, 8, 8, 1, 2, 4]
        assert harness.supervisor.statuses()[0].restarts == 8


async def test_too_many_restarts_and_the_plugin_alone_gives_up(autojump_clock: MockClock) -> None:
    plugin = make_plugin_config("p", backoff=STEADY, max_restarts=3, restart_period=60)
    async with make_supervisor([plugin, make_plugin_config("q")], {"p": CRASHING}) as harness:
        await harness.run_until(1000)
        assert harness.states() == {"p/0": "failed", "q/0": "ready"}
        assert len(harness.event_times("Starting p")) == 4
        assert harness.events_of("GaveUp") == ["GaveUp p"]


async def test_restarts_that_are_far_enough_apart_are_never_too_many(
    autojump_clock: MockClock,
) -> None:
    plugin = make_plugin_config("p", backoff=STEADY, max_restarts=3, restart_period=60)
    async with make_supervisor(
        [plugin], {"p": itertools.repeat(ProcessScript(lifetime=30))}
    ) as harness:
        await harness.run_until(1000)
        assert len(harness.event_times("Starting p")) == 33


async def test_a_failure_that_reaches_the_mesh_stops_everything_and_says_why(
    autojump_clock: MockClock,
) -> None:
    plugin = make_plugin_config("p", backoff=STEADY, max_restarts=2, escalate=EscalationScope.MESH)
    with pytest.raises(ExceptionGroup) as caught:
        async with make_supervisor(
            [plugin, make_plugin_config("q", depends_on=["p"])], {"p": CRASHING}
        ) as harness:
            await trio.sleep_forever()
    (error,) = caught.value.exceptions
    assert isinstance(error, MeshFailedError)
    assert str(error) == "plugin p/0 exited with status 1, after 2 restarts within 60 s"
    assert harness.events_of("Stopped") == ["Stopped q"]


async def test_a_plugin_waits_for_those_it_is_after(autojump_clock: MockClock) -> None:
    plugins = [
        make_plugin_config("web", depends_on=["api"]),
        make_plugin_config("api", depends_on=["db"]),
        make_plugin_config("db"),
        make_plugin_config("x"),
    ]
    scripts = {"db": [ProcessScript(ready_after=3)], "api": [ProcessScript(ready_after=2)]}
    async with make_supervisor(plugins, scripts) as harness:
        await harness.run_until(2.9)
        assert harness.states() == {
            "web/0": "pending",
            "api/0": "pending",
            "db/0": "starting",
            "x/0": "ready",
        }
        await harness.run_until(10)
        assert harness.event_times("Starting api") == [3]
        assert harness.event_times("Starting web") == [5]
    assert harness.events_of("Stopped")[-2:] == ["Stopped api", "Stopped db"]
    stops = harness.events_of("Stopping")
    assert stops.index("Stopping web") < stops.index("Stopping api") < stops.index("Stopping db")


async def test_a_plugin_that_dies_does_not_stop_those_after_it(autojump_clock: MockClock) -> None:
    scripts = {"db": [ProcessScript(lifetime=5)]}
    async with make_supervisor(
        [make_plugin_config("db", backoff=STEADY), make_plugin_config("api", depends_on=["db"])],
        scripts,
    ) as harness:
        await harness.run_until(20)
        assert harness.events_of("Starting") == ["Starting db", "Starting api", "Starting db"]


STRATEGIES = {
    Strategy.ONE_FOR_ONE: {"b"},
    Strategy.ONE_FOR_ALL: {"a", "b", "c"},
    Strategy.REST_FOR_ONE: {"b", "c"},
}


@pytest.mark.parametrize("strategy", Strategy)
async def test_a_group_restarts_members_by_its_strategy(
    strategy: Strategy, autojump_clock: MockClock
) -> None:
    plugins = [
        make_plugin_config("a"),
        make_plugin_config("b", backoff=STEADY),
        make_plugin_config("c", depends_on=["b"]),
        make_plugin_config("alone"),
    ]
    group = GroupConfig("g", ["a", "b", "c"], strategy)
    async with make_supervisor(plugins, {"b": [ProcessScript(lifetime=5)]}, [group]) as harness:
        await harness.run_until(5.5)
        stopped = {text.split()[1] for text in harness.events_of("Stopped")}
        assert stopped == STRATEGIES[strategy] - {"b"}
        await harness.run_until(30)
        again = {name for name in "abc" if len(harness.event_times(f"Starting {name}")) == 2}
        assert again == STRATEGIES[strategy]
        assert len(harness.event_times("Starting alone")) == 1
        if "c" in again:
            # In order: b first, which c waits for.
            assert harness.event_times("Starting c")[1] >= harness.event_times("Ready b")[1]


async def test_nobody_of_a_group_starts_before_all_have_stopped(autojump_clock: MockClock) -> None:
    plugins = [
        make_plugin_config("a"),
        make_plugin_config("b", backoff=STEADY),
        make_plugin_config("slow", stop_timeout=50),
    ]
    scripts = {"b": [ProcessScript(lifetime=5)], "slow": [ProcessScript(stop_duration=20)]}
    group = GroupConfig("g", ["a", "b", "slow"], Strategy.ONE_FOR_ALL)
    async with make_supervisor(plugins, scripts, [group]) as harness:
        await harness.run_until(40)
        assert harness.event_times("Starting a") == [0, 25.1]
        assert harness.event_times("Starting b") == [0, 25.1]


async def test_failures_go_up_from_group_to_group_and_end_the_mesh(
    autojump_clock: MockClock,
) -> None:
    # p gives up at its second failure; inner helps once, then outer once, then nobody is left.
    plugins = [
        make_plugin_config(
            "p", backoff=STEADY, max_restarts=1, restart_period=1e6, escalate=EscalationScope.GROUP
        ),
        make_plugin_config("in"),
        make_plugin_config("out"),
    ]
    inner = GroupConfig("inner", ["p", "in"], max_restarts=1, restart_period=1e6)
    outer = GroupConfig("outer", ["inner", "out"], Strategy.ONE_FOR_ALL, 1, 1e6)
    with pytest.raises(ExceptionGroup) as caught:
        async with make_supervisor(plugins, {"p": CRASHING}, [inner, outer]) as harness:
            await trio.sleep_forever()
    (error,) = caught.value.exceptions
    assert isinstance(error, MeshFailedError)
    assert error.groups == ("inner", "outer")
    assert harness.events_of("GroupRestarting") == ["GroupRestarting p"] * 2
    assert len(harness.event_times("Starting out")) == 2
    assert len(harness.event_times("Starting in")) == 2


async def test_what_was_done_is_not_started_again_with_its_group(autojump_clock: MockClock) -> None:
    plugins = [
        make_plugin_config("once", restart=RestartPolicy.ON_FAILURE),
        make_plugin_config("b", backoff=STEADY),
    ]
    scripts = {"once": [ProcessScript(lifetime=1, exit_status=0)], "b": [ProcessScript(lifetime=5)]}
    async with make_supervisor(
        plugins, scripts, [GroupConfig("g", ["once", "b"], Strategy.ONE_FOR_ALL)]
    ) as m:
        await m.run_until(30)
        assert m.states() == {"once/0": "exited", "b/0": "ready"}


async def test_a_silent_plugin_says_where_it_is_and_is_killed(autojump_clock: MockClock) -> None:
    plugin = make_plugin_config(
        "p", liveness=Liveness(interval=10, timeout=1, failure_threshold=3), backoff=STEADY
    )
    scripts = {
        "p": [
            ProcessScript(
                health_checks=[SERVING, NOT_ANSWERING, NOT_ANSWERING, SERVING, NOT_ANSWERING],
                stop_duration=99,
            )
        ]
    }
    async with make_supervisor([plugin], scripts) as harness:
        await harness.run_until(100)
        first = harness.effects.processes["p"][0]
        # Two failures in a row are not three; the fifth check's is the first of those.
        assert harness.event_times("Exited p") == [70]
        assert first.dumped
        assert first.returncode == -9
        assert harness.event_times("Starting p") == [0, 71]


async def test_not_serving_is_out_of_the_registry_and_alive(autojump_clock: MockClock) -> None:
    plugin = make_plugin_config("p", liveness=Liveness(interval=10))
    scripts = {
        "p": [
            ProcessScript(
                health_checks=[NOT_SERVING, NOT_SERVING, NOT_SERVING, NOT_SERVING, SERVING]
            )
        ]
    }
    async with make_supervisor([plugin], scripts) as harness:
        await harness.run_until(45)
        assert harness.states() == {"p/0": "unready"}
        assert harness.registry.resolve("plugin.p").endpoints == ()
        await harness.run_until(60)
        assert harness.states() == {"p/0": "ready"}
        assert len(harness.registry.resolve("plugin.p").endpoints) == 1
        assert harness.events_of("Starting", "Ready", "Unready") == [
            "Starting p",
            "Ready p",
            "Unready p",
            "Ready p",
        ]


async def test_checks_can_be_turned_off(autojump_clock: MockClock) -> None:
    plugin = make_plugin_config("p", liveness=Liveness(interval=0))
    async with make_supervisor(
        [plugin], {"p": [ProcessScript(health_checks=[NOT_ANSWERING])]}
    ) as harness:
        await harness.run_until(10_000)
        assert harness.states() == {"p/0": "ready"}


async def test_one_that_cannot_be_started_is_tried_again(autojump_clock: MockClock) -> None:
    refused = ProcessScript(spawn_error=OSError(13, "Permission denied"))
    async with make_supervisor(
        [make_plugin_config("p", backoff=STEADY)], {"p": [refused, refused]}
    ) as harness:
        await harness.run_until(2)
        assert "could not be started: Permission denied" in harness.supervisor.statuses()[0].reason
        await harness.run_until(10)
        assert harness.states() == {"p/0": "ready"}


async def test_old_ones_are_renewed_but_not_all_at_once(autojump_clock: MockClock) -> None:
    plugin = make_plugin_config("p", instances=3, max_age=1000, max_age_variance=0.2)
    async with make_supervisor(
        [plugin], {"p": itertools.repeat(ProcessScript(ready_after=1, stop_duration=1))}
    ) as harness:
        await harness.run_until(1500)
        times = [at for who in ("p", "p/1", "p/2") for at in harness.event_times(f"Renewing {who}")]
        assert len(times) == 3
        assert all(800 <= at <= 1202 for at in times)
        assert len(set(times)) == 3
        assert harness.events_of("Exited") == []


async def test_a_large_one_is_renewed_and_one_that_is_too_large_is_killed(
    autojump_clock: MockClock,
) -> None:
    plugin = make_plugin_config(
        "p", renew_above=100, containment=Containment(memory=1000), backoff=STEADY
    )
    async with make_supervisor([plugin]) as harness:
        await harness.run_until(10)
        harness.effects.resident_by_pgid[harness.effects.processes["p"][0].pid] = 100
        await harness.run_until(20)
        assert harness.events_of("Renewing") == []
        harness.effects.resident_by_pgid[harness.effects.processes["p"][0].pid] = 101
        await harness.run_until(30)
        assert harness.events_of("Renewing", "Exited") == ["Renewing p"]
        harness.effects.resident_by_pgid[harness.effects.processes["p"][1].pid] = 1001
        await harness.run_until(40)
        assert harness.events_of("Renewing", "Exited") == ["Renewing p", "Exited p"]
        assert harness.states() == {"p/0": "ready"}


async def test_the_report_tells_who_stopped_who_was_killed_and_who_is_left(
    autojump_clock: MockClock,
) -> None:
    scripts = {
        "stubborn": [ProcessScript(stop_duration=100)],
        "undead": [ProcessScript(stop_duration=100, is_unkillable=True)],
        "gone": [ProcessScript(lifetime=1, exit_status=0)],
    }
    plugins = [
        make_plugin_config("good"),
        make_plugin_config("stubborn"),
        make_plugin_config("undead"),
    ]
    plugins.append(make_plugin_config("gone", restart=RestartPolicy.NEVER))
    async with make_supervisor(plugins, scripts) as harness:
        await harness.run_until(10)
        assert harness.supervisor.shutdown_report == ShutdownReport()
    assert harness.supervisor.shutdown_report == ShutdownReport(
        ("good/0",),
        ("stubborn/0",),
        ("undead/0",),
        cut_calls_unknown=("good/0", "stubborn/0", "undead/0"),
    )
    assert str(harness.supervisor.shutdown_report) == (
        "1 processes stopped in time, 1 were killed (stubborn/0), "
        "1 could not be killed (undead/0), whether calls of good/0, stubborn/0, undead/0 were cut "
        "is not known"
    )


async def test_statistics_add_up(autojump_clock: MockClock) -> None:
    plugins = [
        make_plugin_config("p", backoff=STEADY, instances=2),
        make_plugin_config("q", max_restarts=0, backoff=STEADY),
    ]
    scripts = {"p": [ProcessScript(), ProcessScript(lifetime=5)], "q": [ProcessScript(lifetime=3)]}
    group = GroupConfig("g", ["p", "q"])
    async with make_supervisor(plugins, scripts, [group]) as harness:
        await harness.run_until(20)
        await harness.operations.restart("p")
        found = harness.supervisor.statistics()
        assert found.plugin("p").counts == LifecycleCounts(
            starts=5, restarts=1, renewals=2, exits=1
        )
        assert found.plugin("q").counts == LifecycleCounts(starts=1, exits=1, gave_up=1)
        assert dict(found.plugin("p").states) == {InstanceState.READY: 2}
        assert dict(found.plugin("q").states) == {InstanceState.FAILED: 1}
        assert found.total.counts == LifecycleCounts(6, 1, 2, exits=2, gave_up=1)
        assert found.groups[0].counts == found.total.counts
        assert found.total.instances == 3
        assert found.uptime >= 20
