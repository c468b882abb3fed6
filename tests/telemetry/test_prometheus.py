"""Families as prometheus_client has them, both ways, and beside what an app has there already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from meshtrio.telemetry.families import Family, Kind, Point
from meshtrio.telemetry.metrics import Metrics
from meshtrio.telemetry.metrics.prometheus import PrometheusCollector, taken


@contextmanager
def registered(metrics: Metrics) -> Iterator[None]:
    """In the registry of the program, as an app does it."""
    collector = PrometheusCollector(metrics.families)
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


def of_a_mesh() -> list[Family]:
    return [Family("mesh.starts", Kind.COUNTER, "", "Of a mesh.", [Point((), 2)])]


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
        names = [family.name for family in metrics.families()]
    assert names.count("of_the_app") == 1
    assert names.count("grpc.client.attempt.started") == 1
    assert "grpc_client_attempt_started" not in names


def test_a_summary_keeps_its_count_and_sum_under_their_names() -> None:
    registry = prometheus_client.CollectorRegistry()
    seen = prometheus_client.Summary("seen", "What was seen.", ["by"], registry=registry)
    for value in (1, 2.5):
        seen.labels(by="me").observe(value)
    families = [family for metric in registry.collect() for family in taken(metric)]
    exposing = prometheus_client.CollectorRegistry()
    exposing.register(PrometheusCollector(lambda: families))
    assert exposing.get_sample_value("seen_count", {"by": "me"}) == 2
    assert exposing.get_sample_value("seen_sum", {"by": "me"}) == 3.5
    assert "# TYPE seen histogram" in prometheus_client.generate_latest(exposing).decode()
