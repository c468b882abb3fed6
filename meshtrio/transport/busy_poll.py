"""Decides for how long a connection polls its socket before the process sleeps. Pure.

Being woken costs more than a small call: the core has become idle, on a virtual machine perhaps in
favour of another guest, and its caches are cold. A process that polls instead gets a response
sooner, but uses the core meanwhile; and nothing is gained if calls come at a pace of their own, or
if other processes need the core. What a wake-up costs, and how long waits are, depends on machine
and peer, so both are measured, as Linux does for virtual processors (halt polling,
Documentation/virt/kvm/halt-polling.rst).

A connection is in one of three phases:

- *sleeping*: It does not poll. If most of its waits are short, a trial begins.
- *trial*: It polls in some waits and sleeps in others, in turn. Polling pays if it has shortened
  the time from one read to the next by a fraction of the time that it took.
- *polling*: It polls in every wait, for up to twice the average of recent waits, and repeats the
  trial now and then.

A trial without success ends polling, and so do polls that find nothing, and other processes that
get the core during polls. The next trial is then delayed in proportion to the time that this has
cost, and by twice as much after each failure, so that polling without success takes a bounded share
of the time.
"""

from __future__ import annotations

import math
from enum import Enum, auto

from meshtrio.util.busy_poll_setting import DEFAULT_MAX_BUSY_POLL

_TRIAL_CREDITS = 32
"""Number of short waits, less the cost of long ones, before a trial."""
_LONG_WAIT_COST = 4
"""Number of credits that a long wait costs: most waits have to be short."""
_MISS_COST = 8
"""Number of credits that it costs if a poll found nothing: few in a row end polling."""
_BLOCK = 8
"""Number of successive waits of one kind in a trial. The scheduler judges a process by what it did
recently, so kinds alternate by blocks; whatever else happens should meet both kinds, so blocks are
short."""
_TRIAL_WAITS = 8 * _BLOCK
_POLLING_WAITS = 32 * _TRIAL_WAITS
"""Number of waits between two trials that succeed: trials cost about 1 % of what polling gains."""
_MIN_GAIN = 0.3
"""Time that has to be gained for each second of polling. If calls come at a pace, nothing is
gained, and a trial measures between -0.15 and 0.15 by chance."""
_MIN_CHEAP_GAIN = 0.1
"""The same if the CPU time is at most `_CHEAP_CPU_RATIO` times that of sleeping: a wake-up costs
CPU time, too, and a process that waits for a shorter time polls for a shorter time."""
_CHEAP_CPU_RATIO = 1.25
"""Higher than what it is when both sides poll, about 1.0."""
_MAX_CYCLE_RATIO = 0.85
"""Maximum time from read to read, compared with sleeping, if polling is not cheap. With calls one
after another it is 0.4 to 0.75. At a pace it is 1, but in one short trial it may be 0.9 by
chance, which for short polls looks like a gain of half of their time."""
_MAX_POLL_SHARE = 4.0
"""Maximum time of polls, compared with the CPU time that the process uses if it sleeps. A client
that calls through a proxy waits for three times as long as it works. A process that does little
between long waits would gain time, too, but use several times as much of the processor."""
_MAX_IDLE_SHARE = 1 / 3
"""Maximum share of waits that no poll covers in the time of a trial. A process that idles between
short bursts would gain time, too, but it does not need it."""
_NEGLIGIBLE_POLL = 0.00001
"""Average time of polls, in seconds, that costs no more than going to sleep."""
_REST_FACTOR = 32
"""A failed trial is repeated after this many times the time that it has cost: polling without
success uses at most 3 % of a core, and in the long run 0.1 %."""
_MAX_REST_FACTOR = 1024
_MAX_REST = 10.0
"""Maximum time between two trials, in seconds: conditions change, and a process that was stopped
for long during a poll has lost no more than that."""
_DISPLACED_SHARE = 0.1
"""Share of the time of polls in which others may have the core. The kernel's own threads take less
than 1 %, another busy process half."""
_MAX_DISPLACED_TIME = 0.001
"""Time beyond that share, in seconds, at which polling ends."""
_MAX_COUNTED_DISPLACEMENT = _MAX_DISPLACED_TIME / 4
"""Time beyond that share that counts in one poll, in seconds. A hypervisor takes a core away once
in a while, and for longer; a process that needs it does so time slice by time slice."""


class Phase(Enum):
    """What a connection does before the process sleeps."""

    SLEEPING = auto()
    TRIAL = auto()
    POLLING = auto()


