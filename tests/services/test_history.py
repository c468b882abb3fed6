"""`ProcessHistory`: what is kept of processes, what bounds it, and what an upgrade hands over."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from meshtrio.config import StartMethod
from meshtrio.messages import control
from meshtrio.services import history as history_module
from meshtrio.services import life_store
from meshtrio.services.history import ProcessHistory
from meshtrio.services.saved_history import SavedHistory
from meshtrio.supervisor import events
from meshtrio.supervisor.policy.restart import Exit
from meshtrio.supervisor.policy.state import InstancePhase, InstanceState
from meshtrio.supervisor.tasks.state import TaskState
from meshtrio.util.errors import UnknownNameError
from meshtrio.util.plain_data import from_plain, to_plain

MIB = 1024 * 1024
FAILED = Exit(status=3, stderr_tail=tuple(f"line {n}" for n in range(12)))
CLEAN = Exit(status=0)
HOUR = 3600.0


class Clock:
    """The wall clock."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(history_module, "time", clock)
    monkeypatch.setattr("meshtrio.services.history_reader.time", clock)
    return clock


@attrs.define(eq=False)
class FakeInstance:
    """What the history asks an instance."""

    key: tuple[str, int]
    phase: InstancePhase = InstancePhase.RUNNING
    state: InstanceState = InstanceState.BACKOFF
    is_demanded: bool = False
    is_running: bool = True
    attachment: Any = None
    process: Any = None
    active_run: Any = None

    def set_process(
        self, pid: int, uptime: float, ready_after: float | None = None, *, is_ready: bool = False
    ) -> None:
        self.process = SimpleNamespace(pid=pid, start_method=StartMethod.FORK)
        self.active_run = SimpleNamespace(
            process=self.process, uptime=uptime, ready_after=ready_after, is_ready=is_ready
        )


class FakeMesh:
    """A supervisor with instances and tasks by name, and what happens to them."""

    def __init__(self, clock: Clock, *plugins: str, task: str = "") -> None:
        self.clock = clock
        self.instances = [FakeInstance((name, 0)) for name in plugins]
        tasks = {task: SimpleNamespace(key=(task, 0), is_running=False, state=TaskState.SCHEDULED)}
        self.tasks = SimpleNamespace(tasks=tasks if task else {})
        self.history = ProcessHistory(self)  # type: ignore[arg-type]

    def subscribe(self, _: Callable[..., None]) -> None:
        """As the supervisor's."""

    def emit(
        self, kind: type[events.LifecycleEvent], plugin: str, instance: int = 0, **values: Any
    ) -> None:
        self.clock.now += 1
        self.history.on_event(kind(plugin, instance, **values))

    def start(self, plugin: str, pid: int, **values: Any) -> None:
        self.emit(events.Starting, plugin, pid=pid, **values)
        self.emit(events.Ready, plugin, pid=pid, startup_time=1.0)

    def fail(self, plugin: str, pid: int, exit: Exit = FAILED) -> None:
        self.emit(events.Exited, plugin, pid=pid, exit=exit)
        self.emit(events.Restarting, plugin, delay=0.5)

    def read(self, since: float = 0, before: int = 0) -> control.GetHistoryResponse:
        return trio.run(self.history.read, lambda _: True, since, before)

    def lives(self, since: float = 0, before: int = 0) -> list[control.Life]:
        return [*self.read(since, before).lives]


def kinds(life: control.Life) -> list[str]:
    return [moment.kind for moment in life.moments]


