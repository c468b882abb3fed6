"""Observes the processes of a plugin that does not answer its health checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from meshtrio.supervisor.policy.diagnosis import (
    Activity,
    Symptom,
    correct_symptom,
    diagnose,
    ready_timeout_extension,
)
from meshtrio.supervisor.probe import HealthCheckResult
from meshtrio.supervisor.process.proc import activity
from meshtrio.supervisor.process.proc.accept_queue import AcceptQueue
from meshtrio.supervisor.process.proc.activity import ActivitySample

_OBSERVATION_TIME = 1.0
"""Seconds for which a process is observed after the first check that it failed."""


Observe = Callable[[int, str], Awaitable[ActivitySample | None]]
"""Samples the processes of a session or group, and the socket at an address; None if it cannot."""


async def observe(leader: int, address: str) -> ActivitySample | None:
    """Sample in a thread, since the machine may have thousands of processes."""
    try:
        return await trio.to_thread.run_sync(activity.sample_activity, leader, address)
    except RuntimeError:
        return None  # No thread can be started.


@attrs.define(eq=False)
class ProcessObserver:
    """Finds out what a process, its session and its group did since it last failed a check."""

    _observe: Callable[[], Awaitable[ActivitySample | None]]
    """Samples them, and their socket; None if it cannot."""
    _previous: ActivitySample | None = None
    _unanswered_checks: int = 0
    """Number of checks in a row without an answer, whose connections may still be queued."""

    def reset(self) -> None:
        """Forget earlier samples, since the process has answered a check."""
        self._previous, self._unanswered_checks = None, 0

    async def diagnose(self, result: HealthCheckResult, max_time: float) -> HealthCheckResult:
        """Find out why a check failed; its result gets a condition, and what was observed.

        Takes up to a second after the first failure in a row, and no longer than the check.
        """
        if result.condition is not None:
            return result
        symptom = result.symptom or Symptom.NO_ANSWER
        self._unanswered_checks += symptom is Symptom.NO_ANSWER
        if symptom in (Symptom.UNREACHABLE, Symptom.WRONG_ANSWER):
            return attrs.evolve(result, condition=diagnose(symptom, None))
        found, queue = await self._measure(max_time)
        counts = None if queue is None else (queue.waiting, queue.backlog)
        symptom = correct_symptom(symptom, counts, self._unanswered_checks)
        seen = [str(each) for each in (found, queue) if each is not None]
        reason = "; ".join([result.reason, *seen])
        return attrs.evolve(result, condition=diagnose(symptom, found), reason=reason)

    async def _measure(self, max_time: float) -> tuple[Activity | None, AcceptQueue | None]:
        before = self._previous
        if before is None and (before := await self._observe()) is not None:
            await trio.sleep(min(_OBSERVATION_TIME, max_time))
        after = self._previous = before and await self._observe()
        if before is None or after is None:
            return None, None
        return activity.compute_activity(before, after), after.accept_queue

    async def ready_timeout_extension(self, max_time: float, extended: float) -> float:
        """See `policy.diagnosis.ready_timeout_extension`."""
        found = await self._observe()
        if found is None:
            return 0.0
        return ready_timeout_extension(max_time, found.max_cpu_wait, extended)