class BusyPoll:
    """The policy of one connection. It has no clock: times are passed in, in seconds."""

    def __init__(self, max_poll: float = DEFAULT_MAX_BUSY_POLL) -> None:
        """Poll for at most `max_poll` seconds; never, if that is 0."""
        self.max_poll = max_poll
        self.phase = Phase.SLEEPING
        self.poll_time = 0.0
        """Seconds to poll for in the next wait; 0 to sleep at once."""
        self._credits = 0
        self._average_wait = 0.0
        """Moving average of the waits that were not longer than `max_poll`."""
        self._waits = 0
        """Number of waits in a trial or since it."""
        self._cost = 0.0
        """Time of the polls of a trial, and after it of those that found nothing."""
        self._displaced = 0.0
        """Time of polls that others had the core, beyond the share that they may have."""
        self._trial = _Trial(0.0)
        self._rest_factor = _REST_FACTOR
        self._rest_until = 0.0
        """Earliest time of the next trial."""

    def record_wait(
        self,
        now: float,
        waited: float,
        polled: float = 0.0,
        displaced: float = 0.0,
        cpu: float = 0.0,
    ) -> None:
        """Record a wait, and decide on the next one.

        Args:
            now: The time of the read that ended the wait.
            waited: The duration of the wait.
            polled: The duration of the poll that it began with.
            displaced: The part of `polled` in which this process did not have a core; may be
                omitted for a poll that has found something in time.
            cpu: The CPU time that the thread has used until now; needed in a trial only.
        """
        balance = self._credits
        if waited <= self.max_poll:
            self._average_wait += (waited - self._average_wait) / 8
            if balance < _TRIAL_CREDITS:
                self._credits = balance = balance + 1
        else:
            cost = _MISS_COST if polled else _LONG_WAIT_COST
            self._credits = balance = max(balance - cost, 0)
        if self.phase is not Phase.SLEEPING:
            self._waits += 1
            if polled:
                self._record_poll(waited, polled, displaced)
            self._decide(now, waited, cpu)
        elif balance == _TRIAL_CREDITS and now >= self._rest_until:
            self._start_trial(now)

    def _record_poll(self, waited: float, polled: float, displaced: float) -> None:
        excess = min(displaced - _DISPLACED_SHARE * polled, _MAX_COUNTED_DISPLACEMENT)
        self._displaced = max(self._displaced + excess, 0.0)
        if self.phase is Phase.TRIAL or waited > polled:
            self._cost += polled

    def _decide(self, now: float, waited: float, cpu: float) -> None:
        if not self._credits or self._displaced > _MAX_DISPLACED_TIME:
            self._rest(now)
        elif self.phase is Phase.TRIAL:
            self._trial.add(now, waited, cpu, self.max_poll, polled=self.poll_time > 0)
            if self._waits == _TRIAL_WAITS:
                self._finish_trial(now)
            elif self._waits % _BLOCK == 0:
                self.poll_time = 0.0 if self.poll_time else self._next_poll_time()
        elif self._waits == _POLLING_WAITS:
            self._start_trial(now)
        else:
            self.poll_time = self._next_poll_time()

    def _next_poll_time(self) -> float:
        """Return a time within which most waits end."""
        return min(2 * self._average_wait + _NEGLIGIBLE_POLL, self.max_poll)

    def _start_trial(self, now: float) -> None:
        self.phase, self._trial, self._waits = Phase.TRIAL, _Trial(now), 0
        self.poll_time = self._cost = self._displaced = 0.0

    def _finish_trial(self, now: float) -> None:
        if self._trial.pays(now, self._cost):
            self.phase, self._waits, self._cost = Phase.POLLING, 0, 0.0
            # Not at once that of the first failure: on a busy machine trials may succeed by chance.
            self._rest_factor = max(self._rest_factor // 4, _REST_FACTOR)
            self.poll_time = self._next_poll_time()
        else:
            self._rest(now)

    def _rest(self, now: float) -> None:
        """Sleep, since polling does not pay now."""
        self.phase, self.poll_time, self._credits = Phase.SLEEPING, 0.0, 0
        rest = self._rest_factor * (self._cost + self._displaced)
        self._rest_until = now + min(rest, _MAX_REST)
        self._rest_factor = min(2 * self._rest_factor, _MAX_REST_FACTOR)


class _Trial:
    """Compares waits that begin with a poll with others that do not."""

    def __init__(self, began: float) -> None:
        self._began = self._last_read = began
        self._slept_cycles = 0.0
        """Time from read to read, of waits without a poll; each limited, since one long wait would
        otherwise decide."""
        self._polled_cycles = 0.0
        self._polled_cpu = 0.0
        """CPU time of the cycles with a poll."""
        self._worked = 0.0
        """CPU time of the cycles without a poll. Not the time between waits: other tasks of the
        process, such as the one that a reply is for, work while a connection waits."""
        self._last_cpu = math.nan
        self._was_polled: bool | None = None
        """Whether the last wait began with a poll; None before the first."""
        self._idle = 0.0
        """Time of waits that no poll covers."""

    def add(self, now: float, waited: float, cpu: float, max_poll: float, *, polled: bool) -> None:
        """Add a wait that has ended, and the work before it."""
        cycle, self._last_read = now - self._last_read, now
        used, self._last_cpu = cpu - self._last_cpu, cpu
        limited = min(cycle, 2 * max_poll)
        if waited > max_poll:
            self._idle += waited
        is_first, self._was_polled = polled is not self._was_polled, polled
        if is_first:
            # If calls come at a pace, the first read after a change of the kind is earlier or later
            # by what waits are shorter or longer, and nothing is gained after it.
            return
        if polled:
            self._polled_cycles += limited
            self._polled_cpu += used
        else:
            self._slept_cycles += limited
            self._worked += used

    def pays(self, now: float, cost: float) -> bool:
        """Return whether polling pays, by the time that half of the waits have polled for."""
        if cost <= _NEGLIGIBLE_POLL * _TRIAL_WAITS / 2:
            return True
        is_cheap = self._polled_cpu <= _CHEAP_CPU_RATIO * self._worked
        if not is_cheap and self._polled_cycles > _MAX_CYCLE_RATIO * self._slept_cycles:
            return False
        min_gain = _MIN_CHEAP_GAIN if is_cheap else _MIN_GAIN
        return (
            self._slept_cycles - self._polled_cycles >= min_gain * cost
            and cost <= _MAX_POLL_SHARE * self._worked
            and self._idle <= _MAX_IDLE_SHARE * (now - self._began)
        )
