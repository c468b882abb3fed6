"""How late a loaded machine runs what is ready, for tests that hold to a time."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

_PAUSE = 0.005
_TURNS = 10
"""How often processes and threads take turns in what is measured."""


class Lateness:
    """Measures, during a block, how late a thread wakes up.

    A test that claims "within 0.1 s" means work, and waiting for one another. What a scheduler adds
    to each turn is the machine's.
    """

    def __init__(self) -> None:
        self._worst = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    @property
    def allowance(self) -> float:
        """Seconds that the machine may have added; next to none if it is idle."""
        return _TURNS * self._worst

    def _measure(self) -> None:
        while not self._over.is_set():
            before = time.monotonic()
            time.sleep(_PAUSE)
            self._worst = max(self._worst, time.monotonic() - before - _PAUSE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