def test_a_life_from_its_start_to_what_follows(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.start("a", 7, start=StartMethod.FORK)
    mesh.emit(events.Unready, "a", pid=7, reason="it reports NOT_SERVING")
    mesh.emit(events.Ready, "a", pid=7, startup_time=9.0, was_ready_before=True)
    (life,) = mesh.lives()
    assert (life.id, life.plugin, life.instance, life.task, life.pid) == (1, "a", 0, False, 7)
    assert (life.follows, life.outcome, life.next_state) == ("start", "", "")
    assert not life.HasField("ended")
    mesh.fail("a", 7)
    mesh.emit(events.Swept, "a", count=2)
    (life,) = mesh.lives()
    assert kinds(life) == ["ready", "unready", "ready", "exited", "restarting", "swept"]
    assert (life.ended - life.started, life.start) == (4.0, "exec")
    assert (life.outcome, life.reason) == ("failed", "exited with status 3")
    assert (life.exit_status, life.HasField("signal")) == (3, False)
    assert life.last_lines == [f"line {n}" for n in range(2, 12)]
    assert life.next_state == "backoff"
    assert life.moments[1].text == "pid 7 is not ready: it reports NOT_SERVING"


def test_only_failures_keep_the_last_lines(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.start("a", 1)
    mesh.emit(events.Exited, "a", pid=1, exit=attrs.evolve(FAILED, status=0))
    mesh.start("a", 2)
    mesh.emit(events.Stopped, "a", pid=2, exit=FAILED, was_killed=True)
    first, second = mesh.lives()
    assert (first.outcome, first.last_lines) == ("exited", [])
    assert (second.outcome, second.last_lines) == ("stopped", [])
    assert second.reason == "did not stop in time and exited with status 3"


def test_a_start_that_fails_is_a_life_without_a_process(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.emit(events.NotStarted, "a", exit=Exit(reason="could not be started: no such file"))
    (life,) = mesh.lives()
    assert (life.outcome, life.started, life.HasField("pid")) == ("not-started", life.ended, False)
    assert life.reason == "could not be started: no such file"


def stop(mesh: FakeMesh, phase: InstancePhase) -> None:
    mesh.instances[0].phase = phase
    mesh.emit(events.Stopped, "a", pid=1, exit=CLEAN, was_killed=False)
    mesh.instances[0].phase = InstancePhase.WAITING


def renew(mesh: FakeMesh) -> None:
    mesh.emit(events.Renewing, "a", reason="a restart was requested")


def restart_group(mesh: FakeMesh) -> None:
    mesh.emit(events.GaveUp, "a", exit=FAILED)
    mesh.emit(events.GroupRestarting, "a", group="g", plugins=("a", "b"))


def stop_while_attached(mesh: FakeMesh) -> None:
    mesh.instances[0].attachment = "attached"
    stop(mesh, InstancePhase.RESTARTING)


def demand(mesh: FakeMesh) -> None:
    stop(mesh, InstancePhase.IDLING)
    mesh.instances[0].is_demanded = True


def exit_and_demand(mesh: FakeMesh) -> None:
    mesh.emit(events.Exited, "a", pid=1, exit=CLEAN)
    mesh.instances[0].is_demanded = True


@pytest.mark.parametrize(
    ("happens", "follows", "state"),
    [
        (lambda mesh: mesh.fail("a", 1), "restart", "backoff"),
        (renew, "renewal", ""),
        (lambda mesh: stop(mesh, InstancePhase.STOPPING), "start", "stopped"),
        (lambda mesh: stop(mesh, InstancePhase.RESTARTING), "group-restart", "pending"),
        (lambda mesh: (renew(mesh), stop(mesh, InstancePhase.RESTARTING)), "renewal", "pending"),
        (lambda mesh: (renew(mesh), stop(mesh, InstancePhase.STOPPING)), "start", "stopped"),
        (stop_while_attached, "start", "pending"),
        (lambda mesh: (mesh.fail("a", 1), restart_group(mesh)), "group-restart", "backoff"),
        (demand, "demand", "idle"),
        (exit_and_demand, "demand", "idle"),
    ],
)
def test_what_a_process_is_started_for(
    clock: Clock, happens: Callable[[FakeMesh], None], follows: str, state: str
) -> None:
    mesh = FakeMesh(clock, "a", "b")
    mesh.start("a", 1)
    happens(mesh)
    mesh.start("a", 2)
    first, second = mesh.lives()
    assert (second.follows, first.next_state) == (follows, state)
    mesh.instances[0].is_demanded = False
    mesh.emit(events.Exited, "a", pid=2, exit=CLEAN)
    mesh.start("a", 3)
    assert mesh.lives()[-1].follows == "start"


def test_other_members_of_a_group_are_restarted_with_it(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a", "b")
    mesh.start("a", 1)
    mesh.start("b", 2)
    mesh.emit(events.Exited, "a", pid=1, exit=FAILED)
    restart_group(mesh)
    mesh.instances[1].phase = InstancePhase.RESTARTING
    mesh.emit(events.Stopped, "b", pid=2, exit=CLEAN, was_killed=False)
    mesh.start("b", 3)
    assert [(life.plugin, life.follows) for life in mesh.lives()] == [
        ("a", "start"), ("b", "start"), ("b", "group-restart"),
    ]  # fmt: skip


def test_two_lives_of_an_instance_during_a_renewal(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.start("a", 1)
    renew(mesh)
    mesh.start("a", 2)
    mesh.emit(events.Stopping, "a", pid=1)
    mesh.emit(events.Stopped, "a", pid=1, exit=CLEAN, was_killed=False)
    mesh.emit(events.LogLevelSet, "a", level=None)
    first, second = mesh.lives()
    assert kinds(first) == ["ready", "renewing", "draining", "exited"]
    assert kinds(second) == ["ready", "log-level-set"]
    assert (first.next_state, first.outcome, second.outcome) == ("", "stopped", "")


def test_runs_of_a_task(clock: Clock) -> None:
    mesh = FakeMesh(clock, task="job")
    mesh.emit(events.Starting, "job", pid=1)
    mesh.emit(events.Exited, "job", pid=1, exit=FAILED)
    mesh.emit(events.TaskRetrying, "job", delay=1.0, retries_left=0)
    mesh.emit(events.Starting, "job", pid=2)
    mesh.emit(events.Exited, "job", pid=2, exit=CLEAN)
    mesh.emit(events.TaskCompleted, "job", duration=1.0)
    first, second = mesh.lives()
    assert (first.task, first.follows, second.follows) == (True, "task", "retry")
    assert kinds(second) == ["exited", "task-completed"]
    assert second.next_state == "scheduled"


def test_an_instance_without_a_process_shows_its_state_of_now(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.start("a", 1)
    mesh.fail("a", 1)
    mesh.instances[0].is_running = False
    mesh.instances[0].state = InstanceState.STOPPED
    assert mesh.lives()[0].next_state == "stopped"


# -- bounds ----------------------------------------------------------------------------------


def test_moments_and_texts_are_bounded(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.start("a", 1)
    for number in range(1000):
        mesh.emit(events.Unready, "a", pid=1, reason=f"\ud800{number}" * 300)
    long = attrs.evolve(FAILED, reason="r" * 5000, stderr_tail=("x" * 5000,) * 50)
    mesh.fail("a", 1, long)
    (life,) = mesh.lives()
    assert len(life.moments) == 50
    assert (kinds(life)[0], kinds(life)[-1]) == ("ready", "restarting")
    assert life.moments_dropped == 1003 - 50
    texts = [life.reason, *life.last_lines, *(moment.text for moment in life.moments)]
    assert max(map(len, texts)) == 200
    assert len(life.last_lines) == 10


def test_only_the_last_hundred_lives_keep_their_lines(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    for pid in range(1, 151):
        mesh.start("a", pid)
        mesh.fail("a", pid)
    has_lines = [bool(life.last_lines) for life in mesh.lives()]
    assert has_lines == [False] * 49 + [True] * 101  # And the one that may change.


def test_what_ended_a_day_ago_is_dropped_and_counted(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a", "gone")
    begun = clock.now
    for plugin in ("a", "gone"):
        mesh.start(plugin, 1)
        mesh.fail(plugin, 1)
    mesh.start("a", 2)
    until = mesh.lives()[0].ended
    clock.now += 25 * HOUR
    reply = mesh.read()
    assert [life.pid for life in reply.lives] == [2]
    (dropped,) = reply.dropped
    assert (dropped.plugin, dropped.count, dropped.until) == ("a", 1, until)
    assert begun < reply.oldest < clock.now - 24 * HOUR


def crash_in_a_loop(mesh: FakeMesh, plugins: list[str], lives: int, tail: tuple[str, ...]) -> None:
    for number in range(lives):
        for plugin in plugins:
            mesh.start(plugin, number + 1)
            # As the supervisor has it, no two exits share their texts.
            lines = tuple(f"{line}{plugin}{number}" for line in tail)
            mesh.fail(plugin, number + 1, Exit(status=3, stderr_tail=lines))


def measure_growth(function: Callable[[], object]) -> int:
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    function()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before


PLUGINS = [f"plugin-{n}" for n in range(100)]


@pytest.mark.timeout(300)
def test_100_plugins_that_crash_in_a_loop_take_30_mb(clock: Clock) -> None:
    """With lines that take most, so that the history is full soon."""
    mesh = FakeMesh(clock, *PLUGINS)
    tail = ("\U0001f4a5" * 190,) * 10
    used = measure_growth(lambda: crash_in_a_loop(mesh, PLUGINS, 35, tail))
    assert any(track.dropped for track in mesh.history._store.tracks.values())
    assert 10_000_000 < used < 30_000_000
    assert abs(used - mesh.history.size) < 0.35 * used


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tail", [(), ("x" * 190,) * 10], ids=["short", "lines"])
def test_so_do_other_lives(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tail: tuple[str, ...]
) -> None:
    """With a tenth of the memory, since a day of them takes minutes."""
    monkeypatch.setattr(life_store, "_MAX_SIZE", 2 * MIB)
    mesh = FakeMesh(clock, *PLUGINS)
    used = measure_growth(lambda: crash_in_a_loop(mesh, PLUGINS, 15 if tail else 80, tail))
    assert any(track.dropped for track in mesh.history._store.tracks.values())
    assert used < 3_000_000


def test_so_do_100_plugins_whose_health_changes_all_the_time(clock: Clock) -> None:
    mesh = FakeMesh(clock, *PLUGINS)

    def flap() -> None:
        for plugin in PLUGINS:
            mesh.start(plugin, 1)
            for number in range(200):
                mesh.emit(events.Unready, plugin, pid=1, reason=f"{number}" * 200)

    assert measure_growth(flap) < 10 * MIB


def test_a_plugin_that_crashes_in_a_loop_costs_no_other_its_history(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life_store, "_MAX_SIZE", 200_000)
    mesh = FakeMesh(clock, "quiet", "loop")
    for pid in range(1, 20):
        mesh.start("quiet", pid)
        mesh.fail("quiet", pid)
    crash_in_a_loop(mesh, ["loop"], 3000, ())
    reply = mesh.read()
    assert [each.plugin for each in reply.dropped] == ["loop"]
    assert sum(life.plugin == "quiet" for life in reply.lives) == 19
    kept = sum(life.plugin == "loop" for life in reply.lives)
    assert kept + reply.dropped[0].count == 3000
    assert reply.oldest == reply.dropped[0].until
    assert mesh.history.size <= 200_000


def test_plugins_that_come_and_go_take_no_more(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life_store, "_MAX_SIZE", 200_000)
    mesh = FakeMesh(clock)
    crash_in_a_loop(mesh, [f"p{n}" for n in range(1000)], 1, ())
    assert mesh.history.size <= 200_000
    reply = mesh.read()
    assert reply.lives[-1].plugin == "p999"
    assert reply.oldest >= reply.lives[0].started - 10


# -- reading ---------------------------------------------------------------------------------


def test_a_reply_is_bounded_and_can_be_read_on(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a", "b")
    crash_in_a_loop(mesh, ["a", "b"], 1100, ("x" * 190,) * 10)
    wanted = [life.id for update in read_updates(mesh) for life in update.lives]
    found: list[int] = []
    reply = mesh.read()
    while reply.lives:
        assert reply.ByteSize() < 2.2 * MIB
        assert reply.left_out == reply.lives[0].id - wanted[0]
        found = [*(life.id for life in reply.lives), *found]
        reply = mesh.read(before=found[0])
    assert found == wanted
    assert max(update.ByteSize() for update in read_updates(mesh)) < 300_000


def read_updates(mesh: FakeMesh) -> list[control.HistoryUpdate]:
    async def read() -> list[control.HistoryUpdate]:
        updates = mesh.history.watch(lambda _: True, 0, follow=False)
        return [update async for update in updates]

    return trio.run(read)


def test_only_lives_that_lasted_until_then(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a", "b")
    mesh.start("b", 9)
    mesh.start("a", 1)
    mesh.fail("a", 1)
    mesh.start("a", 2)
    since = clock.now
    mesh.fail("a", 2)
    mesh.start("a", 3)
    assert [life.pid for life in mesh.lives(since=since)] == [9, 2, 3]


def test_the_history_of_none(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    (update,) = read_updates(mesh)
    assert (update.oldest, update.lives, update.missed) == (clock.now, [], 0)


async def test_viewers_get_each_life_that_changes(
    clock: Clock, autojump_clock: trio.testing.MockClock
) -> None:
    mesh = FakeMesh(clock, "a", "b")
    mesh.start("a", 1)
    seen: list[control.HistoryUpdate] = []

    async def watch() -> None:
        async for update in mesh.history.watch("a".__eq__, 0, follow=True):
            seen.append(update)  # noqa: PERF401 - there is no end of it

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        mesh.start("b", 2)
        mesh.fail("a", 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert [update.lives[0].next_state for update in seen] == ["", "", "backoff"]
    assert [len(update.lives[0].moments) for update in seen] == [1, 2, 3]


async def test_a_slow_viewer_learns_how_many_changes_it_has_missed(
    clock: Clock, autojump_clock: trio.testing.MockClock
) -> None:
    mesh = FakeMesh(clock, "a")
    updates = mesh.history.watch(lambda _: True, 0, follow=True)
    assert not (await anext(updates)).lives
    for pid in range(1, 1001):
        mesh.start("a", pid)
        mesh.fail("a", pid)
    update = await anext(updates)
    assert update.missed == 3000
    assert len(mesh.history._changes.read_after(0)[0]) == 1000
    await updates.aclose()


async def test_the_size_of_changes_is_bounded(
    clock: Clock, autojump_clock: trio.testing.MockClock
) -> None:
    mesh = FakeMesh(clock, "a")
    updates = mesh.history.watch(lambda _: True, 0, follow=True)
    await anext(updates)
    mesh.start("a", 1)
    for number in range(900):
        mesh.emit(events.Unready, "a", pid=1, reason=f"{number}" * 200)
    kept, _ = mesh.history._changes.read_after(0)
    assert sum(len(data) for _, (_, data) in kept) <= 2 * MIB
    assert (await anext(updates)).missed == 902 - len(kept) > 0
    await updates.aclose()


def test_changes_are_not_serialized_without_viewers(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.start("a", 1)
    assert mesh.history._changes.last_number == 0


def test_lines_of_output_are_ignored(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    line = {"pid": 1, "stream": "stdout", "line": "x", "truncated_bytes": 0}
    mesh.emit(events.LineWritten, "a", **line)
    mesh.emit(events.LinesDropped, "a", pid=1, stream="stdout", count=1)
    mesh.emit(events.LogLevelSet, "never-started", level=None)
    assert not mesh.history._store.tracks


def test_names_may_be_those_that_the_config_no_longer_has(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.start("gone", 1)

    def make_filter(names: list[str]) -> Callable[[str], bool]:
        if names != ["group"]:
            raise UnknownNameError(f"there is no plugin {names}")
        return {"a"}.__contains__

    operations: Any = SimpleNamespace(make_filter=make_filter)
    wanted = mesh.history.make_filter(["gone", "group"], operations)
    assert [name for name in ("a", "b", "gone") if wanted(name)] == ["a", "gone"]
    assert mesh.history.make_filter([], operations)("anything")
    with pytest.raises(UnknownNameError):
        mesh.history.make_filter(["gone", "nobody"], operations)


# -- upgrades --------------------------------------------------------------------------------


def hand_over(mesh: FakeMesh, **processes: int) -> FakeMesh:
    """Return the mesh after an upgrade, with these processes."""
    saved = from_plain(SavedHistory, to_plain(mesh.history.save()))
    after = FakeMesh(mesh.clock, *(instance.key[0] for instance in mesh.instances))
    for instance in after.instances:
        if pid := processes.get(instance.key[0]):
            instance.set_process(pid, uptime=100.0)
    after.history.adopt(saved)
    return after


def test_an_upgrade_hands_all_lives_over(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life_store, "_MAX_SIZE", 100_000)
    mesh = FakeMesh(clock, "a", "b")
    mesh.start("b", 5)
    crash_in_a_loop(mesh, ["a"], 1000, ("line",))
    mesh.start("a", 2000)
    before = mesh.read()
    monkeypatch.setattr(life_store, "_MAX_SIZE", 200_000)
    after = hand_over(mesh, a=2000, b=5)
    reply = after.read()
    assert (reply.dropped, reply.oldest) == (before.dropped, before.oldest)
    assert reply.lives[1:-1] == before.lives[1:-1]
    for old, new in ((before.lives[0], reply.lives[0]), (before.lives[-1], reply.lives[-1])):
        assert kinds(new) == [*kinds(old), "adopted"]
        assert (new.started, new.id) == (old.started, old.id)
    assert abs(after.history.size - mesh.history.size) < 5000
    after.fail("a", 2000)
    after.start("a", 2001)
    assert [life.id for life in after.lives()[-2:]] == [1002, 1003]
    assert after.lives()[-2].next_state == "backoff"


def test_what_follows_an_end_before_the_upgrade_is_noted_after_it(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.start("a", 1)
    mesh.emit(events.Exited, "a", pid=1, exit=FAILED)
    after = hand_over(mesh)
    after.emit(events.GaveUp, "a", exit=FAILED)
    (life,) = after.lives()
    assert kinds(life) == ["ready", "exited", "gave-up"]


def test_a_restart_that_is_due_after_the_upgrade(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.start("a", 1)
    mesh.fail("a", 1)
    after = hand_over(mesh)
    after.start("a", 2)
    assert [life.follows for life in after.lives()] == ["start", "restart"]


def test_processes_of_a_mesh_without_history_are_adopted(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a", "b", "c", "idle")
    mesh.instances[0].set_process(7, uptime=100.0)
    mesh.instances[1].set_process(8, uptime=100.0, ready_after=3.0, is_ready=True)
    mesh.instances[2].set_process(9, uptime=100.0, ready_after=3.0)
    mesh.history.adopt(from_plain(SavedHistory, {}))
    first, second, third = mesh.lives()
    assert (first.pid, first.follows, first.start, kinds(first)) == (
        7, "adopted", "fork", ["adopted"],
    )  # fmt: skip
    assert first.started == clock.now - 100
    assert kinds(second) == ["ready", "adopted"]
    assert second.moments[0].time == second.started + 3
    assert kinds(third) == ["ready", "unready", "adopted"]


def test_processes_that_were_not_handed_over_have_ended(clock: Clock) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.start("a", 1)
    (life,) = hand_over(mesh).lives()
    assert (life.outcome, life.HasField("ended")) == ("unknown", True)


@pytest.mark.parametrize("lives", ["x", "eJw=", "AAAA", "\ud800", "eJz7DwABAQEA"])
def test_a_history_that_cannot_be_read_is_left_out(clock: Clock, lives: str) -> None:
    mesh = FakeMesh(clock, "a")
    mesh.instances[0].set_process(7, uptime=100.0)
    mesh.history.adopt(SavedHistory(since=1.0, last_id=5, lives=lives))
    assert [life.pid for life in mesh.lives()] == [7]
    assert mesh.read().oldest > 1.0
