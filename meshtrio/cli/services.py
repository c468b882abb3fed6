"""`meshtrio services`: list services and their endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from meshtrio.cli.json_output import message_to_dict, print_json
from meshtrio.cli.mesh_client import open_registry_stub, run_async
from meshtrio.cli.options import complete_services, json_option, mesh_socket_option, require_utf8
from meshtrio.messages import registry as messages
from meshtrio.supervisor.log_line import find_last_line


@click.command(short_help="List services and their endpoints.")
@click.argument(
    "services",
    nargs=-1,
    metavar="[SERVICE]...",
    callback=require_utf8,
    shell_complete=complete_services,
)
@json_option("Print the registry's state of each service, as a JSON list.")
@mesh_socket_option
def services(services: tuple[str, ...], as_json: bool, mesh_socket: Path | None) -> None:
    """List all services, or those named, with their endpoints.

    Endpoints of the lowest PRIORITY are called as long as one of them is ready, in proportion to
    their WEIGHT. For a service without endpoints, the reason is shown.
    """
    found = run_async(_resolve, services, mesh_socket)
    if as_json:
        print_json([message_to_dict(state) for state in found])
    else:
        _print_services(found)


async def _resolve(names: Sequence[str], mesh_socket: Path | None) -> list[messages.ServiceState]:
    async with open_registry_stub(mesh_socket) as stub:
        if not names:
            names = (await stub.ListServices(messages.ListServicesRequest())).services
        return [await stub.Resolve(messages.ResolveRequest(service=name)) for name in names]


def _print_services(found: Iterable[messages.ServiceState]) -> None:
    from meshtrio.cli import rich_output

    columns = ("SERVICE", "ADDRESS", "INSTANCE", "PID", "WEIGHT", "PRIORITY", "NOTE")
    table = rich_output.make_table(columns)
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
            table.add_row(state.service, *"-----", describe_unavailable(state))
    rich_output.print_renderable(table)


def describe_unavailable(state: messages.ServiceState) -> str:
    """Describe why a service has no endpoints, as far as its mesh knows."""
    if state.departures:
        last = state.departures[-1]
        return ": ".join(filter(None, (last.reason, find_last_line(last.stderr_tail))))
    return "not managed by the mesh" if state.unattended else "no instance has become ready yet"
