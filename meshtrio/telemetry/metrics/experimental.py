"""Metrics that are off by default in gRPC: of retries (gRFC A96) and ejections (A91)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from time import perf_counter

from meshtrio.grpc.outlier_detection import Ejection
from meshtrio.grpc.status import CallStatus
from meshtrio.rpc import tracer
from meshtrio.rpc.method import Method
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import AttemptKind
from meshtrio.telemetry.metric_families import Histogram, Labels, MetricFamily
from meshtrio.telemetry.metrics.call_metrics import MAX_MEASURED_METHODS, OTHER, MethodMap

_ATTEMPT_COUNT_BUCKETS = (1.0, 2.0, 3.0, 4.0, 5.0)
_HISTOGRAMS_BY_KIND = {
    AttemptKind.RETRY: ("retries", _ATTEMPT_COUNT_BUCKETS),
    AttemptKind.TRANSPARENT_RETRY: ("transparent_retries", (*_ATTEMPT_COUNT_BUCKETS, 10.0)),
    AttemptKind.HEDGE: ("hedges", _ATTEMPT_COUNT_BUCKETS),
}


class _MethodTracer:
    """Traces the retried calls of one method of one target."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.delays = Histogram()
        self.counts = {kind: Histogram(bounds) for kind, (_, bounds) in _HISTOGRAMS_BY_KIND.items()}

    def start_call(self) -> tracer.ClientCallTracer:
        return _ClientCallTracer(self)


class _ClientCallTracer(tracer.ClientCallTracer, tracer.AttemptTracer):
    """Counts a call's attempts by kind, and the time without any active one."""

    def __init__(self, method: _MethodTracer) -> None:
        self._method = method
        self._attempt_counts: Counter[AttemptKind] = Counter()
        self._active_attempts = 0
        self._idle_since: float | None = None
        self._retry_delay = 0.0

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> tracer.AttemptTracer:
        if self._idle_since is not None:
            self._retry_delay += perf_counter() - self._idle_since
            self._idle_since = None
        self._active_attempts += 1
        self._attempt_counts[kind] += 1
        return self

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self._active_attempts -= 1
        if not self._active_attempts:
            self._idle_since = perf_counter()

    def call_ended(self, status: CallStatus | None) -> None:
        """Record the attempts of each kind that was made, as gRFC A96 requires."""
        for kind, histogram in self._method.counts.items():
            if kind in self._attempt_counts:
                histogram.record([self._attempt_counts[kind]])
        if self._retry_delay:
            self._method.delays.record([self._retry_delay])


class ExperimentalMetrics(tracer.ClientTracer):
    """Measures retries and hedges, the delay between attempts, and ejections of endpoints."""

    def __init__(self) -> None:
        self._methods = MethodMap(_MethodTracer)
        self._ejection_counts: Counter[tuple[str, Ejection]] = Counter()

    def outlier_ejected(self, target: str, ejection: Ejection) -> None:
        known = {each for each, _ in self._ejection_counts}
        if target not in known and len(known) >= MAX_MEASURED_METHODS:
            target = OTHER
        self._ejection_counts[target, ejection] += 1

    def trace_method(self, target: str, method: Method) -> tracer.StartCall:
        return self._methods.get_or_add(target, method).start_call

    def collect(self) -> Sequence[MetricFamily]:
        found = []
        for kind, (name, _) in _HISTOGRAMS_BY_KIND.items():
            unit, what = f"{{{kind.value}}}", name.replace("_", " ")
            text = f"Number of {what} made during the call. Calls without any are not reported."
            counts = {method.labels: method.counts[kind] for method in self._methods}
            found.append(_make_family(name, unit, text, counts))
        text = "Total time of delay while there is no active attempt during the call."
        delays = {method.labels: method.delays for method in self._methods}
        found.append(_make_family("retry_delay", "s", text, delays))
        return [*found, *self._ejection_families()]

    def _ejection_families(self) -> tuple[MetricFamily, MetricFamily]:
        prefix, text = "grpc.lb.outlier_detection.ejections", "Endpoints that fail more than others"
        unit = "{ejection}"
        enforced = MetricFamily.counter(f"{prefix}_enforced", unit, f"{text} and were ejected.")
        unenforced = MetricFamily.counter(f"{prefix}_unenforced", unit, f"{text} and were not.")
        for (target, (detection, reason)), count in list(self._ejection_counts.items()):
            method = ("grpc.lb.outlier_detection.detection_method", detection.value)
            if reason is None:
                enforced.add((method, ("grpc.target", target)), count)
            else:
                why = ("grpc.lb.outlier_detection.unenforced_reason", reason.value)
                unenforced.add((method, why, ("grpc.target", target)), count)
        return enforced, unenforced


def _make_family(
    name: str, unit: str, text: str, histograms: Mapping[Labels, Histogram]
) -> MetricFamily:
    """Make a family of the histograms that are not empty."""
    values = {labels: each.snapshot() for labels, each in histograms.items() if any(each.counts)}
    return MetricFamily.histogram(f"grpc.client.call.{name}", unit, text, values)
