"""`meshtrio ps`: list the instances of a running mesh."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from meshtrio.cli.json_output import message_to_dict, print_json
from meshtrio.cli.mesh_client import call_control
from meshtrio.cli.options import json_option, mesh_socket_option, names_argument
from meshtrio.messages import control


@click.command(short_help="List instances with their processes and states.")
@names_argument
@json_option("Print a JSON list of objects.")
@mesh_socket_option
def ps(names: tuple[str, ...], as_json: bool, mesh_socket: Path | None) -> None:
    """List instances with their processes and states: all, or those of the plugins named.

    A NAME is a plugin or a group. RESTARTS counts restarts; REASON is how the last process ended,
    or why the instance is not ready.
    """
    reply = call_control(mesh_socket, "ListInstances", control.ListInstancesRequest(names=names))
    if as_json:
        print_json([message_to_dict(instance) for instance in reply.instances])
    else:
        print_instances(reply.instances)


def print_instances(instances: Iterable[control.Instance]) -> None:
    from meshtrio.cli import formatting, rich_output

    columns = ("NAME", "INSTANCE", "PID", "STATE", "RESTARTS", "UPTIME", "SOCKET", "REASON")
    table = rich_output.make_table(columns)
    for each in instances:
        table.add_row(
            each.name,
            str(each.instance),
            formatting.format_number(each.pid if each.HasField("pid") else None),
            rich_output.make_state_text(each.state),
            str(each.restarts),
            formatting.format_duration(each.uptime if each.HasField("uptime") else None),
            each.socket,
            each.reason,
        )
    rich_output.print_renderable(table)
