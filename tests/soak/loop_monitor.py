"""How long an event loop stands still, measured from within."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import sys
import threading
import time
import traceback
from pathlib import Path

import trio

_MIN_RECORDED_STANDSTILL = 0.1
"""Seconds of a standstill that are noted."""
_STATE = struct.Struct("<d?")


class LoopMonitor(trio.abc.Instrument):
    """Times each pass of the loop: from one wait for I/O to the next, no other task is served.

    Time for which the machine had no processor for the loop's thread is subtracted (the run delay
    of schedstat in /proc), and so is that of other threads of the process as far as the loop was
    blocked meanwhile, since one of them may have had the interpreter's lock. So a busy machine does
    not count as a standstill; what blocks, computes or waits for the lock does.

    Standstills go to the file `path`, a line of JSON each, with the stack of the loop if a
    `StackSampler` in another process has asked for it in time. The thread that answers it sleeps
    until then, and so takes no part in who has the lock.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        with path.with_suffix(".state").open("w+b") as state:
            state.truncate(mmap.PAGESIZE)
            self._state = mmap.mmap(state.fileno(), mmap.PAGESIZE)
        asked = path.with_suffix(".asked")
        if not asked.exists():
            os.mkfifo(asked)
        self._requests = os.open(asked, os.O_RDWR)
        self._run_delays = _RunDelays()
        self._thread = 0
        self._tid = 0
        self._stack = ""
        self._began = 0.0
        self._cpu = 0.0
        self._delay = 0
        self._delays: dict[int, int] = {}

    def before_run(self) -> None:
        """Prepare for the thread that the loop runs in."""
        self._thread = threading.get_ident()
        self._tid = threading.get_native_id()
        threading.Thread(target=self._answer, daemon=True, name="loop watch").start()

    def after_run(self) -> None:
        """Close what is open."""
        _STATE.pack_into(self._state, 0, 0.0, False)
        self._run_delays.close()
        self._state.close()
        self._file.close()

    def after_io_wait(self, timeout: float) -> None:
        """Note the beginning of a pass."""
        self._delay = self._run_delays.of(self._tid)
        self._delays = self._run_delays.of_others(self._tid)
        self._cpu = time.thread_time()
        self._began = time.monotonic()
        _STATE.pack_into(self._state, 0, self._began, True)

    def before_io_wait(self, timeout: float) -> None:
        """Note the end of a pass, and write it down if it took long."""
        wall = time.monotonic() - self._began
        _STATE.pack_into(self._state, 0, self._began, False)
        if wall > _MIN_RECORDED_STANDSTILL and self._began:
            own = (self._run_delays.of(self._tid) - self._delay) / 1e9
            cpu = time.thread_time() - self._cpu
            blocked = max(wall - own - cpu, 0.0)
            delays = self._run_delays.of_others(self._tid)
            others = min(_growth(self._delays, delays) / 1e9, blocked)
            seconds = wall - own - others
            if seconds > _MIN_RECORDED_STANDSTILL:
                found = {"seconds": seconds, "cpu": cpu, "run_delay": own + others}
                self._file.write(json.dumps({**found, "stack": self._stack}) + "\n")
            self._stack = ""

    def _answer(self) -> None:
        while os.read(self._requests, 1):
            frame = sys._current_frames().get(self._thread)
            if frame is not None:
                self._stack = "".join(traceback.format_stack(frame)[-12:])


class _RunDelays:
    """Nanoseconds that threads of this process have waited for a processor."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}
        """Descriptors of schedstat, by thread: opening takes longer than reading."""

    def of(self, tid: int) -> int:
        """Return that of one thread. Raises OSError if it has ended."""
        if tid not in self._open:
            self._open[tid] = os.open(f"/proc/self/task/{tid}/schedstat", os.O_RDONLY)
        try:
            return int(os.pread(self._open[tid], 100, 0).split()[1])
        except OSError:
            os.close(self._open.pop(tid))
            raise

    def of_others(self, own: int) -> dict[int, int]:
        """Return those of the other threads of Python."""
        found = {}
        for thread in threading.enumerate():
            tid = thread.native_id
            if tid is not None and tid != own:
                with contextlib.suppress(OSError):
                    found[tid] = self.of(tid)
        for tid in self._open.keys() - found.keys() - {own}:
            os.close(self._open.pop(tid))  # That thread has ended.
        return found

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def _growth(before: dict[int, int], after: dict[int, int]) -> int:
    return sum(delay - before.get(tid, delay) for tid, delay in after.items())


class StackSampler:
    """Asks a watched process, from another one, where its loop stands still."""

    def __init__(self, path: Path) -> None:
        self._state = path.with_suffix(".state")
        self._fifo = path.with_suffix(".asked")
        self._asked = 0.0

    def request_stack(self) -> None:
        """Ask for the stack of a standstill, once; to be called every few dozen milliseconds."""
        try:
            began, standing = _STATE.unpack_from(self._state.read_bytes())
        except (OSError, struct.error):
            return
        if (
            standing
            and began != self._asked
            and time.monotonic() - began > _MIN_RECORDED_STANDSTILL
        ):
            self._asked = began
            with contextlib.suppress(OSError):
                fifo = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK)
                with os.fdopen(fifo, "wb", buffering=0) as asked:
                    asked.write(b"?")


def read_standstills(path: Path) -> list[dict[str, object]]:
    """Return what a watch has written, the longest first."""
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda each: -each["seconds"])
