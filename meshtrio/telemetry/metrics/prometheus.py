"""Conversion of families to prometheus_client's metrics and back (extra `metrics`)."""

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

from meshtrio.telemetry.metric_families import (
    Distribution,
    Labels,
    MetricFamily,
    MetricKind,
    MetricPoint,
)
from meshtrio.telemetry.metrics import prometheus_names

_log = logging.getLogger("meshtrio.telemetry")

_DEFAULT_COLLECTOR_METRICS = frozenset(
    {
        *("process_cpu_seconds", "process_max_fds", "process_open_fds"),
        *("process_resident_memory_bytes", "process_start_time_seconds"),
        *("process_virtual_memory_bytes", "python_gc_collections", "python_gc_objects_collected"),
        *("python_gc_objects_uncollectable", "python_info"),
    }
)
"""Metrics of prometheus_client's default collectors for the process and Python."""
_is_collecting: ContextVar[bool] = ContextVar("collecting metrics", default=False)
"""Whether a registry of prometheus_client or a `PrometheusCollector` is being collected."""


@contextmanager
def _collecting() -> Iterator[None]:
    token = _is_collecting.set(True)
    try:
        yield
    finally:
        _is_collecting.reset(token)


class PrometheusCollector(Collector):
    """Adds meshtrio's metrics to an app's prometheus_client registry (extra `metrics`).

        REGISTRY.register(PrometheusCollector(metrics.collect))

    Metrics of the registry itself, which the app exposes anyway, are not repeated. `collect` may be
    called in any thread.
    """

    def __init__(self, collect_families: Callable[[], Iterable[MetricFamily]]) -> None:
        """Make a collector.

        Args:
            collect_families: Returns the metrics: `collect` of a `Metrics`.
        """
        self._collect_families = collect_families

    def collect(self) -> list[core.Metric]:
        if _is_collecting.get():
            return []
        with _collecting():
            # A name without series would say nothing.
            return [to_prometheus(family) for family in self._collect_families() if family.points]

    def describe(self) -> list[core.Metric]:
        """Return nothing: the set of metrics changes as calls are made."""
        return []


# -- to Prometheus ---------------------------------------------------------------------------


def to_prometheus(family: MetricFamily) -> core.Metric:
    """Convert a family to a metric of prometheus_client."""
    name = prometheus_names.metric_name(family)
    metric = core.Metric(name, family.text, family.kind.value, prometheus_names.unit_suffix(family))
    suffix = "_total" if family.kind is MetricKind.COUNTER else ""
    for point in family.points:
        labels = {prometheus_names.label_name(label): value for label, value in point.labels}
        if isinstance(point.value, Distribution):
            metric.samples += _bucket_samples(name, labels, point.value)
        else:
            metric.samples.append(Sample(name + suffix, labels, point.value))
    return metric


def _bucket_samples(name: str, labels: dict[str, str], value: Distribution) -> list[Sample]:
    bounds = [*map(floatToGoString, value.bounds), "+Inf"]
    samples, total = [], 0
    for bound, count in zip(bounds, value.counts, strict=True):
        total += count
        samples.append(Sample(f"{name}_bucket", {**labels, "le": bound}, total))
    if not value.has_negative_buckets:
        samples.append(Sample(f"{name}_count", labels, total))
        samples.append(Sample(f"{name}_sum", labels, value.sum))
    return samples


# -- from Prometheus -------------------------------------------------------------------------


def collect_default_registry() -> list[MetricFamily]:
    """Return the program's own metrics in prometheus_client's default registry.

    Those of prometheus_client's process and Python collectors are omitted, since the mesh measures
    each process itself, and those of a `PrometheusCollector`, which are collected anyway. Returns
    nothing if called by a `PrometheusCollector`.
    """
    if _is_collecting.get():
        return []
    found: list[MetricFamily] = []
    try:
        with _collecting():
            for metric in prometheus_client.REGISTRY.collect():
                if metric.name not in _DEFAULT_COLLECTOR_METRICS:
                    found += from_prometheus(metric)
    except Exception:
        # A collector of the program failed; the other metrics are still exposed.
        _log.exception("a collector of prometheus_client's registry failed")
    return found


def from_prometheus(metric: core.Metric) -> Iterator[MetricFamily]:
    """Convert a metric of prometheus_client to families."""
    if metric.type in ("histogram", "gaugehistogram", "summary"):
        yield _histogram_from_prometheus(metric)
        return
    by_name: defaultdict[str, list[MetricPoint]] = defaultdict(list)
    for sample in metric.samples:
        if not sample.name.endswith("_created"):
            point = MetricPoint(tuple(sample.labels.items()), float(sample.value))
            by_name[sample.name].append(point)
    is_counter = metric.type == "counter"
    kind = MetricKind.COUNTER if is_counter else MetricKind.GAUGE
    for name, points in by_name.items():
        name = name.removesuffix("_total") if is_counter else name
        yield MetricFamily(name, kind, "", metric.documentation, points)


def _histogram_from_prometheus(metric: core.Metric) -> MetricFamily:
    """Convert a histogram, or a summary to a histogram with a single bucket.

    A summary's quantiles, which prometheus_client's own summaries do not have, are omitted.
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
    values = {}
    for labels, found in below.items():
        *bounds, _ = sorted(found)
        totals = [0, *(int(found[bound]) for bound in sorted(found))]
        counts = tuple(b - a for a, b in pairwise(totals))
        values[labels] = Distribution(tuple(bounds), counts, sums.get(labels, 0.0))
    return MetricFamily.histogram(metric.name, "", metric.documentation, values)
