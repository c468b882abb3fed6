"""Samples the activity of a plugin: CPU time, waits and states from /proc (proc(5))."""

from __future__ import annotations

import itertools
import os
import time

import attrs

from meshtrio.supervisor.policy.diagnosis import Activity
from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.listening_sockets import AcceptQueue, read_accept_queue
from meshtrio.util.processes import read_proc_file

_NANOSECONDS = 1e9
_MAX_THREADS = 2000
"""Maximum number of threads that are sampled; each takes about 20 µs."""


@attrs.define
class ActivitySample:
    """The processes of one session or group, and their socket, at one point in time."""

    time: float
    """Time of the sample, in seconds of the monotonic clock."""
    cpu_time: float = 0.0
    """CPU time of all threads, in seconds."""
    cpu_wait: float = 0.0
    """Sum of the seconds that each thread was runnable and waited for a CPU."""
    max_cpu_wait: float = 0.0
    """Maximum, over all threads, of the seconds that it waited for a CPU."""
    major_faults: int = 0
    """Number of page faults that had to wait for a disk."""
    states: frozenset[tuple[int, str]] = frozenset()
    """Ids of the threads, each with the letter of its state."""
    accept_queue: AcceptQueue | None = None
    """The accept queue of the socket that they listen on, None if it is not known."""


def sample_activity(leader_pid: int, address: str) -> ActivitySample | None:
    """Sample all processes of the session or group of a pid; None if none is visible.

    The address is the one that they listen on.

    Takes milliseconds on a machine with many processes, so it is for a worker thread.
    """
    found = ActivitySample(time=time.monotonic())
    states: set[tuple[int, str]] = set()
    try:
        stats = [stat for stat in procfs.iter_stats() if stat.is_alive]
    except OSError:
        return None
    pids = (stat.pid for stat in stats if leader_pid in (stat.pgrp, stat.session))
    threads = itertools.chain.from_iterable(map(_list_threads, pids))
    for thread in itertools.islice(threads, _MAX_THREADS):
        _add_thread(found, states, thread)
    if not states:
        return None
    found.states, found.accept_queue = frozenset(states), read_accept_queue(address)
    return found


def _list_threads(pid: int) -> list[str]:
    try:
        return [f"{pid}/task/{name}" for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _add_thread(found: ActivitySample, states: set[tuple[int, str]], thread: str) -> None:
    """Add a thread to a sample, unless it has exited meanwhile."""
    try:
        stat = read_proc_file(thread, "stat").rpartition(b")")[2].split()
        used, waited = map(int, read_proc_file(thread, "schedstat").split()[:2])
        state, faults = stat[0].decode("ascii"), int(stat[9])
    except (OSError, ValueError, IndexError):
        return
    found.cpu_time += used / _NANOSECONDS
    found.cpu_wait += waited / _NANOSECONDS
    found.max_cpu_wait = max(found.max_cpu_wait, waited / _NANOSECONDS)
    found.major_faults += faults
    states.add((int(os.path.basename(thread)), state))


def compute_activity(before: ActivitySample, after: ActivitySample) -> Activity:
    """Compute the activity between two samples."""
    same = before.states & after.states
    queue, queue_before = after.accept_queue, before.accept_queue
    return Activity(
        duration=max(after.time - before.time, 1e-3),
        cpu_time=max(after.cpu_time - before.cpu_time, 0.0),
        run_delay=max(after.cpu_wait - before.cpu_wait, 0.0),
        major_faults=max(after.major_faults - before.major_faults, 0),
        has_runnable_thread=any(state == "R" for _, state in same),
        has_blocked_thread=any(state == "D" for _, state in same),
        is_stopped=all(state in "Tt" for _, state in after.states),
        is_queue_draining=bool(queue and queue_before and queue.waiting < queue_before.waiting),
    )


def read_thread_cpu_wait() -> float:
    """Read the seconds that this thread was runnable and waited for a CPU; 0 if unknown."""
    try:
        return int(read_proc_file("thread-self", "schedstat").split()[1]) / _NANOSECONDS
    except (OSError, ValueError, IndexError):
        return 0.0
