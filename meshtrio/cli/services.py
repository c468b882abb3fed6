"""`meshtrio services`: who serves what, and where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from meshtrio.cli.asking import registry, run
from meshtrio.cli.options import complete_services, encodable, json_option, mesh_socket_option
from meshtrio.cli.records import print_document, record
from meshtrio.messages import registry as messages
from meshtrio.supervise.said import last_line


@click.command(short_help="List who serves what, and where.")
@click.argument(
    "services",
    nargs=-1,
    metavar="[SERVICE]...",
    callback=encodable,
    shell_complete=complete_services,
)
@json_option("A JSON list of what the registry knows of each service.")
@mesh_socket_option
def services(services: tuple[str, ...], as_json: bool, mesh_socket: Path | None) -> None:
    """List the services that can be called, or the SERVICEs, with all endpoints of each.

    Endpoints of the lowest PRIORITY are called while one of them is ready, those of twice the
    WEIGHT twice as often. Where nobody serves a service, the reason is told.
    """
    found = run(_resolve, services, mesh_socket)
    if as_json:
        print_document([record(state) for state in found])
    else:
        _show(found)


async def _resolve(names: Sequence[str], mesh_socket: Path | None) -> list[messages.ServiceState]:
    async with registry(mesh_socket) as stub:
        if not names:
            names = (await stub.ListServices(messages.ListServicesRequest())).services
        return [await stub.Resolve(messages.ResolveRequest(service=name)) for name in names]


def _show(found: Iterable[messages.ServiceState]) -> None:
    from meshtrio.cli import screen

    columns = ("SERVICE", "ADDRESS", "INSTANCE", "PID", "WEIGHT", "PRIORITY", "NOTE")
    table = screen.table(columns)
    for state in found:
        for each in sorted(state.endpoints, key=lambda e: (e.priority, e.instance, e.address)):
            table.add_row(
                state.service,
                each.address,
                str(each.instance),
                str(each.pid) if each.pid else "-",
                str(each.weight),
                str(each.priority),
                "TLS" if each.HasField("tls") else "",
            )
        if not state.endpoints:
            table.add_row(state.service, *"-----", why_nobody(state))
    screen.show(table)


def why_nobody(state: messages.ServiceState) -> str:
    """Why nobody serves it, as far as its mesh knows."""
    if state.departures:
        last = state.departures[-1]
        return ": ".join(filter(None, (last.reason, last_line(last.stderr_tail))))
    return "nobody sees to it" if state.unattended else "nobody has been ready yet"
