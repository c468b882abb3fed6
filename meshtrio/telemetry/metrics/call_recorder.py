"""Figures of calls or attempts with one set of labels, and their families.

To sort many values into buckets at once is ten times as fast as to find the bucket of each, so a
call only appends its figures to a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from threading import Lock
from typing import Any

import attrs

from meshtrio.grpc.status import UNKNOWN, StatusCode
from meshtrio.telemetry.metric_families import (
    LATENCY_BUCKETS,
    SIZE_BUCKETS,
    Histogram,
    Labels,
    MetricFamily,
)

FLUSH_THRESHOLD = 1000
"""Length of `CallRecorder.pending` at which it has to be flushed."""
_STATUS_CODES = frozenset(code.value for code in StatusCode)
_FLUSH_LOCK = Lock()


@attrs.frozen
class Instrument:
    """A histogram of calls or attempts."""

    name: str
    """Last part of the metric's name."""
    unit: str
    bounds: tuple[float, ...]
    """Upper bounds of its buckets."""
    description: str
    """Help text with a placeholder `{what}`."""


_SIZE = "total bytes (compressed but not encrypted) of all messages, without framing, of an {what}."
DURATION = Instrument("duration", "s", LATENCY_BUCKETS, "The time that an {what} took.")
SENT_SIZE = Instrument("sent_total_compressed_message_size", "By", SIZE_BUCKETS, f"Sent: {_SIZE}")
RECEIVED_SIZE = Instrument(
    "rcvd_total_compressed_message_size", "By", SIZE_BUCKETS, f"Received: {_SIZE}"
)
ALL_INSTRUMENTS = (DURATION, SENT_SIZE, RECEIVED_SIZE)


@attrs.define(eq=False)
class CallRecorder:
    """Counts the calls, or the attempts, with one set of labels.

    Their figures are recorded by status; statuses that gRPC does not define are UNKNOWN. Pending
    figures are in one flat list. Tuples would be container objects that outlive the call, and their
    number would trigger full garbage collections.
    """

    labels: Labels
    instruments: Sequence[Instrument] = ALL_INSTRUMENTS
    started: int = 0
    pending: list[Any] = attrs.field(factory=list)
    """Status code and figures of each call, in a row. It is never replaced; callers append to it,
    and call `flush` when it has reached `FLUSH_THRESHOLD`."""
    _histograms_by_status: dict[int, list[Histogram]] = attrs.field(factory=dict)

    def record(self, code: int, *figures: float) -> None:
        """Record the status of one that ended, and a figure for each instrument."""
        self.pending += (code, *figures)
        if len(self.pending) >= FLUSH_THRESHOLD:
            self.flush()

    def histograms_by_status(self) -> dict[int, list[Histogram]]:
        """Return a histogram for each instrument, flushed. Safe in any thread, as is `flush`."""
        self.flush()
        return dict(self._histograms_by_status)

    def flush(self) -> None:
        """Record the pending figures."""
        with _FLUSH_LOCK:
            rows = self.pending[:]
            del self.pending[: len(rows)]
            width = 1 + len(self.instruments)
            codes, *columns = (rows[n::width] for n in range(width))
            for code in set(codes):
                mask = None if codes.count(code) == len(codes) else [c == code for c in codes]
                for histogram, values in zip(self._histograms_for(code), columns, strict=True):
                    histogram.record(values if mask is None else list(compress(values, mask)))

    def _histograms_for(self, code: int) -> list[Histogram]:
        known = code if code in _STATUS_CODES else UNKNOWN
        if known not in self._histograms_by_status:
            self._histograms_by_status[known] = [Histogram(i.bounds) for i in self.instruments]
        return self._histograms_by_status[known]


def call_families(
    prefix: str,
    unit: str,
    started_text: str,
    subject: str,
    recorders: Sequence[CallRecorder],
    instruments: Sequence[Instrument] = ALL_INSTRUMENTS,
) -> list[MetricFamily]:
    """Return the number of calls or attempts that were started, and `histogram_families`."""
    started = {calls.labels: calls.started for calls in recorders}
    text = f"{started_text}, including those that have not completed."
    return [
        MetricFamily.counter(f"{prefix}.started", unit, text, started),
        *histogram_families(prefix, subject, recorders, instruments),
    ]


def histogram_families(
    prefix: str, subject: str, recorders: Sequence[CallRecorder], instruments: Sequence[Instrument]
) -> list[MetricFamily]:
    """Return a family for each instrument, with a point for each recorder and status."""
    found = {
        # In alphabetical order, as OpenTelemetry's exporter writes them.
        tuple(sorted((*calls.labels, ("grpc.status", StatusCode(code).name)))): histograms
        for calls in recorders
        for code, histograms in calls.histograms_by_status().items()
    }
    return [
        MetricFamily.histogram(
            f"{prefix}.{figure.name}",
            figure.unit,
            figure.description.format(what=subject),
            {labels: histograms[number].snapshot() for labels, histograms in found.items()},
        )
        for number, figure in enumerate(instruments)
    ]
