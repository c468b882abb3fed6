"""`meshtrio trace`: print the calls that plugins serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meshtrio.cli import formatting
from meshtrio.cli.json_output import message_to_dict, print_json_line
from meshtrio.cli.mesh_client import stream_control
from meshtrio.cli.options import json_option, mesh_socket_option, names_argument
from meshtrio.cli.stream_output import make_line_printer
from meshtrio.grpc.status import status_code_name
from meshtrio.messages import control, tap


@click.command(short_help="Print calls as they end.")
@names_argument
@click.option(
    "--method",
    default="",
    metavar="PREFIX",
    help="Only methods that start with it: pkg.Service/Method.",
)
@click.option("--failed", is_flag=True, help="Only calls that ended with a status other than OK.")
@click.option(
    "--slower-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Only calls that took at least this long.",
)
@json_option("Print one JSON object per line.")
@mesh_socket_option
def trace(
    names: tuple[str, ...],
    method: str,
    failed: bool,
    slower_than: float,
    as_json: bool,
    mesh_socket: Path | None,
) -> None:
    """Print the calls that plugins serve: method, duration, status, size and caller.

    Of all plugins, or of those named; a NAME is a plugin or a group. Each call is printed when it
    ends, until Ctrl-C, which exits with status 130. Only plugins made with meshtrio report their
    calls, and only while they are watched.
    """
    wanted = tap.WatchCallsRequest(method=method, failed=failed, at_least=slower_than)
    request = control.WatchCallsOfRequest(names=names, calls=wanted)
    print_line = make_line_printer(flush=True)

    def print_entry(found: Any) -> None:
        if as_json:
            print_json_line(message_to_dict(found))
            return
        head = (f"{found.plugin}/{found.instance} ", "bold")
        if found.silent:
            print_line(head, ("does not report calls: it is not made with meshtrio", "yellow"))
        if found.missed:
            text = (
                f"… {formatting.format_count(found.missed, 'call')} not shown: they came too fast"
            )
            print_line(head, (text, "italic yellow"))
        if found.HasField("call"):
            print_line(*_format_call(found.call, head))

    stream_control(mesh_socket, "WatchCalls", request, print_entry)


def _format_call(call: Any, head: tuple[str, str]) -> list[tuple[str, str]]:
    peer = call.forwarded_for or call.peer
    parts = [
        (f"{formatting.format_time(call.time)} ", "dim"),
        head,
        (f"{call.method} ", ""),
        (f"{status_code_name(call.status)} ", "red" if call.status else "green"),
        (f"{formatting.format_latency(call.seconds)} ", ""),
        (f"{call.received:,} B in, {call.sent:,} B out, {peer}", "dim"),
    ]
    if call.message:
        parts.append((f": {call.message}", "red"))
    return parts
