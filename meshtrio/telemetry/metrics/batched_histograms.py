"""What is measured of calls that have ended: next to nothing is done with each, since to sort many
into buckets at a time is cheaper by an order than to find the bucket of each.
"""

from __future__ import annotations

from itertools import compress
from threading import Lock
from typing import Any

import purerpc

from meshtrio.telemetry.metrics.histogram import Histogram

FLUSH_THRESHOLD = 1000
"""Members of the list of what waits to be sorted."""
_UNKNOWN = purerpc.StatusCode.UNKNOWN.value
_STATUS_CODES = {status.value for status in purerpc.StatusCode}
_FLUSH_LOCK = Lock()


class BatchedHistograms:
    """Histograms of the figures of calls, by status; one that gRPC does not list is UNKNOWN.

    Figures wait in one flat list: tuples would be the only things that a call leaves behind, and
    have the garbage collector look for cycles among all there is, again and again.
    """

    __slots__ = ("_bounds", "_histograms_by_status", "pending")

    def __init__(self, *bounds: tuple[float, ...]) -> None:
        """The bounds of each figure's buckets."""
        self._bounds = bounds
        self._histograms_by_status: dict[int, tuple[Histogram, ...]] = {}
        self.pending: list[Any] = []
        """Of each call the code of its status, and its figures. The same list for ever: whoever
        adds to it calls `sort` when it has become long."""

    def histograms_by_status(self) -> dict[int, tuple[Histogram, ...]]:
        """All that was added until now. For any thread, while another adds."""
        self.flush()
        return dict(self._histograms_by_status)

    def flush(self) -> None:
        """Sort what waits into the buckets. For any thread, while another adds."""
        with _FLUSH_LOCK:
            rows = self.pending[:]
            del self.pending[: len(rows)]
            width = 1 + len(self._bounds)
            codes, *columns = (rows[n::width] for n in range(width))
            for code in set(codes):
                mine = None if codes.count(code) == len(codes) else [c == code for c in codes]
                for histogram, values in zip(self._histograms_for(code), columns, strict=True):
                    histogram.record(values if mine is None else list(compress(values, mine)))

    def _histograms_for(self, code: int) -> tuple[Histogram, ...]:
        known = code if code in _STATUS_CODES else _UNKNOWN
        if known not in self._histograms_by_status:
            self._histograms_by_status[known] = tuple(Histogram(bounds) for bounds in self._bounds)
        return self._histograms_by_status[known]
