"""What is to be done next about all instances together: a pure function of their table.

Whoever wants something changed sets goals; `plan` finds the starts and stops that may happen now,
in the order that `depends_on` gives: a plugin is started once those it waits for are ready, and
stopped once those that wait for it have been, as far as they are to be stopped too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Generic, Protocol, TypeVar

import attrs

from meshtrio.config.topology import Dependencies


class DesiredState(Enum):
    """What an instance is to come to."""

    RUNNING = "run"
    STOPPED = "rest"
    """Not run: it was asked to stop, or its policy leaves it as it is."""
    RESTARTED = "recycle"
    """Be stopped, and then run again."""


class InstanceView(Protocol):
    """What planning asks of a row of the table."""

    @property
    def plugin(self) -> str: ...

    @property
    def desired_state(self) -> DesiredState: ...

    @property
    def is_running(self) -> bool:
        """It has a process."""

    @property
    def is_stopping(self) -> bool:
        """It has been told to stop."""

    @property
    def is_starting(self) -> bool:
        """It has not been ready yet."""

    @property
    def is_ready(self) -> bool: ...

    @property
    def start_at(self) -> float:
        """When it may be started (seconds, monotonic)."""

    @property
    def batch(self) -> int:
        """Those of one batch, other than 0, are all stopped before the first is started again."""


E = TypeVar("E", bound=InstanceView)


@attrs.frozen
class Plan(Generic[E]):
    start: tuple[E, ...]
    stop: tuple[E, ...]
    wake_at: float
    """When there will be more to do, if nothing happens before."""


def plan(
    instances: Sequence[E], dependencies: Dependencies, now: float, max_starting: int
) -> Plan[E]:
    """Find what can be done at `now`, with at most `most_starting` instances starting at once."""
    ready = {entry.plugin for entry in instances if entry.is_ready}
    emptying = {e.batch for e in instances if e.batch and e.desired_state is DesiredState.RESTARTED}
    startable = [
        entry
        for entry in instances
        if entry.desired_state is DesiredState.RUNNING
        and not entry.is_running
        and entry.batch not in emptying
        and dependencies.get(entry.plugin, frozenset()) <= ready
    ]
    later = (entry.start_at for entry in startable if entry.start_at > now)
    # Who has waited longest comes first, so that those which fail again and again hold nobody up.
    due = sorted((e for e in startable if e.start_at <= now), key=lambda entry: entry.start_at)
    room = max_starting - sum(entry.is_starting for entry in instances)
    return Plan(
        start=tuple(due[: max(room, 0)]),
        stop=tuple(_find_stoppable(instances, dependencies)),
        wake_at=min(later, default=math.inf),
    )


def _find_stoppable(instances: Sequence[E], dependencies: Dependencies) -> Iterable[E]:
    leaving = [
        entry
        for entry in instances
        if entry.is_running and entry.desired_state is not DesiredState.RUNNING
    ]
    waited_for = {name for entry in leaving for name in dependencies.get(entry.plugin, ())}
    return (e for e in leaving if not e.is_stopping and e.plugin not in waited_for)
