"""Metrics of a mesh that is a node: how it follows etcd, and what other nodes have."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from meshtrio.telemetry.metric_families import MetricFamily

if TYPE_CHECKING:
    from meshtrio.cluster.node import Node

_MAX_NODE_LABELS = 100
"""Number of nodes with a label of their own; etcd's keys are not this mesh's."""
_OTHER = "other"
"""The label of all others, and of programs that have registered themselves."""


class DiscoveryMetrics:
    """Reads the state of a node when it is collected."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._labelled: dict[str, None] = {}
        """Nodes that have had a label, so that none changes to another."""

    def collect(self) -> list[MetricFamily]:
        """Return all families, as of now."""
        node, keeper = self._node, self._node.keeper
        renewals, losses = (0, 0) if keeper is None else (keeper.renewals, keeper.losses)
        nodes, ignored = len(node.services.nodes), len(node.services.problems)

        def gauge(name: str, unit: str, text: str, value: float) -> MetricFamily:
            return MetricFamily.gauge(f"mesh.discovery.{name}", unit, text, {(): value})

        def counter(name: str, unit: str, text: str, value: int) -> MetricFamily:
            return MetricFamily.counter(f"mesh.discovery.{name}", unit, text, {(): value})

        is_connected = node.follower.status.connected
        return [
            gauge("connected", "", "1 if changes are received from etcd, else 0.", is_connected),
            gauge("lag", "s", "Time since etcd confirmed what is known.", node.follower.lag),
            gauge("registered", "", "1 if other nodes find this one, else 0.", node.is_registered),
            counter("lease.renewals", "{renewal}", "Renewals of this node's lease.", renewals),
            counter("lease.losses", "{lease}", "Leases of this node that were lost.", losses),
            gauge("nodes", "{node}", "Nodes in etcd, this one included.", nodes),
            MetricFamily.gauge(
                "mesh.discovery.endpoints",
                "{endpoint}",
                "Endpoints in etcd, by node.",
                {(("node", name),): count for name, count in self._count_endpoints().items()},
            ),
            gauge("ignored_keys", "{key}", "Keys of etcd that cannot be used.", ignored),
        ]

    def _count_endpoints(self) -> dict[str, int]:
        counts = Counter[str]()
        found = self._node.services.count_endpoints()
        # A node that has left makes room for another one.
        self._labelled = {name: None for name in self._labelled if name in found}
        for name, count in sorted(found.items()):
            if name and name not in self._labelled and len(self._labelled) < _MAX_NODE_LABELS:
                self._labelled[name] = None
            counts[name if name in self._labelled else _OTHER] += count
        return counts
