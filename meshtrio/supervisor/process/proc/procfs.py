"""Parses /proc/PID (proc(5)).

Everything in /proc is bytes: any process, of any user, can choose a name that is not UTF-8 or that
looks like the rest of an entry. An entry that cannot be read or parsed is skipped; it never affects
what is reported about other processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import attrs

from meshtrio.util.processes import ProcessInfo, list_pids, read_proc_file

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

_MIN_STAT_FIELDS = 22
"""Minimum number of fields after the name, of the 50 that current kernels have."""
_EXIT_CODE_INDEX = 49
"""Index of the exit status among the fields after the name; kernels before 3.5 lack it."""
_MAX_THREADS = 64
"""Maximum number of threads of a process that are searched for a traced one."""


@attrs.frozen
class ProcessStat:
    """Fields of `/proc/PID/stat`."""

    pid: int
    state: str
    """Its state as one letter, such as "R" for running or "Z" for zombie."""
    ppid: int
    """The pid of its parent."""
    pgrp: int
    """The id of its process group."""
    session: int
    """The id of its session."""
    cpu_ticks: int
    """CPU time, in clock ticks, of the process and of the children that it has waited for."""
    rss_pages: int
    """Resident memory, in pages."""
    num_threads: int = 1
    """Number of threads; a process whose main thread has ended may have others."""
    start_ticks: int = 0
    """Time of its start, in clock ticks since boot (CLOCK_BOOTTIME)."""
    exit_code: int = 0
    """Wait status of a zombie as in wait(2); 0 if the kernel does not show it to us."""

    @property
    def is_alive(self) -> bool:
        """Whether it is neither a zombie nor dead."""
        return self.state not in "ZX" or self.num_threads > 1


def parse_stat(content: bytes) -> ProcessStat | None:
    """Parse the content of `/proc/PID/stat`; None if it is malformed.

    The second field is the process's name in parentheses. The name may itself hold spaces,
    parentheses and newlines, so the fields are counted from the last closing parenthesis.
    """
    before, _, after = content.rpartition(b")")
    fields = after.split()
    if len(fields) < _MIN_STAT_FIELDS or len(fields[0]) != 1 or not fields[0].isalpha():
        return None
    try:
        return ProcessStat(
            pid=int(before.partition(b"(")[0]),
            state=fields[0].decode("ascii"),
            ppid=int(fields[1]),
            pgrp=int(fields[2]),
            session=int(fields[3]),
            cpu_ticks=sum(map(int, fields[11:15])),
            rss_pages=int(fields[21]),
            num_threads=int(fields[17]),
            start_ticks=int(fields[19]),
            exit_code=int(fields[_EXIT_CODE_INDEX]) if len(fields) > _EXIT_CODE_INDEX else 0,
        )
    except ValueError:
        return None


def iter_stats() -> Iterator[ProcessStat]:
    """Yield the stat of each process that can be read.

    Raises OSError if /proc cannot be listed, or this process is out of descriptors or memory.
    """
    yield from filter(None, map(read_stat, list_pids()))


def read_stat(pid: int) -> ProcessStat | None:
    """Read the stat of a process; None if it has exited, is hidden from us, or is malformed.

    Raises OSError if this process is out of descriptors or memory.
    """
    return parse_stat(read_proc_file(pid, "stat"))


def has_signal(mask: int, number: int) -> bool:
    """Whether a signal is in a mask of `ProcessInfo`."""
    return bool(mask >> (number - 1) & 1)


@attrs.frozen
class Tracer:
    """A process that traces another one by ptrace(2), such as gdb or strace."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.name})" if self.name else f"pid {self.pid}"


def find_tracer(pid: int) -> Tracer | None:
    """Find the process that traces a process, or one of its first threads.

    A process that has exited stays a zombie until its tracer has waited for it or has exited.
    """
    with contextlib.suppress(OSError):
        for task in sorted(map(int, os.listdir(f"/proc/{pid}/task")))[:_MAX_THREADS]:
            if tracer := ProcessInfo(f"{pid}/task/{task}").tracer_pid:
                return Tracer(tracer, ProcessInfo(tracer).comm)
    return None
