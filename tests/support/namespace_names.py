"""Names of network namespaces that say which process they belong to.

A test run that was killed leaves its namespaces, and what runs in them. The next run recognizes
them by their names: `mtn-PID-START-N`, with the start time of the process, since pids are reused.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from itertools import count
from pathlib import Path

FOLDER = Path("/run/netns")
_NAME = re.compile(r"mtn-(?P<pid>\d+)-(?P<start>\d+)-\d+")
_START_TIME_FIELD = 19
"""Index of `starttime` in /proc/PID/stat after the command's name (proc(5))."""
COMMAND_TIMEOUT = 20.0
"""Seconds that a command of iproute2 may take."""
_numbers = count()


def make_name() -> str:
    """Return a name that no other namespace has."""
    return f"mtn-{os.getpid()}-{_start_time(os.getpid())}-{next(_numbers)}"


def find_leftovers() -> list[str]:
    """Return the namespaces whose owner has ended."""
    names = [path.name for path in FOLDER.iterdir()] if FOLDER.is_dir() else []
    return [
        name
        for name in names
        if (found := _NAME.fullmatch(name))
        and _start_time(int(found["pid"])) != int(found["start"])
    ]


def remove_namespace(name: str) -> None:
    """Kill what runs in a namespace, and remove it with its devices."""
    kill_processes(name)
    command = ["ip", "netns", "del", name]
    subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_TIMEOUT)


def kill_processes(name: str) -> None:
    """Kill the processes of a namespace; those that they fork meanwhile, too."""
    end = time.monotonic() + COMMAND_TIMEOUT
    while (pids := find_processes(name)) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def find_processes(name: str) -> list[int]:
    """Return the pids of the processes in a namespace that have not exited."""
    command = ["ip", "netns", "pids", name]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=COMMAND_TIMEOUT
    )
    return [int(word) for word in done.stdout.split()]


def _start_time(pid: int) -> int:
    """Return when a process has started, in clock ticks since boot; -1 if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(stat.rpartition(")")[2].split()[_START_TIME_FIELD])
