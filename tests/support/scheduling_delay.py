"""How late a loaded machine runs what is ready, for tests that hold to a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_SLEEP_TIME = 0.005
_CONTEXT_SWITCHES = 10
"""How often processes and threads take turns in what is measured."""


def _read_run_delay() -> float:
    """Return the seconds for which the calling thread was ready and had no processor."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


class SchedulingDelay:
    """Measures, during a block, how late threads run on this machine.

    A test that claims "within 0.1 s" means work, and waiting for other processes. It adds what a
    scheduler adds: to each turn, which is measured by a thread that sleeps, and to the work of the
    test's own thread, which has only a part of a processor.
    """

    def __init__(self) -> None:
        self._max_delay = 0.0
        self._run_delay_before = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    @property
    def allowance(self) -> float:
        """Seconds that the machine may have added until now; next to none if it is idle.

        Only for the thread that has entered the block.
        """
        run_delay = _read_run_delay() - self._run_delay_before
        return _CONTEXT_SWITCHES * self._max_delay + run_delay

    def _measure(self) -> None:
        while not self._stopped.is_set():
            before = time.monotonic()
            time.sleep(_SLEEP_TIME)
            self._max_delay = max(self._max_delay, time.monotonic() - before - _SLEEP_TIME)

    def __enter__(self) -> Self:
        self._run_delay_before = _read_run_delay()
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
