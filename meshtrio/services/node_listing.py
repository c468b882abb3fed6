"""What a mesh knows of nodes, as messages of meshtrio.v1.Control."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshtrio.messages import control
from meshtrio.util.errors import UsageError

if TYPE_CHECKING:
    from meshtrio.cluster.node import Node

_MAX_IGNORED_KEYS = 100


def require_node(node: Node | None) -> Node:
    """Return the node. Raises UsageError for a mesh that is none."""
    if node is None:
        hint = "set etcd in [mesh.discovery] of its config, and restart it"
        raise UsageError(f"this mesh is not a node of several: {hint}")
    return node


def make_node_list(node: Node) -> control.ListNodesResponse:
    """Make the list of all nodes, and the status of this one."""
    services, counts = node.services, node.services.count_endpoints()
    nodes = [
        control.MeshNode(
            name=name,
            zone=entry.zone,
            address=entry.address,
            endpoints=counts[name],
            lease=_format_lease(services.get_node_lease(name)),
            since=entry.since,
            version=entry.version,
            this_mesh=node.is_this_mesh(entry),
        )
        for name, entry in sorted(services.nodes.items())
    ]
    return control.ListNodesResponse(nodes=nodes, discovery=_make_status(node))


def _make_status(node: Node) -> control.DiscoveryStatus:
    status, keeper = node.follower.status, node.keeper
    ignored = sorted(node.services.problems.items())[:_MAX_IGNORED_KEYS]
    return control.DiscoveryStatus(
        node=node.config.node_name,
        prefix=node.config.prefix,
        connected=status.connected,
        problem=status.problem or ("" if status.connected else "not connected yet"),
        lag=node.follower.lag,
        member=status.member,
        revision=status.revision,
        registered=node.is_registered,
        registration_problem=node.registration_problem,
        lease=_format_lease(0 if keeper is None else keeper.lease_id or 0),
        lease_renewals=0 if keeper is None else keeper.renewals,
        lease_losses=0 if keeper is None else keeper.losses,
        ignored_keys=dict(ignored),
    )


def _format_lease(lease: int) -> str:
    """Format a lease as etcdctl does; "" for none."""
    return f"{lease:016x}" if lease else ""
