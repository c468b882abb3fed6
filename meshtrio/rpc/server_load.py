"""The load of a server: the number and durations of its calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_MAX_SAMPLES = 10_000


class LoadRecorder:
    """Counts the calls of a server's own services, without those of health, reflection and so on.

    Durations are recorded only within `record_durations`.
    """

    def __init__(self) -> None:
        self.started = self.ended = self.failed = 0
        self._samples: list[list[float]] = []

    @staticmethod
    def is_counted(service: str) -> bool:
        """Return whether calls of a service count as load."""
        return not service.startswith(("grpc.", "meshtrio."))

    def start_call(self) -> float:
        """Count the start of a call; return the value to pass to `end_call`."""
        self.started += 1
        return time.perf_counter() if self._samples else 0.0

    def end_call(self, started_at: float, *, failed: bool) -> None:
        """Count the end of a call."""
        self.ended += 1
        self.failed += failed
        if started_at and self._samples:
            seconds = time.perf_counter() - started_at
            for samples in self._samples:
                if len(samples) < _MAX_SAMPLES:
                    samples.append(seconds)

    @contextmanager
    def record_durations(self) -> Iterator[list[float]]:
        """Append the duration of each call, in seconds, to a list that the caller empties."""
        samples: list[float] = []
        self._samples.append(samples)
        try:
            yield samples
        finally:
            # By identity, because two lists may be equal.
            self._samples = [each for each in self._samples if each is not samples]
