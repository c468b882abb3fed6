"""Calls by plugin and method, added up from the reports of instances."""

from __future__ import annotations

from typing import Any

import pytest

from meshtrio.messages import load
from meshtrio.rpc.method_load import BUCKET_COUNT, MAX_METHODS, find_bucket
from meshtrio.services.method_statistics import MethodCollector, sanitize_methods


def method_load(name: str, seconds: float = 0.001, **fields: Any) -> load.MethodLoad:
    latency = [0] * find_bucket(seconds) + [sum(fields.get("ended", {}).values())]
    return load.MethodLoad(method=name, latency=latency, **fields)


def test_reports_of_instances_are_added_up() -> None:
    collector = MethodCollector()
    collector.add("plugin.a", [method_load("s.S/M", started=3, in_flight=9, ended={0: 90})])
    collector.add("plugin.a", [method_load("s.S/M", 1.0, started=1, ended={0: 4, 14: 6})])
    collector.add("plugin.a", [method_load("other", ended={12: 1}), method_load("a.A/A")])
    collector.add("plugin.gone", [method_load("s.S/M", started=5)])
    in_flight = {("plugin.a", 0): {"s.S/M": 2}, ("plugin.a", 1): {"s.S/M": 1, "new/N": 4}}
    found = list(collector.take(in_flight, ["plugin.b", "plugin.a"]))
    assert [(each.service, each.method) for each in found] == [
        ("a.A", "A"), ("new", "N"), ("s.S", "M"), ("", "other"),
    ]  # fmt: skip
    _, new, row, _ = found
    assert new.in_flight == 4
    assert (row.plugin, row.target) == ("a", "plugin.a")
    assert (row.started, row.in_flight) == (4, 3)
    assert dict(row.ended) == {"OK": 94, "UNAVAILABLE": 6}
    assert row.p50 == pytest.approx(0.001, rel=0.19)
    assert row.p95 == pytest.approx(1.0, rel=0.19)
    assert row.p50 < row.p95 <= row.p99
    (again,) = (each for each in collector.take({}, ["plugin.a"]) if each.method == "M")
    assert (again.started, again.in_flight, len(again.ended)) == (0, 0, 0)
    assert not again.HasField("p50")


def test_what_instances_report_is_bounded() -> None:
    collector = MethodCollector()
    nonsense = [
        *(load.MethodLoad(method=name) for name in ("", "x" * 1000, "\x1b[2J")),
        *(load.MethodLoad(method=f"a/{n}", started=n) for n in (2**64 - 1, 2**41)),
        load.MethodLoad(method="b/B", ended=dict.fromkeys(range(1000), 1)),
        load.MethodLoad(method="c/C", ended={99: 2**63}),
    ]
    assert sanitize_methods(nonsense) == []
    odd = load.MethodLoad(
        method="d/D", started=1, ended={99: 5}, latency=[2**32 - 1] * BUCKET_COUNT * 10
    )
    for start in (0, 1000, 2000):
        many = [load.MethodLoad(method=f"m/{start + n}", started=2**40) for n in range(500)]
        collector.add("plugin.a", sanitize_methods([odd, *many]))
    found = list(collector.take({}, ["plugin.a"]))
    assert len(found) == MAX_METHODS + 1
    assert dict(found[0].ended) == {"UNKNOWN": 15}
    assert 0 < found[0].p50 < found[0].p99 < 200
