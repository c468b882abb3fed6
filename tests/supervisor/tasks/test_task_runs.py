"""Tasks in virtual time: order, retries, timeouts, schedules and requests."""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import MockClock

from meshtrio.config import RestartPolicy
from meshtrio.errors import PluginFailedError, UnknownNameError, UsageError
from meshtrio.supervisor.events import TaskMissed
from meshtrio.supervisor.tasks.state import TaskOutcome
from meshtrio.supervisor.tasks.task import TaskResult
from meshtrio.util.backoff import Backoff
from tests.support.fake_processes import (
    ProcessScript,
    make_plugin_config,
    make_supervisor,
    make_task_config,
)

STEADY = Backoff(initial=1, maximum=8, multiplier=2, jitter=0)
SUCCEEDING = ProcessScript(lifetime=2, exit_status=0)
FAILING = ProcessScript(lifetime=2, exit_status=3)
NOON = 1_780_315_200.0
"""Monday, 2026-06-01 12:00 UTC."""
EVERY_MINUTE = {"schedule": "* * * * *", "timezone": "UTC"}
WAITS = "waits for task migrate, which failed: exited with status 3"


async def test_a_graph_of_tasks_and_plugins(autojump_clock: MockClock) -> None:
    plugins = [
        make_plugin_config("web", depends_on={"migrate": "completed", "db": "ready"}),
        make_plugin_config("db"),
    ]
    tasks = [
        make_task_config("seed", depends_on={"migrate": "completed"}),
        make_task_config("migrate", depends_on=["db"]),
    ]
    scripts = {
        "db": [ProcessScript(ready_after=3)],
        "migrate": [SUCCEEDING],
        "seed": [SUCCEEDING],
    }
    async with make_supervisor(plugins, scripts, tasks=tasks) as harness:
        await harness.run_until(1)
        assert harness.task_states() == {"seed": "pending", "migrate": "pending"}
        reasons = [status.reason for status in harness.supervisor.task_statuses()]
        assert reasons == ["waits for task migrate to complete", "waits for db to be ready"]
        await harness.run_until(4)
        assert harness.task_states() == {"seed": "pending", "migrate": "running"}
        await harness.run_until(20)
        assert harness.event_times("Starting migrate") == [3]
        assert harness.event_times("Starting web") == harness.event_times("Starting seed") == [5]
        assert harness.task_states() == {"seed": "completed", "migrate": "completed"}
        assert harness.states() == {"web/0": "ready", "db/0": "ready"}
        status = harness.supervisor.task_statuses()[1]
        assert (status.last_outcome, status.last_duration) == (TaskOutcome.COMPLETED, 2)


async def test_what_depends_on_a_failed_task_is_not_started_until_it_succeeds(
    autojump_clock: MockClock,
) -> None:
    plugins = [
        make_plugin_config("web", depends_on={"migrate": "completed"}),
        make_plugin_config("front", depends_on=["web"]),
    ]
    tasks = [
        make_task_config("migrate", retries=2, backoff=STEADY),
        make_task_config("seed", depends_on={"migrate": "completed"}),
    ]
    scripts = {"migrate": [FAILING] * 4 + [SUCCEEDING] * 2 + [FAILING]}
    async with make_supervisor(plugins, scripts, tasks=tasks) as harness:
        await harness.run_until(2.5)
        assert harness.task_states()["migrate"] == "backoff"
        await harness.run_until(100)
        assert harness.event_times("Starting migrate") == [0, 3, 7]
        assert harness.events_of("TaskFailed") == ["TaskFailed migrate"]
        assert harness.states() == {"web/0": "pending", "front/0": "pending"}
        reasons = [status.reason for status in harness.supervisor.statuses()]
        assert reasons == [WAITS, f"waits for web, which {WAITS}"]
        assert harness.supervisor.task_statuses()[1].reason == WAITS
        with pytest.raises(PluginFailedError, match=f"web/0 {WAITS}"):
            await harness.operations.start("web")
        with pytest.raises(PluginFailedError, match=f"front/0 waits for web, which {WAITS}"):
            await harness.operations.start("front")
        with pytest.raises(UsageError, match=f"task seed {WAITS}"):
            await harness.operations.run_task("seed")
        # A run on request is not repeated.
        assert (await harness.operations.run_task("migrate")).exit.status == 3
        result = await harness.operations.run_task("migrate")
        assert (result.outcome, result.duration) == (TaskOutcome.COMPLETED, 2)
        await harness.run_until(150)
        assert harness.states() == {"web/0": "ready", "front/0": "ready"}
        # A later failure does not hold back those that have been started, or start again.
        await harness.operations.run_task("migrate")
        await harness.operations.run_task("migrate")
        assert harness.task_states()["migrate"] == "failed"
        await harness.operations.stop("web")
        await harness.operations.start("web")


