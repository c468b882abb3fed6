"""Plugins whose metrics would make a scrape unreadable: they lose those, and only those."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parsed_openmetrics,
)

from meshtrio.messages import metrics
from meshtrio.services import metrics_collector
from meshtrio.services.metrics import decode_response
from meshtrio.supervisor import events
from meshtrio.telemetry.metric_families import instance_labels
from meshtrio.telemetry.metrics.family_merger import FamilyMerger
from tests.support.in_process_mesh import run_mesh
from tests.support.loop_latency import measure_cpu_time, measure_loop_latency
from tests.support.mesh_processes import echo_plugin_table, plugin_table, wait_until
from tests.support.prometheus_server import Prometheus
from tests.support.scrapes import Scrape, http_get, make_metrics_config

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

# By what a plugin tells: how many points of each reason it loses, and series it keeps.
KINDS = {
    "names": ({"name": 9}, {"good_count_total": 7}),
    "kinds": ({"kind": 3}, {"good_count_total": 7}),
    "labels": ({"labels": 6, "size": 2}, {"labelled": 1}),
    "values": ({"value": 10, "size": 1}, {"below_bucket": 2**64, "large_total": 1.7e308}),
    "duplicates": ({"duplicate": 5}, {"twice": 1, "tw_ice": 1, "good_count_total": 7}),
    "texts": ({}, {"told": 1}),
    "many": ({}, {"one_of_many_8999": 8999}),
}
GARBAGE = ("huge", "points", "broken", "fields")


@pytest.fixture(autouse=True)
def _long_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time limits are not what is tested."""
    monkeypatch.setattr(metrics_collector, "_COLLECT_TIMEOUT", 120.0)


def malformed_metrics_table(kind: str) -> str:
    return plugin_table("bad", "malformed_metrics.py", kind)


def check_with_promtool(text: bytes) -> None:
    promtool = shutil.which("promtool")
    if promtool is not None:
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
        # 3: what could be better, such as the help text that some have not.
        assert done.returncode in (0, 3), done.stderr


async def scrape_both_formats(url: str) -> tuple[Scrape, Scrape]:
    """Scrape in each format, each held to its own parser."""
    _, text = await trio.to_thread.run_sync(partial(http_get, url))
    _, openmetrics = await trio.to_thread.run_sync(partial(http_get, url, Accept=OPENMETRICS))
    check_with_promtool(text)
    assert openmetrics.endswith(b"# EOF\n")
    return Scrape.parse(text.decode()), Scrape.parse(openmetrics.decode(), parsed_openmetrics)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_read_is_left_out_and_counted(short_dir: Path, kind: str) -> None:
    lost, kept = KINDS[kind]
    with make_metrics_config() as (table, url):
        config = (
            table
            + malformed_metrics_table(kind)
            + plugin_table("good", "malformed_metrics.py", "bystander")
            + echo_plugin_table()
        )
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.Ready, count=3)
            for times, found in enumerate(await scrape_both_formats(url), 1):
                assert found.value("mesh_instance_state", plugin="bad", state="ready") == 1
                for name, value in kept.items():
                    assert found.value(name, plugin="bad") >= value
                for reason in ("name", "kind", "labels", "value", "duplicate", "size"):
                    counted = partial(found.value, "mesh_collection_points_left_out_total")
                    assert counted(plugin="bad", reason=reason) == times * lost.get(reason, 0)
                    assert counted(plugin="good", reason=reason) == 0
                assert found.value("good_count_total", plugin="good") == 7
                assert found.value("good_took_seconds_sum", plugin="good") == 3
                assert found.value("mesh_collection_failures_total") == 0


@pytest.mark.parametrize("kind", GARBAGE)
async def test_an_answer_that_is_none_costs_only_who_gave_it(short_dir: Path, kind: str) -> None:
    with make_metrics_config() as (table, url):
        config = (
            table
            + malformed_metrics_table(kind)
            + plugin_table("good", "malformed_metrics.py", "bystander")
        )
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.Ready, count=2)
            for times, found in enumerate(await scrape_both_formats(url), 1):
                assert found.value("mesh_collection_failures_total", plugin="bad") == times
                assert found.value("good_count_total", plugin="good") == 7


async def test_much_that_is_told_does_not_hold_the_loop(short_dir: Path) -> None:
    reply = metrics.CollectMetricsResponse(
        families=[
            metrics.MetricFamily(
                name=f"one.of.many.{number}",
                kind=metrics.METRIC_KIND_GAUGE,
                points=[metrics.MetricPoint(value=1)],
            )
            for number in range(9000)
        ]
    ).SerializeToString()

    def at_once() -> None:
        FamilyMerger().merge(decode_response(reply)[1], instance_labels("bad", 0))

    with make_metrics_config() as (table, url):
        async with run_mesh(table + malformed_metrics_table("many"), short_dir) as watched:
            await watched.wait_for_event(events.Ready)
            async with measure_loop_latency() as turns:
                _, text = await trio.to_thread.run_sync(partial(http_get, url))
            assert b"one_of_many_8999{" in text
            assert turns.max_cpu_time < measure_cpu_time(at_once) / 3


async def test_prometheus_reads_all_of_it(short_dir: Path) -> None:
    """The real one, whose parser is neither that of promtool nor Python's."""
    prometheus = Prometheus(short_dir)
    kinds = [kind for kind in KINDS if kind != "many"] + ["broken"]
    plugins = "".join(plugin_table(kind, "malformed_metrics.py", kind) for kind in kinds)
    with make_metrics_config() as (table, url):
        async with run_mesh(table + plugins + echo_plugin_table(), short_dir) as watched:
            await watched.wait_for_event(events.Ready, count=len(kinds) + 1)
            wanted = set(kinds) - {"broken"}
            await trio.to_thread.run_sync(wait_for_samples, prometheus, url, wanted)


def wait_for_samples(prometheus: Prometheus, url: str, wanted: set[str]) -> None:
    """Have it scrape until it has samples of these plugins."""
    with prometheus.run():
        prometheus.set_target(url.removeprefix("http://").removesuffix("/metrics"))
        wait_until(lambda: wanted <= plugins_in(prometheus.query("good_count_total")), 200)


def plugins_in(rows: list[dict[str, Any]]) -> set[str]:
    return {row["metric"]["plugin"] for row in rows}
