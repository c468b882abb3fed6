"""The metrics of retries (gRFC A96) and of ejected endpoints (A91): experimental in gRPC, and off
by default there and here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from time import perf_counter

from meshtrio.policies.outlier import Verdict
from meshtrio.rpc.observe import (
    AttemptKind,
    AttemptWatch,
    CallWatch,
    ClientObserver,
    MethodObserver,
    Outcome,
)
from meshtrio.rpc.seam import Method
from meshtrio.rpc.stream import Stream
from meshtrio.telemetry.families import Family, Kind, Labels, Point
from meshtrio.telemetry.metrics.calls import MOST_METHODS, OTHER, Methods
from meshtrio.telemetry.metrics.histogram import LATENCY, Histogram

_FEW = (1.0, 2.0, 3.0, 4.0, 5.0)
_KINDS = {
    AttemptKind.RETRY: ("retries", "{retry}", "retries", _FEW),
    AttemptKind.TRANSPARENT_RETRY: (
        "transparent_retries",
        "{transparent_retry}",
        "transparent retries",
        (*_FEW, 10.0),
    ),
    AttemptKind.HEDGE: ("hedges", "{hedge}", "hedges", _FEW),
}


class _Retried:
    """The calls of one method of one target."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.delays = Histogram(LATENCY)
        self.counts = {kind: Histogram(about[3]) for kind, about in _KINDS.items()}


class _Attempt(AttemptWatch):
    def __init__(self, call: _Call) -> None:
        self._call = call

    def finished(self, outcome: Outcome, stream: Stream | None) -> None:
        self._call.one_less()


class _Call(CallWatch):
    def __init__(self, method: _Retried) -> None:
        self._method = method
        self._made: dict[AttemptKind, int] = {}
        self._running = 0
        self._idle_since: float | None = None
        self._delay = 0.0

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        if self._idle_since is not None:
            self._delay += perf_counter() - self._idle_since
            self._idle_since = None
        self._running += 1
        self._made[kind] = self._made.get(kind, 0) + 1
        return _Attempt(self)

    def one_less(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle_since = perf_counter()

    def ended(self, outcome: Outcome | None) -> None:
        """What there was none of is not reported, as the gRFC has it."""
        for kind, histogram in self._method.counts.items():
            if kind in self._made:
                histogram.add([self._made[kind]])
        if self._delay:
            self._method.delays.add([self._delay])


class _OneMethod(MethodObserver):
    def __init__(self, method: _Retried) -> None:
        self._method = method

    def begin(self) -> CallWatch:
        return _Call(self._method)


class ExperimentalMetrics(ClientObserver):
    """Counts what was made again, how long calls waited for that, and who gets no calls."""

    def __init__(self) -> None:
        self._methods = Methods(_Retried)
        self._verdicts: Counter[tuple[str, Verdict]] = Counter()

    def judged(self, target: str, verdict: Verdict) -> None:
        known = {told for told, _ in self._verdicts}
        if target not in known and len(known) >= MOST_METHODS:
            target = OTHER
        self._verdicts[target, verdict] += 1

    def method(self, target: str, method: Method) -> MethodObserver:
        return _OneMethod(self._methods.of(target, method))

    def families(self) -> Sequence[Family]:
        found = []
        for kind, (name, unit, what, _) in _KINDS.items():
            text = f"Number of {what} made during the call. Calls without any are not reported."
            points = [
                point
                for method in self._methods
                if (point := _point(method.labels, method.counts[kind])) is not None
            ]
            full = f"grpc.client.call.{name}"
            found.append(Family(full, Kind.HISTOGRAM, unit, text, points))
        text = "Total time of delay while there is no active attempt during the call."
        points = [
            point
            for method in self._methods
            if (point := _point(method.labels, method.delays)) is not None
        ]
        name = "grpc.client.call.retry_delay"
        found.append(Family(name, Kind.HISTOGRAM, "s", text, points))
        return [*found, *self._ejections()]

    def _ejections(self) -> Iterator[Family]:
        enforced, unenforced = [], []
        for (target, (detection, reason)), count in list(self._verdicts.items()):
            labels = (
                ("grpc.lb.outlier_detection.detection_method", detection.value),
                ("grpc.target", target),
            )
            if reason is None:
                enforced.append(Point(labels, count))
            else:
                why = ("grpc.lb.outlier_detection.unenforced_reason", reason.value)
                unenforced.append(Point((*labels[:1], why, *labels[1:]), count))
        about = "grpc.lb.outlier_detection.ejections"
        text = "Endpoints that fail more than others and"
        yield Family(
            f"{about}_enforced", Kind.COUNTER, "{ejection}", f"{text} were ejected.", enforced
        )
        yield Family(
            f"{about}_unenforced", Kind.COUNTER, "{ejection}", f"{text} were not.", unenforced
        )


def _point(labels: Labels, histogram: Histogram) -> Point | None:
    return Point(labels, histogram.told()) if any(histogram.counts) else None