async def test_while_starts_are_paused_tasks_are_stopped_and_none_is_started(
    autojump_clock: MockClock,
) -> None:
    """As while an upgrade waits."""
    tasks = [make_task_config("runs"), make_task_config("every", **EVERY_MINUTE)]
    scripts = {"runs": [ProcessScript(stop_duration=1)], "every": [SUCCEEDING] * 3}
    async with make_supervisor([], scripts, tasks=tasks, unix_time=NOON + 30) as harness:
        await harness.run_until(10)
        harness.supervisor.pause_starts()
        assert harness.supervisor.find_obstacle() == "task runs is running"
        harness.supervisor.tasks.tasks["runs"].request_stop()
        harness.supervisor.resume_starts()
        harness.supervisor.pause_starts()
        await harness.run_until(40)
        assert harness.task_states() == {"runs": "stopped", "every": "pending"}
        assert harness.event_times("Starting every") == []
        harness.supervisor.resume_starts()
        await harness.run_until(50)
        assert harness.event_times("Starting every") == [40]


async def test_an_upgrade_rejects_runs_and_attachments(autojump_clock: MockClock) -> None:
    plugins, tasks = [make_plugin_config("p")], [make_task_config("t", **EVERY_MINUTE)]
    async with make_supervisor(plugins, tasks=tasks) as harness:
        await harness.run_until(1)
        harness.operations.progress.is_upgrading = True
        with pytest.raises(UsageError, match="the mesh is being upgraded; try again"):
            await harness.operations.run_task("t")
        with pytest.raises(UsageError, match="the mesh is being upgraded; try again"):
            async with harness.operations.attach("p", 0, 1):
                pass
        assert harness.supervisor.tasks.find_obstacle() == ""


async def test_a_task_is_stopped_at_its_timeout_and_retried(autojump_clock: MockClock) -> None:
    task = make_task_config("slow", timeout=5, retries=1, backoff=STEADY, stop_timeout=3)
    scripts = {"slow": [ProcessScript(stop_duration=10), ProcessScript(stop_duration=1)]}
    async with make_supervisor([], scripts, tasks=[task]) as harness:
        await harness.run_until(100)
        assert harness.event_times("Starting slow") == [0, 9]
        assert harness.event_times("TaskFailed slow") == [15]
        (status,) = harness.supervisor.task_statuses()
        assert status.reason == "ran longer than its timeout of 5 s; it exited with status 0"
        assert status.retries == 1


async def test_a_program_that_cannot_be_started_is_a_failure(autojump_clock: MockClock) -> None:
    scripts = {"t": itertools.repeat(ProcessScript(spawn_error=FileNotFoundError(2, "No such")))}
    task = make_task_config("t", retries=1, backoff=STEADY)
    async with make_supervisor([], scripts, tasks=[task]) as harness:
        await harness.run_until(10)
        assert harness.event_times("NotStarted t") == [0, 1]
        assert harness.task_states() == {"t": "failed"}


async def test_a_plugin_that_has_exited_successfully_has_completed(
    autojump_clock: MockClock,
) -> None:
    plugins = [
        make_plugin_config("setup", restart=RestartPolicy.ON_FAILURE, backoff=STEADY),
        make_plugin_config("bad", restart=RestartPolicy.NEVER),
        make_plugin_config("web", depends_on={"setup": "completed"}),
        make_plugin_config("never", depends_on={"bad": "completed"}),
    ]
    scripts = {"setup": [FAILING, SUCCEEDING], "bad": [FAILING]}
    async with make_supervisor(plugins, scripts) as harness:
        await harness.run_until(100)
        assert harness.event_times("Starting web") == [5]
        assert harness.states()["never/0"] == "pending"
        reason = harness.supervisor.statuses()[3].reason
        assert reason == "waits for plugin bad, which failed: exited with status 3"


async def test_a_schedule_runs_without_overlap(autojump_clock: MockClock) -> None:
    lives = [90, 2, 2]
    scripts = {"t": (ProcessScript(lifetime=each, exit_status=0) for each in lives)}
    task = make_task_config("t", **EVERY_MINUTE)
    async with make_supervisor([], scripts, tasks=[task], unix_time=NOON + 10) as harness:
        await harness.run_until(10)
        (status,) = harness.supervisor.task_statuses()
        assert (status.state.value, status.next_time) == ("scheduled", NOON + 60)
        await harness.run_until(240)
        assert harness.event_times("Starting t") == [50, 170, 230]
        assert harness.event_times("TaskMissed t") == [110]
        (status,) = harness.supervisor.task_statuses()
        assert (status.missed, status.next_time) == (1, NOON + 300)
        assert status.last_success_at == NOON + 10 + 232


