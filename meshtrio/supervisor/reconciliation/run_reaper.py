"""Runs processes of instances to their ends, and kills what they have left behind."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator

from meshtrio.supervisor import events
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.process.cleanup.leftover_killer import RunIdentity
from meshtrio.supervisor.runs.process_run import ProcessRun
from meshtrio.supervisor.tasks.task import Task

_log = logging.getLogger("meshtrio.mesh")


class RunReaper:
    """Collects the runs that have ended, for the supervisor loop."""

    def __init__(
        self, effects: Effects, *, emit: Callable[..., None], on_exit: Callable[[], None]
    ) -> None:
        """Create a reaper.

        Args:
            effects: The system.
            emit: Called as `emit(instance, kind, **values)` for events.
            on_exit: Called when there is a run for `take_exited`.
        """
        self._effects = effects
        self._emit = emit
        self._on_exit = on_exit
        self._exited: deque[tuple[Instance, ProcessRun]] = deque()
        self._cleanups = 0
        """Number of runs that have ended and whose remains are being killed."""

    @property
    def is_busy(self) -> bool:
        """Whether a run has ended that was not taken, or whose remains are being killed."""
        return bool(self._exited or self._cleanups)

    def take_exited(self) -> Iterator[tuple[Instance, ProcessRun]]:
        """Yield the runs that have ended, each once, with their instances."""
        while self._exited:
            yield self._exited.popleft()

    async def run(self, instance: Instance, run: ProcessRun) -> None:
        """Run a process to its end, and kill what it has left behind."""
        await run.run()
        self._cleanups += 1
        try:
            await self._handle_end(instance, run)
        finally:
            self._cleanups -= 1

    async def _handle_end(self, instance: Instance, run: ProcessRun) -> None:
        is_unkillable = run.exit is not None and run.exit.is_unkillable
        if is_unkillable:
            # The restart policy depends on how many processes cannot be killed, this one included.
            await self.kill_orphans(instance, run.identity)
        self._exited.append((instance, run))
        self._on_exit()
        if not is_unkillable:
            await self.kill_orphans(instance, run.identity)

    async def kill_orphans(self, instance: Instance | Task, identity: RunIdentity | None) -> None:
        """Kill the processes that a run has left behind, and report those that cannot be killed."""
        if identity is None:
            return
        try:
            report = await self._effects.kill_orphans(identity)
        except Exception:
            _log.exception("cannot look for processes that %s has left behind", instance.name)
            return
        if report.killed:
            self._emit(instance, events.Swept, count=report.killed)
        instance.unkillable += report.unkillable
        for each in report.unkillable:
            found = {"pid": each.pid, "name": each.name, "reason": each.reason}
            self._emit(instance, events.LeftRunning, **found)
