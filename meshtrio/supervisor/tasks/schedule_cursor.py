"""Finds the runs of a schedule that are due, and those that were missed. Pure.

The wall clock may jump, since it is set, or since the machine was asleep. Runs of the time that was
left out are missed, and not made up. A clock that is set back does not repeat runs, unless by more
than `_MAX_CLOCK_CORRECTION`: then it was wrong before, and the schedule follows the new time, as in
cron(8).
"""

from __future__ import annotations

from itertools import islice, takewhile

import attrs

from meshtrio.config import Schedule

_MAX_LATENESS = 30.0
"""Seconds after its time for which a run is due rather than missed."""
_MAX_CLOCK_CORRECTION = 3 * 3600.0
"""Seconds by which the clock may be set back without repeating runs."""
MAX_COUNTED_RUNS = 1000
"""Maximum number of missed runs that are counted at once; finding each takes about 10 µs."""


@attrs.frozen
class DueRuns:
    """What is due at a time."""

    is_due: bool = False
    """Whether the task is to run now."""
    missed: int = 0
    """Number of runs before that were missed."""


@attrs.define
class ScheduleCursor:
    """The position of a task in its schedule."""

    _schedule: Schedule
    handled_until: float
    """Unix time up to which runs are handled."""
    next_time: float | None = attrs.field(init=False)
    """Unix time of the next run; None if there is none."""

    def __attrs_post_init__(self) -> None:
        self._find_next()

    def check(self, now: float) -> DueRuns:
        """Return what is due at a Unix time, and go on from there."""
        if now < self.handled_until - _MAX_CLOCK_CORRECTION:
            self.handled_until = now
            self._find_next()
        if self.next_time is None or now < self.next_time:
            return DueRuns()
        times = takewhile(lambda time: time <= now, self._schedule.times_after(self.handled_until))
        count = sum(1 for _ in islice(times, MAX_COUNTED_RUNS))
        recent = self._schedule.times_after(max(self.handled_until, now - _MAX_LATENESS))
        is_due = next(recent, now + 1) <= now
        self.handled_until = now
        self._find_next()
        return DueRuns(is_due, count - is_due)

    def _find_next(self) -> None:
        self.next_time = next(self._schedule.times_after(self.handled_until), None)
