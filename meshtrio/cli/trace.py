"""`meshtrio trace`: the calls that plugins serve, as they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meshtrio.cli import words
from meshtrio.cli.asking import follow as follow_stream
from meshtrio.cli.lines import printer
from meshtrio.cli.options import json_option, mesh_socket_option, names_argument
from meshtrio.cli.records import print_line, record
from meshtrio.messages import control, tap
from meshtrio.rpc.status import name_of


@click.command(short_help="Follow calls as they end.")
@names_argument
@click.option(
    "--method", default="", metavar="PREFIX", help="Only methods that begin so: pkg.Service/Method."
)
@click.option("--failed", is_flag=True, help="Only calls that ended with a status other than OK.")
@click.option(
    "--slower-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Only calls that took as long.",
)
@json_option("A JSON object a line.")
@mesh_socket_option
def trace(
    names: tuple[str, ...],
    method: str,
    failed: bool,
    slower_than: float,
    as_json: bool,
    mesh_socket: Path | None,
) -> None:
    """Follow the calls that plugins serve: method, time, status, size and who makes them.

    Of all plugins, or of those of the NAMEs; a NAME is that of a plugin or a group. Each call is
    told as it ends, until Ctrl-C, which ends it with exit status 130. Plugins made with meshtrio
    tell of their calls; while nobody follows them that costs nothing.
    """
    wanted = tap.WatchCallsRequest(method=method, failed=failed, at_least=slower_than)
    request = control.WatchCallsOfRequest(names=names, calls=wanted)
    show = printer(flush=True)

    def take(found: Any) -> None:
        if as_json:
            print_line(record(found))
            return
        head = (f"{found.plugin}/{found.instance} ", "bold")
        if found.silent:
            show(head, ("does not tell of its calls: it is not made with meshtrio", "yellow"))
        if found.missed:
            text = f"… {words.count(found.missed, 'call')} not shown: they came too fast"
            show(head, (text, "italic yellow"))
        if found.HasField("call"):
            show(*_line(found.call, head))

    follow_stream(mesh_socket, "WatchCalls", request, take)


def _line(call: Any, head: tuple[str, str]) -> list[tuple[str, str]]:
    peer = call.forwarded_for or call.peer
    parts = [
        (f"{words.clock(call.time)} ", "dim"),
        head,
        (f"{call.method} ", ""),
        (f"{name_of(call.status)} ", "red" if call.status else "green"),
        (f"{words.latency(call.seconds)} ", ""),
        (f"{call.received:,} B in, {call.sent:,} B out, {peer}", "dim"),
    ]
    if call.message:
        parts.append((f": {call.message}", "red"))
    return parts
