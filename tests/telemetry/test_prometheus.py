"""Families as prometheus_client has them, both ways, and beside what an app has there already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, nan
from typing import Any

import prometheus_client
import pytest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.parser import text_string_to_metric_families as parsed
from prometheus_client.registry import Collector

from meshtrio.messages import metrics
from meshtrio.services.metrics import decode_response, encode_family
from meshtrio.telemetry.metric_families import MetricFamily, MetricKind, MetricPoint
from meshtrio.telemetry.metrics import Metrics
from meshtrio.telemetry.metrics.family_merger import FamilyMerger
from meshtrio.telemetry.metrics.prometheus import PrometheusCollector, from_prometheus


@contextmanager
def registered(metrics: Metrics) -> Iterator[None]:
    """In the registry of the program, as an app does it."""
    collector = PrometheusCollector(metrics.collect)
    prometheus_client.REGISTRY.register(collector)
    try:
        yield
    finally:
        prometheus_client.REGISTRY.unregister(collector)


@pytest.fixture
def own() -> Iterator[str]:
    """A counter of the app's own."""
    counter = prometheus_client.Counter("of_the_app", "What an app counts.")
    counter.inc(3)
    yield "of_the_app_total"
    prometheus_client.REGISTRY.unregister(counter)


def of_a_mesh() -> list[MetricFamily]:
    return [MetricFamily("mesh.starts", MetricKind.COUNTER, "", "Of a mesh.", [MetricPoint((), 2)])]


def test_an_app_exposes_everything_once(own: str) -> None:
    with registered(Metrics(sources=[of_a_mesh])):
        text = prometheus_client.generate_latest().decode()
    names = [family.name for family in parsed(text)]
    assert "mesh_starts" in names
    assert not [name for name in names if name.startswith("grpc_")]
    assert len(names) == len(set(names))
    assert text.count(f"\n{own} ") == 1


def test_what_a_mesh_is_told_has_nothing_twice_either(own: str) -> None:
    metrics = Metrics()
    with registered(metrics):
        names = [family.name for family in metrics.collect()]
    assert names.count("of_the_app") == 1
    assert names.count("grpc.client.attempt.started") == 1
    assert "grpc_client_attempt_started" not in names


def test_a_summary_keeps_its_count_and_sum_under_their_names() -> None:
    registry = prometheus_client.CollectorRegistry()
    seen = prometheus_client.Summary("seen", "What was seen.", ["by"], registry=registry)
    for value in (1, 2.5):
        seen.labels(by="me").observe(value)
    families = [family for metric in registry.collect() for family in from_prometheus(metric)]
    exposing = prometheus_client.CollectorRegistry()
    exposing.register(PrometheusCollector(lambda: families))
    assert exposing.get_sample_value("seen_count", {"by": "me"}) == 2
    assert exposing.get_sample_value("seen_sum", {"by": "me"}) == 3.5
    assert "# TYPE seen histogram" in prometheus_client.generate_latest(exposing).decode()


def exposed(families: list[MetricFamily]) -> str:
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector(lambda: families))
    return prometheus_client.generate_latest(registry).decode()


class Custom(Collector):
    """A collector with given families."""

    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> tuple[Metric, ...]:
        return self._metrics


@contextmanager
def measured(*metrics: Metric) -> Iterator[list[MetricFamily]]:
    """Yield the families of a program that has these metrics in its registry."""
    collector = Custom(*metrics)
    prometheus_client.REGISTRY.register(collector)
    try:
        yield Metrics().collect()
    finally:
        prometheus_client.REGISTRY.unregister(collector)


@pytest.mark.parametrize(
    "metric",
    [
        CounterMetricFamily("process_orders", "", value=1),
        CounterMetricFamily("python_builds", "", value=1),
        GaugeMetricFamily("jobs_total", "", value=1),
        GaugeMetricFamily("process_orders_open", "", value=1),
    ],
)
def test_what_a_program_measures_keeps_its_name_whatever_it_is(metric: Metric) -> None:
    (sample,) = metric.samples
    with measured(metric) as families:
        text = exposed(families)
    assert f"\n{sample.name} 1.0\n" in text


def test_what_prometheus_client_measures_by_itself_is_left_out() -> None:
    assert prometheus_client.REGISTRY.get_sample_value("process_start_time_seconds")
    names = {family.name for family in Metrics().collect()}
    assert not [name for name in names if name.startswith(("process_", "python_"))]


def test_series_of_one_name_may_have_buckets_of_their_own() -> None:
    metric = HistogramMetricFamily("took", "", labels=["by"])
    metric.add_metric(["a"], [("1.0", 1), ("+Inf", 2)], 3.0)
    metric.add_metric(["b"], [("1.0", 1), ("2.0", 2), ("+Inf", 2)], 2.0)
    with measured(metric) as families:
        text = exposed(families)
        # The same once it has been told to a mesh.
        told = [each for family in families for each in encode_family(family)]
        assert exposed(admitted(told)).count("took_bucket") == text.count("took_bucket") == 5
    assert 'took_bucket{by="a",le="+Inf"} 2.0' in text
    assert 'took_bucket{by="b",le="2.0"} 2.0' in text


def test_a_gauge_histogram_keeps_its_count_and_sum() -> None:
    metric = GaugeHistogramMetricFamily("sizes", "", buckets=[("1", 1), ("+Inf", 3)], gsum_value=7)
    with measured(metric) as families:
        text = exposed(families)
    assert "sizes_count 3.0" in text
    assert "sizes_sum 7.0" in text


def test_names_that_prometheus_cannot_take_are_mended() -> None:
    labels = (("9.lives", "a"), ("", "b"), ("a:b", "c"))
    families = [MetricFamily("9.to.5", MetricKind.GAUGE, "", "", [MetricPoint(labels, 1)])]
    text = exposed(families)
    (family,) = parsed(text)
    (sample,) = family.samples
    assert sample.name == "_9_to_5"
    assert sample.labels == {"_9_lives": "a", "_": "b", "a_b": "c"}


def message(name: str = "f", counts: tuple[int, ...] = (1, 2), bounds: Any = (1.0,)) -> Any:
    point = metrics.MetricPoint(value=1.0, counts=counts)
    kind = metrics.METRIC_KIND_HISTOGRAM
    return metrics.MetricFamily(name=name, kind=kind, bounds=bounds, points=[point])


def admitted(families: list[Any]) -> list[MetricFamily]:
    admission = FamilyMerger()
    reply = metrics.CollectMetricsResponse(families=families)
    admission.merge(decode_response(reply.SerializeToString())[1])
    return admission.families()


def test_what_another_process_tells_is_not_trusted() -> None:
    assert [len(family.points) for family in admitted([message()])] == [1]
    wrong = [
        message(name=""),
        message(counts=(1,)),
        *(message(bounds=bounds, counts=(1, 2, 3)) for bounds in ((2, 1), (1, 1), (1, inf))),
        message(bounds=[nan]),
        metrics.MetricFamily(name="f", kind=77),
    ]
    assert not [point for family in admitted(wrong) for point in family.points]
