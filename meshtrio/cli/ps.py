"""`meshtrio ps`: the instances of a running mesh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import trio

from meshtrio import mesh
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.messages import control

_COLUMNS = ("name", "instance", "pid", "state", "restarts", "uptime", "socket", "reason")

mesh_socket_option = click.option(
    "--mesh-socket",
    type=click.Path(path_type=Path),
    help="Socket of the mesh; by default $MESH_SOCKET, else that of the default runtime dir.",
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list of objects.")
@mesh_socket_option
def ps(as_json: bool, mesh_socket: Path | None) -> None:
    """List every instance with its process, state and restarts."""
    rows = trio.run(_rows, mesh_socket)
    click.echo(json.dumps(rows, indent=2) if as_json else _table(rows))


async def _rows(mesh_socket: Path | None) -> list[dict[str, Any]]:
    async with mesh.connect_to_mesh(mesh_socket) as channel:
        stub = DynamicStub(channel, control.DESCRIPTOR.services_by_name["Control"])
        reply = await stub.ListInstances(control.ListInstancesRequest())
    return [_row(instance) for instance in reply.instances]


def _row(instance: control.Instance) -> dict[str, Any]:
    optional = {"pid", "uptime"}
    return {
        name: None if name in optional and not instance.HasField(name) else getattr(instance, name)
        for name in _COLUMNS
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [[name.upper() for name in _COLUMNS]]
    lines += [[_cell(row[name]) for name in _COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}s" if isinstance(value, float) else str(value)
