"""What a server has to do, counted as it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_MAX_SAMPLES = 10_000


class LoadRecorder:
    """Calls of a server's own services; those of health, reflection and the like are not counted.

    Calls are timed only while somebody is `timing` them.
    """

    def __init__(self) -> None:
        self.started = self.ended = self.failed = 0
        self._samples: list[list[float]] = []

    @staticmethod
    def is_counted(service: str) -> bool:
        return not service.startswith(("grpc.", "meshtrio."))

    def start_call(self) -> float:
        """A call starts; gives what `end` is to be told."""
        self.started += 1
        return time.perf_counter() if self._samples else 0.0

    def end_call(self, started_at: float, *, failed: bool) -> None:
        self.ended += 1
        self.failed += failed
        if started_at and self._samples:
            seconds = time.perf_counter() - started_at
            for samples in self._samples:
                if len(samples) < _MAX_SAMPLES:
                    samples.append(seconds)

    @contextmanager
    def record_durations(self) -> Iterator[list[float]]:
        """Have the seconds of each call that ends put into a list, which is to be emptied."""
        samples: list[float] = []
        self._samples.append(samples)
        try:
            yield samples
        finally:
            # By identity: two of them may be equal.
            self._samples = [each for each in self._samples if each is not samples]
