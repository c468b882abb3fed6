"""The tree in virtual time: backoff, intensity, groups, order and liveness, without a process."""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import MockClock

from meshtrio.backoff import Backoff
from meshtrio.config import Containment, Escalate, GroupConfig, Liveness, RestartPolicy, Strategy
from meshtrio.errors import MeshFailedError
from meshtrio.supervise.decisions.state import State
from meshtrio.supervise.report import ShutdownReport
from meshtrio.supervise.statistics import Counts
from tests.supervise.fakes import NOT_SERVING, SERVING, SILENT, Script, lab, plug

STEADY = Backoff(initial=1, maximum=8, multiplier=2, jitter=0)
CRASHING = itertools.repeat(Script(lives=0.5))


async def test_backoff_grows_to_its_cap_and_starts_again_after_min_uptime(
    autojump_clock: MockClock,
) -> None:
    lives = [0.5] * 5 + [10] + [0.5] * 2
    scripts = {"p": (Script(lives=each) for each in lives)}
    async with lab([plug("p", backoff=STEADY, min_uptime=10)], scripts) as made:
        await made.run_until(60)
        starts = made.times("Starting p")
        ends = made.times("Exited p")
        delays = [round(start - end, 3) for end, start in zip(ends, starts[1:], strict=True)]
        assert delays == [1, 2, 4, 8, 8, 1, 2, 4]
        assert made.tree.statuses()[0].restarts == 8


async def test_too_many_restarts_and_the_plugin_alone_gives_up(autojump_clock: MockClock) -> None:
    plugin = plug("p", backoff=STEADY, max_restarts=3, restart_period=60)
    async with lab([plugin, plug("q")], {"p": CRASHING}) as made:
        await made.run_until(1000)
        assert made.states() == {"p/0": "failed", "q/0": "ready"}
        assert len(made.times("Starting p")) == 4
        assert made.told("GaveUp") == ["GaveUp p"]


async def test_restarts_that_are_far_enough_apart_are_never_too_many(
    autojump_clock: MockClock,
) -> None:
    plugin = plug("p", backoff=STEADY, max_restarts=3, restart_period=60)
    async with lab([plugin], {"p": itertools.repeat(Script(lives=30))}) as made:
        await made.run_until(1000)
        assert len(made.times("Starting p")) > 30


async def test_a_failure_that_reaches_the_mesh_stops_everything_and_says_why(
    autojump_clock: MockClock,
) -> None:
    plugin = plug("p", backoff=STEADY, max_restarts=2, escalate=Escalate.MESH)
    with pytest.raises(ExceptionGroup) as caught:
        async with lab([plugin, plug("q", after=["p"])], {"p": CRASHING}) as made:
            await trio.sleep_forever()
    (error,) = caught.value.exceptions
    assert isinstance(error, MeshFailedError)
    assert str(error) == "plugin p/0 exited with status 1, after 2 restarts within 60 s"
    assert made.told("Stopped") == ["Stopped q"]


async def test_a_plugin_waits_for_those_it_is_after(autojump_clock: MockClock) -> None:
    plugins = [plug("web", after=["api"]), plug("api", after=["db"]), plug("db"), plug("x")]
    scripts = {"db": [Script(ready=3)], "api": [Script(ready=2)]}
    async with lab(plugins, scripts) as made:
        await made.run_until(2.9)
        assert made.states() == {
            "web/0": "pending",
            "api/0": "pending",
            "db/0": "starting",
            "x/0": "ready",
        }
        await made.run_until(10)
        assert made.times("Starting api") == [3]
        assert made.times("Starting web") == [5]
    assert made.told("Stopped")[-2:] == ["Stopped api", "Stopped db"]
    stops = made.told("Stopping")
    assert stops.index("Stopping web") < stops.index("Stopping api") < stops.index("Stopping db")


async def test_a_plugin_that_dies_does_not_stop_those_after_it(autojump_clock: MockClock) -> None:
    scripts = {"db": [Script(lives=5)]}
    async with lab([plug("db", backoff=STEADY), plug("api", after=["db"])], scripts) as made:
        await made.run_until(20)
        assert made.told("Starting") == ["Starting db", "Starting api", "Starting db"]


STRATEGIES = {
    Strategy.ONE_FOR_ONE: {"b"},
    Strategy.ONE_FOR_ALL: {"a", "b", "c"},
    Strategy.REST_FOR_ONE: {"b", "c"},
}


