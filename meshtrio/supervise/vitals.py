"""Looking at the processes of a plugin that does not answer its health checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from meshtrio.supervise.decisions.vitality import (
    Activity,
    Symptom,
    judge,
    ready_extension,
    symptom_of_queue,
)
from meshtrio.supervise.probe import Health
from meshtrio.supervise.processes.accept_queue import AcceptQueue, accept_queue
from meshtrio.supervise.processes.activity import Sample, between, sample

_OBSERVED = 1.0
"""Seconds for which a process is observed after the first check that it failed."""


@attrs.frozen
class Observation:
    """A plugin at a moment."""

    processes: Sample
    queue: AcceptQueue | None
    """Of the socket that it listens on, if it is known."""


Observe = Callable[[int, str], Awaitable[Observation | None]]
"""Look at the processes of a session or group, and at an address; None if nothing is known."""


async def observe(leader: int, address: str) -> Observation | None:
    """Look in a thread, since the machine may have thousands of processes."""

    def look() -> Observation | None:
        found = sample(leader)
        return None if found is None else Observation(found, accept_queue(address))

    try:
        return await trio.to_thread.run_sync(look)
    except RuntimeError:
        return None  # No thread can be started.


class Vitals:
    """What one process, and all of its session and group, did since it last failed a check."""

    def __init__(self, leader: int, address: str, observe: Observe) -> None:
        self._leader = leader
        self._address = address
        self._observe = observe
        self._before: Observation | None = None
        self._unanswered = 0
        """Checks in a row that were not answered, whose connections may wait to be accepted."""

    def forget(self) -> None:
        """It has answered: what it did before says nothing of the next check that it fails."""
        self._before, self._unanswered = None, 0

    async def assess(self, health: Health, within: float) -> Health:
        """Say in a check's result why it failed; `within`: seconds that the check had.

        Takes up to a second after the first failure in a row, and no longer than the check.
        """
        if health.condition is not None:
            return health
        symptom = health.symptom or Symptom.NO_ANSWER
        self._unanswered += symptom is Symptom.NO_ANSWER
        if symptom in (Symptom.UNREACHABLE, Symptom.WRONG_ANSWER):
            return attrs.evolve(health, condition=judge(symptom, None))
        activity, queue = await self._activity(within)
        counts = None if queue is None else (queue.waiting, queue.backlog)
        symptom = symptom_of_queue(symptom, counts, self._unanswered)
        seen = [str(each) for each in (activity, queue) if each is not None]
        return attrs.evolve(
            health,
            condition=judge(symptom, activity),
            reason="; ".join([health.reason, *seen]),
        )

    async def _activity(self, within: float) -> tuple[Activity | None, AcceptQueue | None]:
        before = self._before
        if before is None:
            before = await self._observe(self._leader, self._address)
            if before is None:
                return None, None
            await trio.sleep(min(_OBSERVED, within))
        after = self._before = await self._observe(self._leader, self._address)
        if after is None:
            return None, None
        activity = between(before.processes, after.processes)
        if before.queue is not None and after.queue is not None:
            drained = after.queue.waiting < before.queue.waiting
            activity = attrs.evolve(activity, drained=drained)
        return activity, after.queue

    async def ready_extension(self, within: float, extended: float) -> float:
        """See `decisions.vitality.ready_extension`."""
        found = await self._observe(self._leader, self._address)
        if found is None:
            return 0.0
        return ready_extension(within, found.processes.longest_wait, extended)
