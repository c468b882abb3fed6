"""How late a loaded machine runs what is ready, for tests that hold to a time."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

_SLEEP_TIME = 0.005
_CONTEXT_SWITCHES = 10
"""How often processes and threads take turns in what is measured."""


class SchedulingDelay:
    """Measures, during a block, how late a thread wakes up.

    A test that claims "within 0.1 s" means work, and waiting for one another. What a scheduler adds
    to each turn is the machine's.
    """

    def __init__(self) -> None:
        self._max_delay = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    @property
    def allowance(self) -> float:
        """Seconds that the machine may have added; next to none if it is idle."""
        return _CONTEXT_SWITCHES * self._max_delay

    def _measure(self) -> None:
        while not self._stopped.is_set():
            before = time.monotonic()
            time.sleep(_SLEEP_TIME)
            self._max_delay = max(self._max_delay, time.monotonic() - before - _SLEEP_TIME)

    def __enter__(self) -> Self:
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
