"""Figures of calls or attempts with one set of labels, and their families."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from meshtrio.grpc.status import StatusCode
from meshtrio.rpc.stream import Stream
from meshtrio.telemetry.metric_families import Labels, MetricFamily, MetricKind, MetricPoint
from meshtrio.telemetry.metrics.batched_histograms import FLUSH_THRESHOLD, BatchedHistograms
from meshtrio.telemetry.metrics.histogram import LATENCY_BUCKETS, SIZE_BUCKETS


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


DURATION = Instrument("duration", "s", LATENCY_BUCKETS, "The time that an {what} took.")
_SIZE_DESCRIPTION = (
    "total bytes (compressed but not encrypted) of all messages, without framing, of an"
)
_SENT_SIZE = Instrument(
    "sent_total_compressed_message_size", "By", SIZE_BUCKETS, f"Sent: {_SIZE_DESCRIPTION} {{what}}."
)
_RECEIVED_SIZE = Instrument(
    "rcvd_total_compressed_message_size",
    "By",
    SIZE_BUCKETS,
    f"Received: {_SIZE_DESCRIPTION} {{what}}.",
)
ALL_INSTRUMENTS = (DURATION, _SENT_SIZE, _RECEIVED_SIZE)


class CallRecorder:
    """Counts the calls, or the attempts, with one set of labels."""

    __slots__ = ("histograms", "labels", "pending", "started")

    def __init__(self, labels: Labels, instruments: Sequence[Instrument] = ALL_INSTRUMENTS) -> None:
        self.labels = labels
        self.started = 0
        self.histograms = BatchedHistograms(*(figure.bounds for figure in instruments))
        self.pending = self.histograms.pending

    def record_end(self, code: int, seconds: float, stream: Stream | None) -> None:
        """Record one that ended; `stream` is None if it failed before it had one."""
        sent, received = (0, 0) if stream is None else (stream.sent_size, stream.received_size)
        self.pending += (code, seconds, sent, received)
        if len(self.pending) >= FLUSH_THRESHOLD:
            self.histograms.flush()


def histogram_families(
    prefix: str, subject: str, recorders: Sequence[CallRecorder], instruments: Sequence[Instrument]
) -> list[MetricFamily]:
    """Return a family for each instrument, with a point for each recorder and status."""
    found = [
        (_add_status_label(calls.labels, code), histograms)
        for calls in recorders
        for code, histograms in calls.histograms.histograms_by_status().items()
    ]
    return [
        MetricFamily(
            f"{prefix}.{figure.name}",
            MetricKind.HISTOGRAM,
            figure.unit,
            figure.description.format(what=subject),
            [MetricPoint(labels, histograms[number].snapshot()) for labels, histograms in found],
        )
        for number, figure in enumerate(instruments)
    ]


def _add_status_label(labels: Labels, code: int) -> Labels:
    """Add a label in alphabetical order, as OpenTelemetry's exporter writes them."""
    return tuple(sorted((*labels, ("grpc.status", StatusCode(code).name))))
