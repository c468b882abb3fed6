"""Histograms of ended calls, updated in batches.

To sort many values into buckets at once is ten times as fast as to find the bucket of each, so a
call only appends its figures to a list.
"""

from __future__ import annotations

from itertools import compress
from threading import Lock
from typing import Any

from meshtrio.grpc.status import UNKNOWN, StatusCode
from meshtrio.telemetry.metrics.histogram import Histogram

FLUSH_THRESHOLD = 1000
"""Length of `pending` at which it has to be flushed."""
_STATUS_CODES = frozenset(code.value for code in StatusCode)
_FLUSH_LOCK = Lock()


class BatchedHistograms:
    """Histograms of calls' figures by status; statuses that gRPC does not define are UNKNOWN.

    Pending figures are in one flat list. Tuples would be container objects that outlive the call,
    and their number would trigger full garbage collections.
    """

    __slots__ = ("_bounds", "_histograms_by_status", "pending")

    def __init__(self, *bounds: tuple[float, ...]) -> None:
        """`bounds`: bucket bounds of each figure."""
        self._bounds = bounds
        self._histograms_by_status: dict[int, tuple[Histogram, ...]] = {}
        self.pending: list[Any] = []
        """Status code and figures of each call, in a row. It is never replaced; callers append to
        it, and call `flush` when it has reached `FLUSH_THRESHOLD`."""

    def histograms_by_status(self) -> dict[int, tuple[Histogram, ...]]:
        """Return all histograms, flushed. Safe in any thread while another one appends."""
        self.flush()
        return dict(self._histograms_by_status)

    def flush(self) -> None:
        """Record the pending figures. Safe in any thread while another one appends."""
        with _FLUSH_LOCK:
            rows = self.pending[:]
            del self.pending[: len(rows)]
            width = 1 + len(self._bounds)
            codes, *columns = (rows[n::width] for n in range(width))
            for code in set(codes):
                mask = None if codes.count(code) == len(codes) else [c == code for c in codes]
                for histogram, values in zip(self._histograms_for(code), columns, strict=True):
                    histogram.record(values if mask is None else list(compress(values, mask)))

    def _histograms_for(self, code: int) -> tuple[Histogram, ...]:
        known = code if code in _STATUS_CODES else UNKNOWN
        if known not in self._histograms_by_status:
            self._histograms_by_status[known] = tuple(Histogram(bounds) for bounds in self._bounds)
        return self._histograms_by_status[known]
