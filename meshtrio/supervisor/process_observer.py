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
from meshtrio.supervisor.process.proc.accept_queue import AcceptQueue, read_accept_queue
from meshtrio.supervisor.process.proc.activity import (
    ActivitySample,
    compute_activity,
    sample_activity,
)

_OBSERVATION_TIME = 1.0
"""Seconds for which a process is observed after the first check that it failed."""


@attrs.frozen
class Observation:
    """A sample of a plugin's processes and of its socket."""

    processes: ActivitySample
    """What the processes have used so far."""
    accept_queue: AcceptQueue | None
    """The accept queue of the socket that the plugin listens on, None if it is not known."""


Observe = Callable[[int, str], Awaitable[Observation | None]]
"""Samples the processes of a session or group, and the socket at an address; None if it cannot."""


async def observe(leader: int, address: str) -> Observation | None:
    """Sample in a thread, since the machine may have thousands of processes."""

    def sample() -> Observation | None:
        found = sample_activity(leader)
        return None if found is None else Observation(found, read_accept_queue(address))

    try:
        return await trio.to_thread.run_sync(sample)
    except RuntimeError:
        return None  # No thread can be started.


class ProcessObserver:
    """Finds out what a process, its session and its group did since it last failed a check."""

    def __init__(self, leader: int, address: str, observe: Observe) -> None:
        self._leader = leader
        self._address = address
        self._observe = observe
        self._previous: Observation | None = None
        self._unanswered_checks = 0
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
        activity, queue = await self._measure(max_time)
        counts = None if queue is None else (queue.waiting, queue.backlog)
        symptom = correct_symptom(symptom, counts, self._unanswered_checks)
        seen = [str(each) for each in (activity, queue) if each is not None]
        reason = "; ".join([result.reason, *seen])
        return attrs.evolve(result, condition=diagnose(symptom, activity), reason=reason)

    async def _measure(self, max_time: float) -> tuple[Activity | None, AcceptQueue | None]:
        before = self._previous
        if before is None:
            before = await self._observe(self._leader, self._address)
            if before is None:
                return None, None
            await trio.sleep(min(_OBSERVATION_TIME, max_time))
        after = self._previous = await self._observe(self._leader, self._address)
        if after is None:
            return None, None
        activity = compute_activity(before.processes, after.processes)
        if before.accept_queue is not None and after.accept_queue is not None:
            drained = after.accept_queue.waiting < before.accept_queue.waiting
            activity = attrs.evolve(activity, is_queue_draining=drained)
        return activity, after.accept_queue

    async def ready_timeout_extension(self, max_time: float, extended: float) -> float:
        """See `policy.diagnosis.ready_timeout_extension`."""
        found = await self._observe(self._leader, self._address)
        if found is None:
            return 0.0
        return ready_timeout_extension(max_time, found.processes.max_cpu_wait, extended)
