"""The metrics of retries (gRFC A96) and of ejected endpoints (A91): experimental in gRPC, and off
by default there and here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from time import perf_counter

from meshtrio.grpc.outlier_detection import Ejection
from meshtrio.grpc.status import CallStatus
from meshtrio.rpc.method import Method
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import (
    AttemptKind,
    AttemptTracer,
    ClientCallTracer,
    ClientTracer,
    MethodTracer,
)
from meshtrio.telemetry.metric_families import Labels, MetricFamily, MetricKind, MetricPoint
from meshtrio.telemetry.metrics.call_metrics import MAX_MEASURED_METHODS, OTHER, MethodMap
from meshtrio.telemetry.metrics.histogram import LATENCY_BUCKETS, Histogram

_ATTEMPT_COUNT_BUCKETS = (1.0, 2.0, 3.0, 4.0, 5.0)
_HISTOGRAMS_BY_KIND = {
    AttemptKind.RETRY: ("retries", "{retry}", "retries", _ATTEMPT_COUNT_BUCKETS),
    AttemptKind.TRANSPARENT_RETRY: (
        "transparent_retries",
        "{transparent_retry}",
        "transparent retries",
        (*_ATTEMPT_COUNT_BUCKETS, 10.0),
    ),
    AttemptKind.HEDGE: ("hedges", "{hedge}", "hedges", _ATTEMPT_COUNT_BUCKETS),
}


class _RetryHistograms:
    """The calls of one method of one target."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.delays = Histogram(LATENCY_BUCKETS)
        self.counts = {kind: Histogram(about[3]) for kind, about in _HISTOGRAMS_BY_KIND.items()}


class _AttemptTracer(AttemptTracer):
    def __init__(self, call: _ClientCallTracer) -> None:
        self._call = call

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self._call.on_attempt_ended()


class _ClientCallTracer(ClientCallTracer):
    def __init__(self, method: _RetryHistograms) -> None:
        self._method = method
        self._attempt_counts: dict[AttemptKind, int] = {}
        self._active_attempts = 0
        self._idle_since: float | None = None
        self._retry_delay = 0.0

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        if self._idle_since is not None:
            self._retry_delay += perf_counter() - self._idle_since
            self._idle_since = None
        self._active_attempts += 1
        self._attempt_counts[kind] = self._attempt_counts.get(kind, 0) + 1
        return _AttemptTracer(self)

    def on_attempt_ended(self) -> None:
        self._active_attempts -= 1
        if not self._active_attempts:
            self._idle_since = perf_counter()

    def call_ended(self, status: CallStatus | None) -> None:
        """What there was none of is not reported, as the gRFC has it."""
        for kind, histogram in self._method.counts.items():
            if kind in self._attempt_counts:
                histogram.record([self._attempt_counts[kind]])
        if self._retry_delay:
            self._method.delays.record([self._retry_delay])


class _MethodTracer(MethodTracer):
    def __init__(self, method: _RetryHistograms) -> None:
        self._method = method

    def start_call(self) -> ClientCallTracer:
        return _ClientCallTracer(self._method)


class ExperimentalMetrics(ClientTracer):
    """Counts what was made again, how long calls waited for that, and who gets no calls."""

    def __init__(self) -> None:
        self._methods = MethodMap(_RetryHistograms)
        self._ejection_counts: Counter[tuple[str, Ejection]] = Counter()

    def outlier_ejected(self, target: str, ejection: Ejection) -> None:
        known = {told for told, _ in self._ejection_counts}
        if target not in known and len(known) >= MAX_MEASURED_METHODS:
            target = OTHER
        self._ejection_counts[target, ejection] += 1

    def trace_method(self, target: str, method: Method) -> MethodTracer:
        return _MethodTracer(self._methods.get_or_add(target, method))

    def collect(self) -> Sequence[MetricFamily]:
        found = []
        for kind, (name, unit, what, _) in _HISTOGRAMS_BY_KIND.items():
            text = f"Number of {what} made during the call. Calls without any are not reported."
            points = [
                point
                for method in self._methods
                if (point := _point_unless_empty(method.labels, method.counts[kind])) is not None
            ]
            full = f"grpc.client.call.{name}"
            found.append(MetricFamily(full, MetricKind.HISTOGRAM, unit, text, points))
        text = "Total time of delay while there is no active attempt during the call."
        points = [
            point
            for method in self._methods
            if (point := _point_unless_empty(method.labels, method.delays)) is not None
        ]
        name = "grpc.client.call.retry_delay"
        found.append(MetricFamily(name, MetricKind.HISTOGRAM, "s", text, points))
        return [*found, *self._ejection_families()]

    def _ejection_families(self) -> Iterator[MetricFamily]:
        enforced, unenforced = [], []
        for (target, (detection, reason)), count in list(self._ejection_counts.items()):
            labels = (
                ("grpc.lb.outlier_detection.detection_method", detection.value),
                ("grpc.target", target),
            )
            if reason is None:
                enforced.append(MetricPoint(labels, count))
            else:
                why = ("grpc.lb.outlier_detection.unenforced_reason", reason.value)
                unenforced.append(MetricPoint((*labels[:1], why, *labels[1:]), count))
        about = "grpc.lb.outlier_detection.ejections"
        text = "Endpoints that fail more than others and"
        yield MetricFamily(
            f"{about}_enforced", MetricKind.COUNTER, "{ejection}", f"{text} were ejected.", enforced
        )
        yield MetricFamily(
            f"{about}_unenforced", MetricKind.COUNTER, "{ejection}", f"{text} were not.", unenforced
        )


def _point_unless_empty(labels: Labels, histogram: Histogram) -> MetricPoint | None:
    return MetricPoint(labels, histogram.snapshot()) if any(histogram.counts) else None
