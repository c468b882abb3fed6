"""What is to be done next about all instances together: a pure function of their table.

Whoever wants something changed sets goals; `plan` finds the starts and stops that may happen now,
in the order that `after` gives: a plugin is started once those it waits for are ready, and stopped
once those that wait for it have been, as far as they are to be stopped too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Generic, Protocol, TypeVar

import attrs

from meshtrio.config.relations import Edges


class Goal(Enum):
    """What an instance is to come to."""

    RUN = "run"
    REST = "rest"
    """Not run: it was asked to stop, or its policy leaves it as it is."""
    RECYCLE = "recycle"
    """Be stopped, and then run again."""


class Entry(Protocol):
    """What planning asks of a row of the table."""

    @property
    def plugin(self) -> str: ...

    @property
    def goal(self) -> Goal: ...

    @property
    def running(self) -> bool:
        """It has a process."""

    @property
    def stopping(self) -> bool:
        """It has been told to stop."""

    @property
    def starting(self) -> bool:
        """It has not been ready yet."""

    @property
    def ready(self) -> bool: ...

    @property
    def due(self) -> float:
        """When it may be started (seconds, monotonic)."""

    @property
    def batch(self) -> int:
        """Those of one batch, other than 0, are all stopped before the first is started again."""


E = TypeVar("E", bound=Entry)


@attrs.frozen
class Plan(Generic[E]):
    start: tuple[E, ...]
    stop: tuple[E, ...]
    wake: float
    """When there will be more to do, if nothing happens before."""


def plan(entries: Sequence[E], dependencies: Edges, now: float, most_starting: int) -> Plan[E]:
    """Find what can be done at `now`, with at most `most_starting` instances starting at once."""
    ready = {entry.plugin for entry in entries if entry.ready}
    emptying = {e.batch for e in entries if e.batch and e.goal is Goal.RECYCLE}
    startable = [
        entry
        for entry in entries
        if entry.goal is Goal.RUN
        and not entry.running
        and entry.batch not in emptying
        and dependencies.get(entry.plugin, frozenset()) <= ready
    ]
    later = (entry.due for entry in startable if entry.due > now)
    # Who has waited longest comes first, so that those which fail again and again hold nobody up.
    due = sorted((e for e in startable if e.due <= now), key=lambda entry: entry.due)
    room = most_starting - sum(entry.starting for entry in entries)
    return Plan(
        start=tuple(due[: max(room, 0)]),
        stop=tuple(_stoppable(entries, dependencies)),
        wake=min(later, default=math.inf),
    )


def _stoppable(entries: Sequence[E], dependencies: Edges) -> Iterable[E]:
    leaving = [entry for entry in entries if entry.running and entry.goal is not Goal.RUN]
    waited_for = {name for entry in leaving for name in dependencies.get(entry.plugin, ())}
    return (e for e in leaving if not e.stopping and e.plugin not in waited_for)
