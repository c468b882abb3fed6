"""`meshtrio nodes`: the meshes that are one, and how this one follows etcd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from meshtrio.cli import formatting
from meshtrio.cli.json_output import print_json
from meshtrio.cli.mesh_client import run_with_control
from meshtrio.cli.options import mesh_options
from meshtrio.cli.text_table import print_table
from meshtrio.messages import control
from meshtrio.util.text import escape_unprintable


@click.command()
@mesh_options("Print one JSON object: the nodes, and the status of discovery.")
def nodes(as_json: bool, mesh_socket: Path | None) -> None:
    """List the nodes that are registered in etcd, and how this mesh follows etcd.

    ADDRESS is a node's gateway, ENDPOINTS the number of endpoints that it has registered, LEASE the
    lease in etcd with which all of its keys end. While etcd is away, what was known last is shown.
    """
    request = control.ListNodesRequest()
    reply = run_with_control(lambda stub: stub.ListNodes(request), mesh_socket)
    if as_json:
        print_json(reply)
        return
    columns = ("NODE", "ZONE", "ADDRESS", "ENDPOINTS", "LEASE", "SINCE", "VERSION", "NOTE")
    rows = (
        (
            each.name,
            each.zone or "-",
            each.address or "-",
            each.endpoints,
            each.lease or "-",
            formatting.format_time(each.since),
            each.version,
            "this mesh" if each.this_mesh else "",
        )
        for each in reply.nodes
    )
    print_table(columns, rows)
    for line in describe_status(reply.discovery):
        print(escape_unprintable(line))


def describe_status(status: control.DiscoveryStatus) -> Iterator[str]:
    """Describe how a mesh follows etcd, in one line for each thing."""
    confirmed = f"confirmed {formatting.format_duration(status.lag)} ago"
    if status.connected:
        yield f"etcd: following {status.member}, revision {status.revision}, {confirmed}"
    else:
        known = f"revision {status.revision}, {confirmed}" if status.revision else "nothing known"
        yield f"etcd: not connected, {known}: {status.problem}"
    problem = f": {status.registration_problem}" if status.registration_problem else ""
    state = "registered" if status.registered else "not registered"
    renewals = formatting.format_count(status.lease_renewals, "renewal")
    losses = formatting.format_count(status.lease_losses, "lease")
    yield f"node {status.node}: {state}, {renewals}, {losses} lost{problem}"
    for key, reason in sorted(status.ignored_keys.items()):
        yield f"ignored key {key}: {reason}"
