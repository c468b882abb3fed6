"""How long an event loop stands still, measured from within."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import signal
import struct
import threading
import time
from pathlib import Path
from typing import BinaryIO

import trio

_NOTED = 0.1
"""Seconds of a standstill that are noted."""
_SIGNAL = signal.SIGRTMIN + 3
"""Has the watched process write its stack, without its interpreter's lock."""
_STATE = struct.Struct("<d?")


class LoopWatch(trio.abc.Instrument):
    """Times each pass of the loop: from one wait for I/O to the next, no other task is served.

    Time for which the machine had no processor for the loop's thread is subtracted (the run delay
    of schedstat in /proc), and so is that of other threads of the process as far as the loop was
    blocked meanwhile, since one of them may have had the interpreter's lock. So a busy machine does
    not count as a standstill; what blocks, computes or waits for the lock does.

    Standstills go to the file `path`, a line of JSON each, with the stack of the loop if a
    `StackSampler` has asked for it. This runs no thread of its own, which would need the lock.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._stacks: BinaryIO = path.with_suffix(".stacks").open("a+b", buffering=0)
        with path.with_suffix(".state").open("w+b") as state:
            state.truncate(mmap.PAGESIZE)
            self._state = mmap.mmap(state.fileno(), mmap.PAGESIZE)
        self._schedstat = -1
        self._began = 0.0
        self._cpu = 0.0
        self._delay = 0
        self._delays: dict[int, int] = {}

    def before_run(self) -> None:
        """Prepare for the thread that the loop runs in."""
        self._schedstat = os.open(_schedstat(threading.get_native_id()), os.O_RDONLY)
        faulthandler.register(_SIGNAL, file=self._stacks, all_threads=False)

    def after_run(self) -> None:
        """Close what is open. A sampler that was about to ask still may."""
        _STATE.pack_into(self._state, 0, 0.0, False)
        signal.signal(_SIGNAL, signal.SIG_IGN)
        os.close(self._schedstat)
        self._state.close()
        self._stacks.close()
        self._file.close()

    def after_io_wait(self, timeout: float) -> None:
        """Note the beginning of a pass."""
        self._delay = self._run_delay()
        self._delays = _delays_of_others() if threading.active_count() > 1 else {}
        self._cpu = time.thread_time()
        self._began = time.monotonic()
        _STATE.pack_into(self._state, 0, self._began, True)

    def before_io_wait(self, timeout: float) -> None:
        """Note the end of a pass, and write it down if it took long."""
        wall = time.monotonic() - self._began
        _STATE.pack_into(self._state, 0, self._began, False)
        if wall > _NOTED and self._began:
            own = (self._run_delay() - self._delay) / 1e9
            cpu = time.thread_time() - self._cpu
            blocked = max(wall - own - cpu, 0.0)
            others = min(_growth(self._delays, _delays_of_others()) / 1e9, blocked)
            seconds = wall - own - others
            if seconds > _NOTED:
                found = {"seconds": seconds, "cpu": cpu, "run_delay": own + others}
                self._file.write(json.dumps({**found, "stack": self._take_stacks()}) + "\n")
            else:
                self._take_stacks()

    def _run_delay(self) -> int:
        return int(os.pread(self._schedstat, 100, 0).split()[1])

    def _take_stacks(self) -> str:
        self._stacks.seek(0)
        found = self._stacks.read().decode(errors="replace")
        self._stacks.truncate(0)
        return found


def _schedstat(tid: int) -> str:
    return f"/proc/self/task/{tid}/schedstat"


def _delays_of_others() -> dict[int, int]:
    """Return nanoseconds that other threads of Python have waited for a processor, by thread."""
    found = {}
    for thread in threading.enumerate():
        if thread.native_id is not None and thread.native_id != threading.get_native_id():
            with contextlib.suppress(OSError):
                text = Path(_schedstat(thread.native_id)).read_bytes()
                found[thread.native_id] = int(text.split()[1])
    return found


def _growth(before: dict[int, int], after: dict[int, int]) -> int:
    return sum(delay - before.get(tid, delay) for tid, delay in after.items())


class StackSampler:
    """Asks a watched process, from another one, where its loop stands still."""

    def __init__(self, path: Path, pid: int) -> None:
        self._path = path.with_suffix(".state")
        self._pid = pid
        self._asked = 0.0

    def look(self) -> None:
        """Ask for the stack of a standstill, once; to be called every few dozen milliseconds."""
        try:
            began, standing = _STATE.unpack_from(self._path.read_bytes())
        except (OSError, struct.error):
            return
        if standing and began != self._asked and time.monotonic() - began > _NOTED:
            self._asked = began
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, _SIGNAL)


def standstills(path: Path) -> list[dict[str, object]]:
    """Return what a watch has written, the longest first."""
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda each: -each["seconds"])
