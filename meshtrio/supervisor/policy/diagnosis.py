"""Decides whether a process that does not answer health checks is stuck or overloaded. Pure.

A failed check only means that no answer came in time. What the process did meanwhile shows why: one
that computes, or waits for a CPU, the disk or memory, or whose clients fill its backlog, is
overloaded and gets more time; one that did nothing is stuck. The additional time is bounded, since
a process in an endless loop computes as well.
"""

from __future__ import annotations

from enum import Enum

import attrs

MIN_ACTIVITY_FRACTION = 0.1
"""Fraction of the observed time above which CPU time, used or waited for, counts as work. Idle
runtimes use less, as they wake up for timers only; a starved process waits for the rest."""
_MIN_FAULT_RATE = 10.0
"""Pages per second that have to be read from the disk for a process to count as short of memory."""


class Condition(Enum):
    """What a process that did not answer a check is doing; the values are used in the log.

    The check alone finds one of those that have a description here. Observing the process shows
    whether it is in one of the others instead.
    """

    STUCK = "stuck"
    """The server accepted the connection and did not answer in time."""
    STOPPED = "stopped"
    UNREACHABLE = "unreachable"
    """No server listens."""
    FAULTY = "faulty"
    """The answer was not one to a health check."""
    COMPUTING = "computing"
    WAITING_FOR_CPU = "waiting for a CPU"
    WAITING_FOR_DISK = "waiting for the disk or memory"
    BACKLOG_FULL = "backlog full"
    """The backlog of the socket was full."""
    ACCEPTING = "accepting connections"
    CLOSING = "closing connections"
    """The server accepted the connection and closed it without an answer."""
    MESH_OVERLOADED = "mesh overloaded"
    """The mesh lacked a CPU or a local port for the check."""


UNEXPLAINED = {Condition.STUCK, Condition.CLOSING, Condition.BACKLOG_FULL}
"""Conditions that work of the process may explain. It is no excuse for a server that is not there,
or that answers something else."""
_FAILURES = {Condition.STUCK, Condition.STOPPED, Condition.UNREACHABLE, Condition.FAULTY}
"""Other conditions are those of an overloaded process, which gets more time."""


@attrs.frozen
class Activity:
    """What the processes of a plugin did during a period."""

    duration: float
    """The length of the period, in seconds."""
    cpu_time: float = 0.0
    """CPU time that the processes used, in seconds."""
    run_delay: float = 0.0
    """Time that their threads were runnable and waited for a CPU, in seconds."""
    major_faults: int = 0
    """Number of pages that were read from the disk."""
    has_runnable_thread: bool = False
    """Whether a thread was runnable at the beginning and at the end."""
    has_blocked_thread: bool = False
    """Whether a thread was in uninterruptible sleep at the beginning and at the end."""
    is_stopped: bool = False
    """Whether all threads are stopped, by a signal or a debugger."""
    is_queue_draining: bool = False
    """Whether fewer connections wait to be accepted than at the beginning."""

    def __str__(self) -> str:
        """Return a phrase that follows "it did not answer; "."""
        if self.is_stopped:
            return "its processes are stopped, by a signal or a debugger"
        share, waited = (100 * part / self.duration for part in (self.cpu_time, self.run_delay))
        text = f"it used {share:.0f} % of a CPU and waited for one {waited:.0f} % of the time"
        return f"{text}; it waits for the disk" if self.has_blocked_thread else text


def correct_condition(
    condition: Condition, queue: tuple[int, int] | None, unanswered: int
) -> Condition:
    """Correct what a check alone has found by the socket's accept queue.

    On TCP, a connection to a server whose backlog is full gets no answer. On the other hand, the
    connections of checks that timed out are in the queue too: without others, clients do not fill
    the backlog. `queue` is the number of connections in it and the backlog, None if not known.
    """
    if queue is None or condition is Condition.CLOSING:
        return condition
    waiting, backlog = queue
    full = waiting > backlog and waiting > unanswered
    return Condition.BACKLOG_FULL if full else Condition.STUCK


def diagnose(condition: Condition, activity: Activity | None) -> Condition:
    """Find why a check failed.

    `condition` is what the check alone has found, and `activity` None if nothing is known of the
    processes.
    """
    if activity is None:
        return condition
    if activity.is_stopped:
        return Condition.STOPPED
    least = MIN_ACTIVITY_FRACTION * activity.duration
    if activity.cpu_time + activity.run_delay >= least:
        used_more = activity.cpu_time >= activity.run_delay
        return Condition.COMPUTING if used_more else Condition.WAITING_FOR_CPU
    if activity.has_runnable_thread:
        # A cgroup without CPU time left (cpu.max) is not run at all, and accounts for no wait.
        return Condition.WAITING_FOR_CPU
    if activity.has_blocked_thread or activity.major_faults >= _MIN_FAULT_RATE * activity.duration:
        return Condition.WAITING_FOR_DISK
    return Condition.ACCEPTING if activity.is_queue_draining else condition


@attrs.define
class FailureStreak:
    """Counts failed checks in a row."""

    failures: int = 0
    """Number of failed checks in a row."""
    stuck_failures: int = 0
    """Number of the last of them during which the process was not overloaded."""

    def record(self, condition: Condition | None) -> None:
        """Count a check; `condition` is None if it was answered."""
        if condition is None:
            self.failures = self.stuck_failures = 0
        else:
            self.failures += 1
            self.stuck_failures = self.stuck_failures + 1 if condition in _FAILURES else 0

    def find_kill_reason(self, failure_threshold: int, overload_threshold: int) -> str:
        """Find why the process is to be killed, as a phrase; "" if it is not."""
        if self.stuck_failures >= failure_threshold:
            return f"failed {self.stuck_failures} health checks in a row"
        if self.failures >= max(failure_threshold, overload_threshold):
            return f"failed {self.failures} health checks in a row, more than overload explains"
        return ""


def ready_timeout_extension(timeout: float, run_delay: float, extended: float) -> float:
    """Compute how much longer a process may take to get ready, in seconds; 0 for no longer.

    Time in which it waited for a CPU (`run_delay`) does not count, up to three times the timeout.
    `extended` is by how much its timeout was extended before.
    """
    extension = min(run_delay, 3 * timeout) - extended
    return extension if extension >= MIN_ACTIVITY_FRACTION * timeout else 0.0
