"""Whether a process that does not answer health checks is stuck or overloaded: pure functions.

A check that fails says that no answer came in time. What the process did meanwhile says why: one
that computes, or waits for a CPU, the disk or memory, or whose clients fill its backlog, is at work
and gets more time; one that did nothing is stuck. More time is bounded, since a process in an
endless loop computes as well.
"""

from __future__ import annotations

from enum import Enum

import attrs

MIN_PROGRESS = 0.1
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
    def overloaded(self) -> bool:
        """Whether more time may help."""
        return self in _OVERLOADED


_OVERLOADED = frozenset(
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

    seconds: float
    cpu: float = 0.0
    """CPU time that they used, in seconds."""
    waited: float = 0.0
    """Time that their threads were runnable and waited for a CPU, in seconds."""
    major_faults: int = 0
    """Pages that had to be read from the disk."""
    runnable: bool = False
    """A thread was runnable at the beginning and at the end."""
    blocked: bool = False
    """A thread was in uninterruptible sleep at the beginning and at the end."""
    stopped: bool = False
    """All threads are stopped, by a signal or a debugger."""
    drained: bool = False
    """Fewer connections wait to be accepted than at the beginning."""

    def __str__(self) -> str:
        """A phrase that follows "it did not answer; "."""
        if self.stopped:
            return "its processes are stopped, by a signal or a debugger"
        share, waited = (100 * part / self.seconds for part in (self.cpu, self.waited))
        text = f"it used {share:.0f} % of a CPU and waited for one {waited:.0f} % of the time"
        return f"{text}; it waits for the disk" if self.blocked else text


def symptom_of_queue(symptom: Symptom, queue: tuple[int, int] | None, unanswered: int) -> Symptom:
    """Correct a symptom by the connections that wait to be accepted, and the backlog.

    On TCP, a connection to a server whose backlog is full gets no answer. On the other hand, checks
    that were given up wait as well: if there are no others, clients are not what fills the backlog.
    """
    if queue is None or symptom not in (Symptom.NO_ANSWER, Symptom.BACKLOG_FULL):
        return symptom
    waiting, backlog = queue
    full = waiting > backlog and waiting > unanswered
    return Symptom.BACKLOG_FULL if full else Symptom.NO_ANSWER


def judge(symptom: Symptom, activity: Activity | None) -> Condition:
    """Tell why a check failed; `activity` is None if nothing is known of the processes."""
    if symptom is Symptom.UNREACHABLE:
        return Condition.UNREACHABLE
    if symptom is Symptom.WRONG_ANSWER:
        return Condition.FAULTY
    if activity is not None:
        if activity.stopped:
            return Condition.STOPPED
        found = _work(activity)
        if found is not None:
            return found
    if symptom is Symptom.BACKLOG_FULL:
        return Condition.BACKLOG_FULL
    if symptom is Symptom.CLOSED:
        return Condition.CLOSING
    return Condition.STUCK


def _work(activity: Activity) -> Condition | None:
    least = MIN_PROGRESS * activity.seconds
    if activity.cpu + activity.waited >= least:
        used_more = activity.cpu >= activity.waited
        return Condition.COMPUTING if used_more else Condition.WAITING_FOR_CPU
    if activity.runnable:
        # A cgroup without CPU time left (cpu.max) is not run at all, and accounts for no wait.
        return Condition.WAITING_FOR_CPU
    if activity.blocked or activity.major_faults >= _MIN_FAULT_RATE * activity.seconds:
        return Condition.WAITING_FOR_DISK
    return Condition.ACCEPTING if activity.drained else None


@attrs.define
class Streak:
    """Checks in a row that failed."""

    failed: int = 0
    stuck: int = 0
    """The last of them, if nothing showed that the process was overloaded instead."""

    def note(self, condition: Condition | None) -> None:
        """Count a check; None if it was answered."""
        if condition is None:
            self.failed = self.stuck = 0
        else:
            self.failed += 1
            self.stuck = 0 if condition.overloaded else self.stuck + 1

    def verdict(self, threshold: int, overload_threshold: int) -> str:
        """Say why the process is to be killed, "" if it is not."""
        if self.stuck >= threshold:
            return f"failed {self.stuck} health checks in a row"
        if self.failed >= max(threshold, overload_threshold):
            return f"failed {self.failed} health checks in a row, and was not just overloaded"
        return ""


def ready_extension(timeout: float, waited: float, extended: float) -> float:
    """Give the seconds that a process may still take to get ready after its `timeout`.

    The time that it waited for a CPU does not count against it, up to three times the timeout.
    `extended` is what it was given before.
    """
    extension = min(waited, 3 * timeout) - extended
    return extension if extension >= MIN_PROGRESS * timeout else 0.0