async def test_runs_that_were_missed_are_reported_and_not_made_up(
    autojump_clock: MockClock,
) -> None:
    scripts = {"t": itertools.repeat(SUCCEEDING)}
    task = make_task_config("t", **EVERY_MINUTE)
    async with make_supervisor([], scripts, tasks=[task], unix_time=NOON) as harness:
        await harness.run_until(70)
        harness.set_clock(NOON + 3600 + 45)
        await harness.run_until(80)
        (status,) = harness.supervisor.task_statuses()
        assert (status.missed, status.state.value) == (59, "scheduled")
        assert len(harness.event_times("Starting t")) == 1
        assert len(harness.event_times("TaskMissed t")) == 1
        await harness.run_until(90)
        assert harness.event_times("Starting t") == [60, 85]
        # Set back by less than three hours, nothing is repeated; by more, it follows the clock.
        harness.set_clock(NOON + 1800)
        await harness.run_until(90 + 1800)
        assert len(harness.event_times("Starting t")) == 2
        harness.set_clock(NOON - 86400)
        await harness.run_until(90 + 1800 + 65)
        assert len(harness.event_times("Starting t")) == 3


async def test_a_scheduled_task_that_waits_runs_once(autojump_clock: MockClock) -> None:
    task = make_task_config("t", depends_on=["db"], **EVERY_MINUTE)
    scripts = {"db": [ProcessScript(ready_after=150)], "t": itertools.repeat(SUCCEEDING)}
    plugin = make_plugin_config("db", ready_timeout=1000)
    async with make_supervisor([plugin], scripts, tasks=[task], unix_time=NOON) as harness:
        await harness.run_until(100)
        assert harness.supervisor.task_statuses()[0].reason == "waits for db to be ready"
        await harness.run_until(185)
        assert harness.event_times("Starting t") == [150, 180]
        assert harness.event_times("TaskMissed t") == [120]


async def test_a_scheduled_task_retries_and_is_scheduled_again(autojump_clock: MockClock) -> None:
    task = make_task_config("t", retries=1, backoff=STEADY, **EVERY_MINUTE)
    async with make_supervisor(
        [], {"t": [FAILING] * 2 + [SUCCEEDING]}, tasks=[task], unix_time=NOON
    ) as harness:
        await harness.run_until(70)
        (status,) = harness.supervisor.task_statuses()
        assert (status.state.value, status.last_outcome) == ("scheduled", TaskOutcome.FAILED)
        assert status.reason == "exited with status 3"
        await harness.run_until(130)
        (status,) = harness.supervisor.task_statuses()
        assert (status.last_outcome, status.reason) == (TaskOutcome.COMPLETED, "")
        assert harness.event_times("Starting t") == [60, 63, 120]


async def test_a_run_on_request_while_it_runs_is_an_error(autojump_clock: MockClock) -> None:
    task = make_task_config("t")
    async with make_supervisor([make_plugin_config("p")], tasks=[task]) as harness:
        await harness.run_until(1)
        with pytest.raises(UsageError, match=r"task t is running already \(pid \d+\)"):
            await harness.operations.run_task("t")
        with pytest.raises(UsageError, match="p is not a task"):
            await harness.operations.run_task("p")
        with pytest.raises(UsageError, match="t is a task"):
            await harness.operations.start("t")
        with pytest.raises(UnknownNameError, match="the tasks are: t"):
            await harness.operations.run_task("x")


async def test_a_cancelled_request_stops_the_run(autojump_clock: MockClock) -> None:
    task = make_task_config("t", **EVERY_MINUTE)
    async with make_supervisor([], tasks=[task], unix_time=NOON) as harness:
        with trio.move_on_after(5):
            await harness.operations.run_task("t")
        await harness.run_until(6)
        assert harness.task_states() == {"t": "scheduled"}
        assert harness.events_of("Stopped") == ["Stopped t"]


async def test_a_cancelled_request_leaves_the_run_that_was_to_take_place(
    autojump_clock: MockClock,
) -> None:
    scripts = {"db": [ProcessScript(ready_after=5)], "t": [SUCCEEDING]}
    tasks = [make_task_config("t", depends_on=["db"])]
    async with make_supervisor([make_plugin_config("db")], scripts, tasks=tasks) as harness:
        with trio.move_on_after(2):
            await harness.operations.run_task("t")
        await harness.run_until(10)
        assert harness.task_states() == {"t": "completed"}


