"""What the processes of a plugin do: CPU time, waits and states, as /proc has them (proc(5))."""

from __future__ import annotations

import itertools
import os
import time

import attrs

from meshtrio.supervisor.policy.diagnosis import Activity
from meshtrio.supervisor.process.proc import procfs

_NANOSECONDS = 1e9
_MAX_THREADS = 2000
"""Threads of a plugin that are looked at: reading takes about 20 us for each."""


@attrs.define
class ActivitySample:
    """The processes of one session or group at a moment."""

    time: float
    cpu_time: float = 0.0
    """CPU time of all threads, in seconds."""
    cpu_wait: float = 0.0
    """Time that the threads were runnable and waited for a CPU, in seconds."""
    max_cpu_wait: float = 0.0
    """That of the thread which waited longest."""
    major_faults: int = 0
    states: frozenset[tuple[int, str]] = frozenset()
    """Thread ids, and the letter of each one's state."""


def sample_activity(leader_pid: int) -> ActivitySample | None:
    """Look at all processes of the session or group of a pid; None if there is none to be seen.

    Takes some milliseconds on a machine with many processes, so it is for a thread.
    """
    found = ActivitySample(time=time.monotonic())
    states: set[tuple[int, str]] = set()
    try:
        pids = [
            s.pid for s in procfs.iter_stats() if leader_pid in (s.pgrp, s.session) and s.is_alive
        ]
    except OSError:
        return None
    threads = itertools.chain.from_iterable(map(_list_threads, pids))
    for folder in itertools.islice(threads, _MAX_THREADS):
        _add_thread(found, states, folder)
    found.states = frozenset(states)
    return found if states else None


def _list_threads(pid: int) -> list[str]:
    try:
        return [f"/proc/{pid}/task/{name}" for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _add_thread(found: ActivitySample, states: set[tuple[int, str]], folder: str) -> None:
    """Add a thread, unless it has ended meanwhile."""
    try:
        stat = procfs.read_file(f"{folder}/stat").rpartition(b")")[2].split()
        used, waited = map(int, procfs.read_file(f"{folder}/schedstat").split()[:2])
        state, faults = stat[0].decode("ascii"), int(stat[9])
    except (OSError, ValueError, IndexError):
        return
    found.cpu_time += used / _NANOSECONDS
    found.cpu_wait += waited / _NANOSECONDS
    found.max_cpu_wait = max(found.max_cpu_wait, waited / _NANOSECONDS)
    found.major_faults += faults
    states.add((int(os.path.basename(folder)), state))


def compute_activity(before: ActivitySample, after: ActivitySample) -> Activity:
    """Give what happened from one sample to the next. Threads that ended are not in the second."""
    same = before.states & after.states
    return Activity(
        duration=max(after.time - before.time, 1e-3),
        cpu_time=max(after.cpu_time - before.cpu_time, 0.0),
        run_delay=max(after.cpu_wait - before.cpu_wait, 0.0),
        major_faults=max(after.major_faults - before.major_faults, 0),
        has_runnable_thread=any(state == "R" for _, state in same),
        has_blocked_thread=any(state == "D" for _, state in same),
        is_stopped=all(state in "Tt" for _, state in after.states),
    )


def read_thread_cpu_wait() -> float:
    """Seconds that this thread was runnable and waited for a CPU; 0 if that is not known."""
    try:
        return int(procfs.read_file("/proc/thread-self/schedstat").split()[1]) / _NANOSECONDS
    except (OSError, ValueError, IndexError):
        return 0.0