@pytest.mark.parametrize("strategy", Strategy)
async def test_a_group_restarts_members_by_its_strategy(
    strategy: Strategy, autojump_clock: MockClock
) -> None:
    plugins = [plug("a"), plug("b", backoff=STEADY), plug("c", after=["b"]), plug("alone")]
    group = GroupConfig("g", ["a", "b", "c"], strategy)
    async with lab(plugins, {"b": [Script(lives=5)]}, [group]) as made:
        await made.run_until(5.5)
        stopped = {text.split()[1] for text in made.told("Stopped")}
        assert stopped == STRATEGIES[strategy] - {"b"}
        await made.run_until(30)
        again = {name for name in "abc" if len(made.times(f"Starting {name}")) == 2}
        assert again == STRATEGIES[strategy]
        assert len(made.times("Starting alone")) == 1
        if "c" in again:
            # In order: b first, which c waits for.
            assert made.times("Starting c")[1] >= made.times("Ready b")[1]


async def test_nobody_of_a_group_starts_before_all_have_stopped(autojump_clock: MockClock) -> None:
    plugins = [plug("a"), plug("b", backoff=STEADY), plug("slow", stop_timeout=50)]
    scripts = {"b": [Script(lives=5)], "slow": [Script(stops=20)]}
    group = GroupConfig("g", ["a", "b", "slow"], Strategy.ONE_FOR_ALL)
    async with lab(plugins, scripts, [group]) as made:
        await made.run_until(40)
        assert made.times("Starting a") == [0, 25.1]
        assert made.times("Starting b") == [0, 25.1]


async def test_failures_go_up_from_group_to_group_and_end_the_mesh(
    autojump_clock: MockClock,
) -> None:
    # p gives up at its second failure; inner helps once, then outer once, then nobody is left.
    plugins = [
        plug("p", backoff=STEADY, max_restarts=1, restart_period=1e6, escalate=Escalate.GROUP),
        plug("in"),
        plug("out"),
    ]
    inner = GroupConfig("inner", ["p", "in"], max_restarts=1, restart_period=1e6)
    outer = GroupConfig("outer", ["inner", "out"], Strategy.ONE_FOR_ALL, 1, 1e6)
    with pytest.raises(ExceptionGroup) as caught:
        async with lab(plugins, {"p": CRASHING}, [inner, outer]) as made:
            await trio.sleep_forever()
    (error,) = caught.value.exceptions
    assert isinstance(error, MeshFailedError)
    assert error.groups == ("inner", "outer")
    assert made.told("GroupRestarting") == ["GroupRestarting p"] * 2
    assert len(made.times("Starting out")) == 2
    assert len(made.times("Starting in")) == 2


async def test_what_was_done_is_not_started_again_with_its_group(autojump_clock: MockClock) -> None:
    plugins = [
        plug("once", restart=RestartPolicy.ON_FAILURE),
        plug("b", backoff=STEADY),
    ]
    scripts = {"once": [Script(lives=1, status=0)], "b": [Script(lives=5)]}
    async with lab(plugins, scripts, [GroupConfig("g", ["once", "b"], Strategy.ONE_FOR_ALL)]) as m:
        await m.run_until(30)
        assert m.states() == {"once/0": "exited", "b/0": "ready"}


async def test_a_silent_plugin_says_where_it_is_and_is_killed(autojump_clock: MockClock) -> None:
    plugin = plug("p", liveness=Liveness(interval=10, timeout=1, threshold=3), backoff=STEADY)
    scripts = {"p": [Script(answers=[SERVING, SILENT, SILENT, SERVING, SILENT], stops=99)]}
    async with lab([plugin], scripts) as made:
        await made.run_until(100)
        first = made.world.processes["p"][0]
        # Two failures in a row are not three; the fifth check's is the first of those.
        assert made.times("Exited p") == [70]
        assert first.dumped
        assert first.returncode == -9
        assert made.times("Starting p") == [0, 71]


async def test_not_serving_is_out_of_the_registry_and_alive(autojump_clock: MockClock) -> None:
    plugin = plug("p", liveness=Liveness(interval=10))
    scripts = {"p": [Script(answers=[NOT_SERVING, NOT_SERVING, NOT_SERVING, NOT_SERVING, SERVING])]}
    async with lab([plugin], scripts) as made:
        await made.run_until(45)
        assert made.states() == {"p/0": "unready"}
        assert made.registry.resolve("plugin.p").endpoints == ()
        await made.run_until(60)
        assert made.states() == {"p/0": "ready"}
        assert len(made.registry.resolve("plugin.p").endpoints) == 1
        assert made.told("Starting", "Ready", "Unready") == [
            "Starting p",
            "Ready p",
            "Unready p",
            "Ready p",
        ]