async def test_missed_runs_of_each_second_are_reported_together(autojump_clock: MockClock) -> None:
    task = make_task_config("t", schedule="* * * * * *", timezone="UTC")
    scripts = {"t": [ProcessScript(lifetime=100, exit_status=0)]}
    async with make_supervisor([], scripts, tasks=[task], unix_time=NOON) as harness:
        counts: list[int] = []
        harness.supervisor.subscribe(
            lambda event: counts.append(event.count) if isinstance(event, TaskMissed) else None
        )
        await harness.run_until(101.5)
        assert harness.event_times("TaskMissed t") == [2, 61, 101]
        assert counts == [1, 59, 40]
        assert harness.supervisor.task_statuses()[0].missed == 100


async def test_a_run_that_leaves_a_process_is_not_repeated(autojump_clock: MockClock) -> None:
    task = make_task_config("t", retries=3, timeout=1, backoff=STEADY)
    async with make_supervisor(
        [], {"t": [ProcessScript(is_unkillable=True, stop_duration=9)]}, tasks=[task]
    ) as harness:
        await harness.run_until(100)
        assert len(harness.event_times("Starting t")) == 1
        assert "cannot be killed, left running" in harness.supervisor.task_statuses()[0].reason
        harness.effects.guarded_pids.clear()


async def test_stop_ends_a_run_a_backoff_and_a_wait(autojump_clock: MockClock) -> None:
    tasks = [
        make_task_config("runs"),
        make_task_config("fails", retries=100, backoff=Backoff(initial=50, maximum=50)),
        make_task_config("waits", depends_on={"runs": "completed"}),
    ]
    async with make_supervisor([], {"fails": [FAILING]}, tasks=tasks) as harness:
        results: list[TaskResult] = []
        async with trio.open_nursery() as nursery:

            async def request() -> None:
                results.append(await harness.operations.run_task("waits"))

            nursery.start_soon(request)
            await harness.run_until(5)
            assert harness.task_states() == {
                "runs": "running",
                "fails": "backoff",
                "waits": "pending",
            }
            (drained,) = await harness.operations.stop("waits")
            assert drained.exit is None
        assert results[0].outcome is TaskOutcome.STOPPED
        (drained,) = await harness.operations.stop("runs")
        assert drained.exit is not None
        await harness.operations.stop("fails")
        await harness.run_until(200)
        assert set(harness.task_states().values()) == {"stopped"}
        assert len(harness.events_of("Starting")) == 2


async def test_the_mesh_stops_tasks_before_plugins(autojump_clock: MockClock) -> None:
    plugins = [make_plugin_config("db"), make_plugin_config("other")]
    tasks = [
        make_task_config("long", depends_on=["db"], stop_timeout=10),
        make_task_config("second", depends_on={"first": "completed"}),
        make_task_config("first"),
        make_task_config("fails", retries=5, backoff=Backoff(initial=500, maximum=500)),
    ]
    scripts = {
        "long": [ProcessScript(stop_duration=4)],
        "first": [SUCCEEDING, ProcessScript()],
        "second": [ProcessScript(stop_duration=2)],
        "fails": [FAILING],
    }
    async with make_supervisor(plugins, scripts, tasks=tasks) as harness:
        async with trio.open_nursery() as nursery:

            async def request() -> None:
                with pytest.raises(UsageError, match="the mesh is stopping"):
                    await harness.operations.run_task("first")

            await harness.run_until(5)
            nursery.start_soon(request)
            await harness.run_until(6)
            assert harness.task_states()["fails"] == "backoff"
            harness.supervisor.start_shutdown()
        await harness.run_until(30)
        stops = [(at - 6, event) for at, event in harness.log if at >= 6 and "Stop" in event]
        assert sorted(stops) == [
            (0, "Stopping long"),
            (0, "Stopping second"),
            (2, "Stopped first"),
            (2, "Stopped second"),
            (2, "Stopping first"),
            (4, "Stopped db"),
            (4, "Stopped long"),
            (4, "Stopped other"),
            (4, "Stopping db"),
            (4, "Stopping other"),
        ]
        with pytest.raises(UsageError, match="the mesh is stopping"):
            await harness.operations.run_task("fails")


async def test_two_hundred_tasks(autojump_clock: MockClock) -> None:
    names = [f"t{number}" for number in range(200)]
    tasks = [
        make_task_config(name, depends_on={before: "completed"} if number % 10 else [])
        for number, (before, name) in enumerate(zip(["", *names], names, strict=False))
    ]
    scripts = {name: [SUCCEEDING] for name in names}
    async with make_supervisor([], scripts, tasks=tasks) as harness:
        await harness.run_until(19.9)
        assert list(harness.task_states().values()).count("completed") == 180
        await harness.run_until(21)
        assert set(harness.task_states().values()) == {"completed"}
