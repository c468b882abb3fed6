"""How long an event loop stands still, measured from within."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

import trio

_NOTED = 0.1
"""Seconds of a standstill that are noted."""
_LOOK = 0.05
"""Seconds between two looks of the thread that notes where a loop stands still."""


class LoopWatch(trio.abc.Instrument):
    """Times each pass of the loop: from one wait for I/O to the next, no other task is served.

    The time for which the machine had no processor for the loop's thread is subtracted (the run
    delay of /proc/PID/task/TID/schedstat), so that a busy machine does not count as a standstill.
    What blocks, computes or waits for the interpreter's lock does. Standstills are written to a
    file, a line of JSON each, with the stack that the loop had while it stood still.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._schedstat = -1
        self._began = 0.0
        self._delay = 0
        self._thread = 0
        self._stack = ""
        self._standing = False

    def before_run(self) -> None:
        """Start the thread that looks where the loop is; called in the loop's thread."""
        self._thread = threading.get_ident()
        tid = threading.get_native_id()
        self._schedstat = os.open(f"/proc/self/task/{tid}/schedstat", os.O_RDONLY)
        threading.Thread(target=self._look, daemon=True, name="loop watch").start()

    def after_io_wait(self, timeout: float) -> None:
        """Note the beginning of a pass."""
        self._delay = self._run_delay()
        self._began = time.monotonic()
        self._standing = True

    def before_io_wait(self, timeout: float) -> None:
        """Note the end of a pass, and write it down if it took long."""
        self._standing = False
        wall = time.monotonic() - self._began
        if wall > _NOTED and self._began:
            delay = (self._run_delay() - self._delay) / 1e9
            if wall - delay > _NOTED:
                found = {"seconds": wall - delay, "run_delay": delay, "stack": self._stack}
                self._file.write(json.dumps(found) + "\n")
            self._stack = ""

    def _run_delay(self) -> int:
        return int(os.pread(self._schedstat, 100, 0).split()[1])

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK)
            began = self._began
            if self._standing and time.monotonic() - began > _NOTED and not self._stack:
                frame = sys._current_frames().get(self._thread)
                if frame is not None:
                    self._stack = "".join(traceback.format_stack(frame, 12))


def standstills(path: Path) -> list[dict[str, object]]:
    """Return what a watch has written, the longest first."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda each: -each["seconds"])