async def test_checks_can_be_turned_off(autojump_clock: MockClock) -> None:
    plugin = plug("p", liveness=Liveness(interval=0))
    async with lab([plugin], {"p": [Script(answers=[SILENT])]}) as made:
        await made.run_until(10_000)
        assert made.states() == {"p/0": "ready"}


async def test_one_that_cannot_be_started_is_tried_again(autojump_clock: MockClock) -> None:
    refused = Script(refuses=OSError(13, "Permission denied"))
    async with lab([plug("p", backoff=STEADY)], {"p": [refused, refused]}) as made:
        await made.run_until(2)
        assert "could not be started: Permission denied" in made.tree.statuses()[0].reason
        await made.run_until(10)
        assert made.states() == {"p/0": "ready"}


async def test_old_ones_are_renewed_but_not_all_at_once(autojump_clock: MockClock) -> None:
    plugin = plug("p", instances=3, max_age=1000, max_age_variance=0.2)
    async with lab([plugin], {"p": itertools.repeat(Script(ready=1, stops=1))}) as made:
        await made.run_until(1500)
        times = [at for who in ("p", "p/1", "p/2") for at in made.times(f"Renewing {who}")]
        assert len(times) == 3
        assert all(800 <= at <= 1202 for at in times)
        assert len(set(times)) == 3
        assert made.told("Exited") == []


async def test_a_large_one_is_renewed_and_one_that_is_too_large_is_killed(
    autojump_clock: MockClock,
) -> None:
    plugin = plug("p", renew_above=100, containment=Containment(memory=1000), backoff=STEADY)
    async with lab([plugin]) as made:
        await made.run_until(10)
        made.world.resident[made.world.processes["p"][0].pid] = 100
        await made.run_until(20)
        assert made.told("Renewing") == []
        made.world.resident[made.world.processes["p"][0].pid] = 101
        await made.run_until(30)
        assert made.told("Renewing", "Exited") == ["Renewing p"]
        made.world.resident[made.world.processes["p"][1].pid] = 1001
        await made.run_until(40)
        assert made.told("Renewing", "Exited") == ["Renewing p", "Exited p"]
        assert made.states() == {"p/0": "ready"}


async def test_the_report_tells_who_stopped_who_was_killed_and_who_is_left(
    autojump_clock: MockClock,
) -> None:
    scripts = {
        "stubborn": [Script(stops=100)],
        "undead": [Script(stops=100, unkillable=True)],
        "gone": [Script(lives=1, status=0)],
    }
    plugins = [plug("good"), plug("stubborn"), plug("undead")]
    plugins.append(plug("gone", restart=RestartPolicy.NEVER))
    async with lab(plugins, scripts) as made:
        await made.run_until(10)
        assert made.tree.report == ShutdownReport()
    assert made.tree.report == ShutdownReport(
        ("good/0",),
        ("stubborn/0",),
        ("undead/0",),
        cut_calls_unknown=("good/0", "stubborn/0", "undead/0"),
    )
    assert str(made.tree.report) == (
        "1 processes stopped by themselves, 1 were killed (stubborn/0), 1 could not be (undead/0), "
        "whether calls of good/0, stubborn/0, undead/0 were cut is not known"
    )


async def test_statistics_add_up(autojump_clock: MockClock) -> None:
    plugins = [plug("p", backoff=STEADY, instances=2), plug("q", max_restarts=0, backoff=STEADY)]
    scripts = {"p": [Script(), Script(lives=5)], "q": [Script(lives=3)]}
    group = GroupConfig("g", ["p", "q"])
    async with lab(plugins, scripts, [group]) as made:
        await made.run_until(20)
        await made.operations.restart("p")
        found = made.tree.statistics()
        assert found.plugin("p").counts == Counts(starts=5, restarts=1, renewals=2, exits=1)
        assert found.plugin("q").counts == Counts(starts=1, exits=1, gave_up=1)
        assert dict(found.plugin("p").states) == {State.READY: 2}
        assert dict(found.plugin("q").states) == {State.FAILED: 1}
        assert found.total.counts == Counts(6, 1, 2, exits=2, gave_up=1)
        assert found.groups[0].counts == found.total.counts
        assert found.total.instances == 3
        assert found.uptime >= 20
