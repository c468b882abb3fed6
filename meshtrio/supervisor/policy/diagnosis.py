"""Whether a process that does not answer health checks is stuck or overloaded: pure functions.

A check that fails says that no answer came in time. What the process did meanwhile says why: one
that computes, or waits for a CPU, the disk or memory, or whose clients fill its backlog, is at work
and gets more time; one that did nothing is stuck. More time is bounded, since a process in an
endless loop computes as well.
"""

from __future__ import annotations

from enum import Enum

import attrs

MIN_ACTIVITY_FRACTION = 0.1
"""CPU time, used or waited for, that counts as work: a share of the time it was observed. Idle
runtimes use less, as they wake up for timers only; what is starved waits for the rest."""
_MIN_FAULT_RATE = 10.0
"""Pages per second that have to be read from the disk for a process to count as short of memory."""


class Symptom(Enum):
    """How a check failed."""

    NO_ANSWER = "no answer"
    CLOSED = "closed"
    """The server accepted the connection and closed it without an answer."""
    BACKLOG_FULL = "backlog full"
    UNREACHABLE = "unreachable"
    """Nothing listens."""
    WRONG_ANSWER = "wrong answer"


class Condition(Enum):
    """What a process does that did not answer a check. The values are used in the log."""

    STUCK = "stuck"
    STOPPED = "stopped"
    UNREACHABLE = "unreachable"
    FAULTY = "faulty"
    COMPUTING = "computing"
    WAITING_FOR_CPU = "waiting for a CPU"
    WAITING_FOR_DISK = "waiting for the disk or memory"
    BACKLOG_FULL = "backlog full"
    ACCEPTING = "accepting connections"
    CLOSING = "closing connections"
    MESH_OVERLOADED = "mesh overloaded"

    @property
    def is_overload(self) -> bool:
        """Whether more time may help."""
        return self in _OVERLOAD_CONDITIONS


_OVERLOAD_CONDITIONS = frozenset(
    {
        Condition.COMPUTING,
        Condition.WAITING_FOR_CPU,
        Condition.WAITING_FOR_DISK,
        Condition.BACKLOG_FULL,
        Condition.ACCEPTING,
        Condition.CLOSING,
        Condition.MESH_OVERLOADED,
    }
)


@attrs.frozen
class Activity:
    """What the processes of a plugin did in a period of so many seconds."""

    duration: float
    cpu_time: float = 0.0
    """CPU time that they used, in seconds."""
    run_delay: float = 0.0
    """Time that their threads were runnable and waited for a CPU, in seconds."""
    major_faults: int = 0
    """Pages that had to be read from the disk."""
    has_runnable_thread: bool = False
    """A thread was runnable at the beginning and at the end."""
    has_blocked_thread: bool = False
    """A thread was in uninterruptible sleep at the beginning and at the end."""
    is_stopped: bool = False
    """All threads are stopped, by a signal or a debugger."""
    is_queue_draining: bool = False
    """Fewer connections wait to be accepted than at the beginning."""

    def __str__(self) -> str:
        """A phrase that follows "it did not answer; "."""
        if self.is_stopped:
            return "its processes are stopped, by a signal or a debugger"
        share, waited = (100 * part / self.duration for part in (self.cpu_time, self.run_delay))
        text = f"it used {share:.0f} % of a CPU and waited for one {waited:.0f} % of the time"
        return f"{text}; it waits for the disk" if self.has_blocked_thread else text


def correct_symptom(
    symptom: Symptom, queue: tuple[int, int] | None, unanswered_checks: int
) -> Symptom:
    """Correct a symptom by the connections that wait to be accepted, and the backlog.

    On TCP, a connection to a server whose backlog is full gets no answer. On the other hand, checks
    that were given up wait as well: if there are no others, clients are not what fills the backlog.
    """
    if queue is None or symptom not in (Symptom.NO_ANSWER, Symptom.BACKLOG_FULL):
        return symptom
    waiting, backlog = queue
    full = waiting > backlog and waiting > unanswered_checks
    return Symptom.BACKLOG_FULL if full else Symptom.NO_ANSWER


def diagnose(symptom: Symptom, activity: Activity | None) -> Condition:
    """Tell why a check failed; `activity` is None if nothing is known of the processes."""
    if symptom is Symptom.UNREACHABLE:
        return Condition.UNREACHABLE
    if symptom is Symptom.WRONG_ANSWER:
        return Condition.FAULTY
    if activity is not None:
        if activity.is_stopped:
            return Condition.STOPPED
        found = _classify_activity(activity)
        if found is not None:
            return found
    if symptom is Symptom.BACKLOG_FULL:
        return Condition.BACKLOG_FULL
    if symptom is Symptom.CLOSED:
        return Condition.CLOSING
    return Condition.STUCK


def _classify_activity(activity: Activity) -> Condition | None:
    least = MIN_ACTIVITY_FRACTION * activity.duration
    if activity.cpu_time + activity.run_delay >= least:
        used_more = activity.cpu_time >= activity.run_delay
        return Condition.COMPUTING if used_more else Condition.WAITING_FOR_CPU
    if activity.has_runnable_thread:
        # A cgroup without CPU time left (cpu.max) is not run at all, and accounts for no wait.
        return Condition.WAITING_FOR_CPU
    if activity.has_blocked_thread or activity.major_faults >= _MIN_FAULT_RATE * activity.duration:
        return Condition.WAITING_FOR_DISK
    return Condition.ACCEPTING if activity.is_queue_draining else None


@attrs.define
class FailureStreak:
    """Checks in a row that failed."""

    failures: int = 0
    stuck_failures: int = 0
    """The last of them, if nothing showed that the process was overloaded instead."""

    def record(self, condition: Condition | None) -> None:
        """Count a check; None if it was answered."""
        if condition is None:
            self.failures = self.stuck_failures = 0
        else:
            self.failures += 1
            self.stuck_failures = 0 if condition.is_overload else self.stuck_failures + 1

    def find_kill_reason(self, failure_threshold: int, overload_threshold: int) -> str:
        """Say why the process is to be killed, "" if it is not."""
        if self.stuck_failures >= failure_threshold:
            return f"failed {self.stuck_failures} health checks in a row"
        if self.failures >= max(failure_threshold, overload_threshold):
            return f"failed {self.failures} health checks in a row, and was not just overloaded"
        return ""


def ready_timeout_extension(timeout: float, run_delay: float, extended: float) -> float:
    """Give the seconds that a process may still take to get ready after its `timeout`.

    The time that it waited for a CPU does not count against it, up to three times the timeout.
    `extended` is what it was given before.
    """
    extension = min(run_delay, 3 * timeout) - extended
    return extension if extension >= MIN_ACTIVITY_FRACTION * timeout else 0.0
