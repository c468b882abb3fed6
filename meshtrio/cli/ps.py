"""`meshtrio ps`: the instances of a running mesh."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from meshtrio.cli.asking import ask
from meshtrio.cli.options import json_option, mesh_socket_option, names_argument
from meshtrio.cli.records import print_document, record
from meshtrio.messages import control


@click.command(short_help="List instances with their processes and states.")
@names_argument
@json_option("A JSON list of objects.")
@mesh_socket_option
def ps(names: tuple[str, ...], as_json: bool, mesh_socket: Path | None) -> None:
    """List every instance with its process and state, or those of the NAMEs.

    A NAME is that of a plugin or a group. RESTARTS is how often it was started again; REASON says
    how its last life ended, or why it is not ready.
    """
    reply = ask(mesh_socket, "ListInstances", control.ListInstancesRequest(names=names))
    if as_json:
        print_document([record(instance) for instance in reply.instances])
    else:
        show_instances(reply.instances)


def show_instances(instances: Iterable[control.Instance]) -> None:
    from meshtrio.cli import screen, words  # a script that wants JSON need not wait for rich

    columns = ("NAME", "INSTANCE", "PID", "STATE", "RESTARTS", "UPTIME", "SOCKET", "REASON")
    table = screen.table(columns)
    for each in instances:
        table.add_row(
            each.name,
            str(each.instance),
            words.number(each.pid if each.HasField("pid") else None),
            screen.state(each.state),
            str(each.restarts),
            words.duration(each.uptime if each.HasField("uptime") else None),
            each.socket,
            each.reason,
        )
    screen.show(table)
