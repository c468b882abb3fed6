"""The history of a mesh: which processes its instances and tasks have had, and what became of them.

Theory of operation. `ProcessHistory` subscribes to lifecycle events. It does nothing between them,
and keeps what they tell in a `LifeStore`, which bounds the memory. Changes are serialized for
viewers only while there are some. An upgrade hands over all lives; those of processes that run
continue in the new program.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

from meshtrio.messages import control
from meshtrio.services.broadcast_log import BroadcastLog, ReaderThrottle
from meshtrio.services.history_reader import iter_updates, read_lives
from meshtrio.services.life import LifeRecord
from meshtrio.services.life_store import LifeStore, Track
from meshtrio.services.saved_history import SavedHistory, adopt_history, save_history
from meshtrio.supervisor import events
from meshtrio.supervisor.event_text import describe_event, event_name
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.operations import Operations
from meshtrio.supervisor.policy.restart import Exit
from meshtrio.supervisor.policy.state import InstancePhase, InstanceState
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process_run import ProcessRun
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.supervisor.tasks.task import Task
from meshtrio.util.errors import UnknownNameError

_log = logging.getLogger("meshtrio.mesh")

_MAX_CHANGES = 1000
"""Number of changes that are kept for viewers that read slowly."""
_MAX_CHANGES_SIZE = 2 * 1024 * 1024
"""Bytes of these changes."""

_NEXT_STATES = {
    InstancePhase.STOPPING: InstanceState.STOPPED,
    InstancePhase.RESTARTING: InstanceState.PENDING,
    InstancePhase.IDLING: InstanceState.IDLE,
}
"""The state of an instance after its process was stopped on request, by its phase; in others there
is another process."""
_ANSWERS = (
    events.Restarting,
    events.GaveUp,
    events.TaskRetrying,
    events.TaskCompleted,
    events.TaskFailed,
)
"""Events after which the state of an instance without a process is known."""
_CAUSES = {events.Restarting: "restart", events.Renewing: "renewal", events.TaskRetrying: "retry"}
"""What the next process is started for, by the event."""
_IGNORED = frozenset({events.LineWritten, events.LinesDropped, events.TaskMissed})
"""Events that are about no process, or too many to be kept."""


class ProcessHistory:
    """Records the lives of a supervisor's processes."""

    def __init__(self, supervisor: Supervisor) -> None:
        """Record from now on."""
        self._supervisor = supervisor
        self._store = LifeStore(time.time())
        self._changes: BroadcastLog[tuple[str, bytes]] = BroadcastLog(
            _MAX_CHANGES, _MAX_CHANGES_SIZE, lambda change: len(change[1])
        )
        self._throttle = ReaderThrottle()
        supervisor.subscribe(self.on_event)

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, estimated."""
        return self._store.size

    # -- upgrades ----------------------------------------------------------------------------

    def save(self) -> SavedHistory:
        """Return what an upgrade hands over."""
        return save_history(self._store)

    def adopt(self, saved: SavedHistory) -> None:
        """Continue a history that was handed over, with the processes that were."""
        now, store = time.time(), self._store
        try:
            adopt_history(store, saved)
        except ValueError as exc:
            _log.error("the history before the upgrade cannot be read: %s", exc)
            store.tracks.clear()
        for instance in self._supervisor.instances:
            run = instance.active_run
            if run is not None and run.process is not None:
                self._adopt_process(self._store.get(instance.key), run, run.process, now)
        for track in [*store.tracks.values()]:
            self._end_unknown(track, now)
            store.settle(track, now)

    def _adopt_process(
        self, track: Track, run: ProcessRun, process: PluginProcess, now: float
    ) -> None:
        life = track.find_open(process.pid)
        if life is None:
            started = now - run.uptime
            life = self._begin(track, process.pid, started, "adopted")
            life.start = process.start_method.value
            if run.ready_after is not None:
                text = f"ready after {run.ready_after:.2f} s (pid {process.pid})"
                life.add_moment(started + run.ready_after, "ready", text)
                if not run.is_ready:
                    life.add_moment(now, "unready", f"pid {process.pid} is not ready")
        life.add_moment(now, "adopted", "the mesh has executed its new code")

    def _end_unknown(self, track: Track, now: float) -> None:
        """End the lives of processes that were not handed over."""
        known = {
            each.process.pid for each in self._supervisor.instances if each.process is not None
        }
        for life in [*track.current]:
            if life.ended is None and life.pid not in known:
                track.archive()
                life.end(now, "unknown", Exit(), "was not found after an upgrade")

    # -- events ------------------------------------------------------------------------------

    def on_event(self, event: events.LifecycleEvent) -> None:
        """Record an event."""
        if type(event) in _IGNORED:
            return
        now, key = time.time(), (event.plugin, event.instance)
        is_start = isinstance(event, events.Starting | events.NotStarted)
        if not is_start and key not in self._store.tracks:
            return
        track = self._store.get(key)
        changed: LifeRecord | None
        match event:
            case events.Starting(pid=pid, start=start):
                changed = self._begin(track, pid, now)
                changed.start = start.value
            case events.NotStarted(exit=exit):
                changed = self._begin(track, None, now)
                changed.end(now, "not-started", exit, str(exit))
            case events.Exited() | events.Stopped():
                changed = self._handle_end(track, event, now)
            case _:
                changed = self._add_moment(track, event, now)
        self._store.settle(track, now)
        if changed is not None and self._throttle.readers:
            self._changes.append((event.plugin, changed.to_message().SerializeToString()))

    def _take_cause(self, track: Track) -> str:
        """Return what a process is started for."""
        cause, track.cause = track.cause, ""
        if cause:
            return cause
        if self._is_task(track):
            return "task"
        instance = self._find_instance(track)
        return "demand" if instance is not None and instance.is_demanded else "start"

    def _begin(
        self, track: Track, pid: int | None, started: float, follows: str = ""
    ) -> LifeRecord:
        name, number = track.key
        follows = follows or self._take_cause(track)
        is_task = self._is_task(track)
        life = LifeRecord(self._store.next_id(), name, number, is_task, pid, started, follows)
        last = track.last_ended
        if last is not None and not last.next_state and follows == "demand":
            # It has exited successfully, and no event has said that it waits for demand.
            last.next_state = InstanceState.IDLE.value
        self._store.add(track, life)
        return life

    def _handle_end(
        self, track: Track, event: events.Exited | events.Stopped, now: float
    ) -> LifeRecord | None:
        life = track.find_open(event.pid)
        if life is None:
            return None
        reason = str(event.exit)
        if isinstance(event, events.Stopped) and event.was_killed:
            reason = f"did not stop in time and {reason}"
        track.archive()
        life.add_moment(now, "exited", reason)
        if isinstance(event, events.Stopped):
            life.end(now, "stopped", event.exit, reason)
            self._note_stop(track, life)
        else:
            life.end(now, "exited" if event.exit.is_clean else "failed", event.exit, reason)
        return life

    def _note_stop(self, track: Track, life: LifeRecord) -> None:
        """Note what follows a stop on request, by the phase of the instance."""
        instance = self._find_instance(track)
        if instance is None:
            life.next_state = InstanceState.STOPPED.value
            return
        state = _NEXT_STATES.get(instance.phase)
        life.next_state = "" if state is None else state.value
        if instance.phase is InstancePhase.STOPPING:
            track.cause = ""
        elif instance.phase is InstancePhase.RESTARTING and not track.cause:
            track.cause = "start" if instance.attachment is not None else "group-restart"

    def _add_moment(
        self, track: Track, event: events.LifecycleEvent, now: float
    ) -> LifeRecord | None:
        """Add an event to the life that it is about."""
        track.cause = _CAUSES.get(type(event), track.cause)
        life = self._find_life(track, event)
        if isinstance(event, events.GroupRestarting):
            self._note_group(event.plugins)
        if life is None:
            return None
        if isinstance(event, events.Ready):
            life.start = event.start.value
        if isinstance(event, _ANSWERS):
            life.next_state = self._get_state(track)
        kind = "draining" if isinstance(event, events.Stopping) else event_name(event)
        life.add_moment(now, kind.replace("_", "-"), describe_event(event)[1])
        return life

    def _find_life(self, track: Track, event: events.LifecycleEvent) -> LifeRecord | None:
        if isinstance(event, events.LogLevelSet | events.Renewing):
            return track.newest_open
        if isinstance(event, events.ProcessEvent) and not isinstance(event, events.LeftRunning):
            return track.find_open(event.pid)
        return track.last_ended

    def _note_group(self, plugins: tuple[str, ...]) -> None:
        for track in self._store.tracks.values():
            if track.key[0] in plugins:
                track.cause = "group-restart"

    def _is_task(self, track: Track) -> bool:
        return track.key[0] in self._supervisor.tasks.tasks

    def _find_instance(self, track: Track) -> Instance | None:
        return next((x for x in self._supervisor.instances if x.key == track.key), None)

    def _get_state(self, track: Track) -> str:
        """Return the state of an instance or a task; "" if it is not there any more."""
        task = self._supervisor.tasks.tasks.get(track.key[0])
        if task is not None:
            return task.state.value
        instance = self._find_instance(track)
        return "" if instance is None else instance.state.value

    # -- reading -----------------------------------------------------------------------------

    def make_filter(self, names: Iterable[str], operations: Operations) -> Callable[[str], bool]:
        """Make a predicate that tells whether a plugin or task is selected by names.

        They may be names that the config no longer has. Raises UnknownNameError for others.
        """
        past, filters = {name for name, _ in self._store.tracks}, []
        for name in set(names):
            try:
                filters.append(operations.make_filter([name]))
            except UnknownNameError:
                if name not in past:
                    raise
                filters.append(name.__eq__)
        return lambda name: not filters or any(accepts(name) for accepts in filters)

    async def read(
        self, is_wanted: Callable[[str], bool], since: float, before: int
    ) -> control.GetHistoryResponse:
        """Return lives of the wanted plugins and tasks; see GetHistory in control.proto."""
        self._refresh_states()
        return await read_lives(self._store, is_wanted, since, before)

    async def watch(
        self, is_wanted: Callable[[str], bool], since: float, *, follow: bool
    ) -> AsyncGenerator[control.HistoryUpdate, None]:
        """Yield lives of the wanted plugins and tasks, with `follow` then those that change."""
        with self._throttle:
            position = self._changes.last_number
            self._refresh_states()
            async with aclosing(iter_updates(self._store, is_wanted, since)) as past:
                async for update in past:
                    yield update
            if not follow:
                return
            new = self._changes.follow(position, lambda each: is_wanted(each[0]), self._throttle)
            async with aclosing(new):
                async for _, (_, data), missed in new:
                    life = control.Life.FromString(data)
                    yield control.HistoryUpdate(lives=[life], time=time.time(), missed=missed)

    def _refresh_states(self) -> None:
        """Note what instances and tasks without a process wait for now: not all has events."""
        owners: list[Instance | Task] = [*self._supervisor.instances]
        owners += self._supervisor.tasks.tasks.values()
        found = {each.key: each for each in owners}
        for track in self._store.tracks.values():
            life, owner = track.last_ended, found.get(track.key)
            if life is not None and owner is not None and not owner.is_running:
                life.next_state = owner.state.value
