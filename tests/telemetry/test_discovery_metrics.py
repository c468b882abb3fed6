"""Metrics of a mesh that is a node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from meshtrio.discovery.etcd_entries import EndpointEntry, NodeEntry, make_node_key
from meshtrio.discovery.node_services import NodeServices, StoredEntry
from meshtrio.telemetry.metrics.discovery_metrics import DiscoveryMetrics


def make_node(services: NodeServices, keeper: Any = None) -> Any:
    follower = SimpleNamespace(status=SimpleNamespace(connected=True), lag=1.5)
    return SimpleNamespace(
        services=services, keeper=keeper, follower=follower, is_registered=keeper is not None
    )


def put_endpoint(node: str, number: int = 0) -> StoredEntry:
    entry = EndpointEntry("plugin.echo", "tcp:10.0.0.1:1", node, number)
    key = entry.make_key("m") if node else f"m/plugin.echo/{number}"
    return StoredEntry(key, entry.make_value(), 1)


def put_node(name: str) -> StoredEntry:
    return StoredEntry(make_node_key("m", name), NodeEntry(name).make_value(), 1)


def collect(metrics: DiscoveryMetrics) -> dict[str, dict[Any, Any]]:
    return {
        family.name.removeprefix("mesh.discovery."): {
            "".join(value for _, value in point.labels): point.value for point in family.points
        }
        for family in metrics.collect()
    }


def test_all_families_are_there_before_etcd_answers() -> None:
    metrics = DiscoveryMetrics(make_node(NodeServices("m", "own", "", None)))
    assert collect(metrics) == {
        "connected": {"": 1},
        "lag": {"": 1.5},
        "registered": {"": 0},
        "lease.renewals": {"": 0},
        "lease.losses": {"": 0},
        "nodes": {"": 0},
        "endpoints": {"own": 0},
        "ignored_keys": {"": 0},
    }


def test_endpoints_are_counted_by_node() -> None:
    services = NodeServices("m", "own", "", None)
    stored = [put_node("own"), put_endpoint("own"), put_node("a"), put_node("b")]
    stored += [put_endpoint("a"), put_endpoint("a", 1), put_endpoint("", 7)]
    stored.append(StoredEntry("m/plugin.echo/bad", b"garbage", 1))
    services.apply(stored, [], is_snapshot=True)
    metrics = DiscoveryMetrics(make_node(services, SimpleNamespace(renewals=3, losses=1)))
    found = collect(metrics)
    assert found["endpoints"] == {"own": 1, "a": 2, "b": 0, "other": 1}
    assert (found["nodes"], found["ignored_keys"]) == ({"": 3}, {"": 1})
    assert (found["lease.renewals"], found["lease.losses"]) == ({"": 3}, {"": 1})
    services.apply([], [put_endpoint("a", 1).key, put_endpoint("", 7).key], is_snapshot=False)
    assert collect(metrics)["endpoints"] == {"own": 1, "a": 1, "b": 0}
    services.apply([put_node("own")], [], is_snapshot=True)
    assert collect(metrics)["endpoints"] == {"own": 0}


def test_labels_are_bounded_and_stay_with_their_nodes() -> None:
    services = NodeServices("m", "n000", "", None)
    services.apply([put_endpoint(f"n{n:03}") for n in range(1, 150)], [], is_snapshot=True)
    metrics = DiscoveryMetrics(make_node(services))
    before = collect(metrics)["endpoints"]
    assert len(before) == 101
    assert before["other"] == 50
    services.apply([put_endpoint("a")], [put_endpoint("n001").key], is_snapshot=False)
    after = collect(metrics)["endpoints"]
    assert after.keys() - before.keys() == {"a"}
    assert before.keys() - after.keys() == {"n001"}
    assert after["other"] == 50
