"""Families for Prometheus and back, by prometheus_client (extra `metrics`)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from math import inf

import prometheus_client
from prometheus_client import core
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from meshtrio.telemetry.families import Distribution, Family, Kind, Labels, Point
from meshtrio.telemetry.metrics.names import label_name, name_of, unit_of

_log = logging.getLogger("meshtrio.telemetry")

_OF_ALL_PROGRAMS = frozenset(
    {
        *("process_cpu_seconds", "process_max_fds", "process_open_fds"),
        *("process_resident_memory_bytes", "process_start_time_seconds"),
        *("process_virtual_memory_bytes", "python_gc_collections", "python_gc_objects_collected"),
        *("python_gc_objects_uncollectable", "python_info"),
    }
)
"""What prometheus_client has of a process and of Python by itself."""
_registry_is_asked: ContextVar[bool] = ContextVar("meshtrio asks the registry", default=False)
_collector_is_asked: ContextVar[bool] = ContextVar("meshtrio's collector is asked", default=False)


@contextmanager
def _noted(what: ContextVar[bool]) -> Iterator[None]:
    token = what.set(True)
    try:
        yield
    finally:
        what.reset(token)


class PrometheusCollector(Collector):
    """For the registry of an app: `REGISTRY.register(PrometheusCollector(metrics.families))`.

    Gives no metrics of prometheus_client itself, which such an app exposes anyway. May be asked in
    any thread.
    """

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> list[core.Metric]:
        if _registry_is_asked.get():
            return []
        with _noted(_collector_is_asked):
            # What has happened to nobody yet is not there: a name without series tells nothing.
            return [exposed(family) for family in self._families() if family.points]

    def describe(self) -> list[core.Metric]:
        """Nothing beforehand: what there is changes as calls are made."""
        return []


# -- to Prometheus ---------------------------------------------------------------------------


def exposed(family: Family) -> core.Metric:
    """A family as prometheus_client writes it."""
    name = name_of(family)
    if family.kind is Kind.HISTOGRAM:
        metric = core.Metric(name, family.text, "histogram", unit_of(family))
        for point in family.points:
            metric.samples += _buckets(name, point)
        return metric
    kind = "counter" if family.kind is Kind.COUNTER else "gauge"
    metric = core.Metric(name, family.text, kind, unit_of(family))
    suffix = "_total" if family.kind is Kind.COUNTER else ""
    for point in family.points:
        assert not isinstance(point.value, Distribution)
        metric.samples.append(Sample(name + suffix, _labels(point.labels), point.value))
    return metric


def _labels(labels: Labels) -> dict[str, str]:
    return {label_name(name): value for name, value in labels}


def _buckets(name: str, point: Point) -> list[Sample]:
    assert isinstance(point.value, Distribution)
    labels = _labels(point.labels)
    bounds = [*map(floatToGoString, point.value.bounds), "+Inf"]
    samples, total = [], 0
    for bound, count in zip(bounds, point.value.counts, strict=True):
        total += count
        samples.append(Sample(f"{name}_bucket", {**labels, "le": bound}, total))
    if not point.value.has_negative:
        samples.append(Sample(f"{name}_count", labels, total))
        samples.append(Sample(f"{name}_sum", labels, point.value.total))
    return samples


# -- from Prometheus -------------------------------------------------------------------------


def default_families() -> list[Family]:
    """What the program itself measures by prometheus_client, in its default registry.

    What that tells of the process and of Python is left out: the mesh has figures of its own, and
    those would be of every plugin. So is what a collector of ours has brought there, and all of it
    where it is such a collector that asks.
    """
    if _collector_is_asked.get():
        return []
    found: list[Family] = []
    try:
        with _noted(_registry_is_asked):
            for metric in prometheus_client.REGISTRY.collect():
                if metric.name not in _OF_ALL_PROGRAMS:
                    found += taken(metric)
    except Exception:
        # A collector of the program, which has others, and calls that are measured as well.
        _log.exception("a collector of prometheus_client's registry failed")
    return found


def taken(metric: core.Metric) -> Iterator[Family]:
    """One of prometheus_client's, as families."""
    if metric.type in ("histogram", "gaugehistogram", "summary"):
        yield _taken_distribution(metric)
        return
    by_name: defaultdict[str, list[Point]] = defaultdict(list)
    for sample in metric.samples:
        if not sample.name.endswith("_created"):
            by_name[sample.name].append(Point(tuple(sample.labels.items()), float(sample.value)))
    for name, points in by_name.items():
        if metric.type == "counter":
            name, kind = name.removesuffix("_total"), Kind.COUNTER
        else:
            kind = Kind.GAUGE
        yield Family(name, kind, "", metric.documentation, points)


def _taken_distribution(metric: core.Metric) -> Family:
    """A histogram, or a summary as one with a single bucket: it has the same count and sum.

    Quantiles, which prometheus_client's own summaries do not have, are left out.
    """
    below: defaultdict[Labels, dict[float, float]] = defaultdict(dict)
    sums: dict[Labels, float] = {}
    for sample in metric.samples:
        labels = tuple((n, value) for n, value in sample.labels.items() if n != "le")
        if sample.name.endswith("_bucket"):
            below[labels][float(sample.labels["le"])] = sample.value
        elif sample.name.endswith(("_count", "_gcount")):
            below[labels][inf] = sample.value
        elif sample.name.endswith(("_sum", "_gsum")):
            sums[labels] = sample.value
    points = []
    for labels, found in below.items():
        *bounds, _ = sorted(found)
        totals = [0, *(int(found[bound]) for bound in sorted(found))]
        counts = tuple(b - a for a, b in pairwise(totals))
        points.append(Point(labels, Distribution(tuple(bounds), counts, sums.get(labels, 0.0))))
    return Family(metric.name, Kind.HISTOGRAM, "", metric.documentation, points)
