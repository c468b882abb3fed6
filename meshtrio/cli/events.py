"""`meshtrio events`: what happened to plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meshtrio.cli import words
from meshtrio.cli.asking import follow as follow_stream
from meshtrio.cli.lines import LEVELS, follow_option, how_many, last_option, printer
from meshtrio.cli.options import json_option, mesh_socket_option, names_argument
from meshtrio.cli.records import print_line, record
from meshtrio.messages import control


@click.command(short_help="Tell what happened to plugins.")
@names_argument
@follow_option
@last_option
@json_option("A JSON object a line.")
@mesh_socket_option
def events(
    names: tuple[str, ...],
    follow: bool,
    last: int | None,
    as_json: bool,
    mesh_socket: Path | None,
) -> None:
    """Tell what happened to plugins, oldest first: all, or those of the NAMEs.

    A NAME is that of a plugin or a group. The mesh keeps the last thousand events. With --follow it
    goes on until Ctrl-C, which ends it with exit status 130.
    """
    request = control.WatchEventsRequest(
        names=names, last=how_many(last, follow=follow), follow=follow
    )
    show = printer(flush=follow)

    def take(event: Any) -> None:
        if as_json:
            print_line(record(event))
            return
        if event.missed:
            show((f"… {words.count(event.missed, 'event')} not shown: read too slowly", "yellow"))
        show(
            (f"{words.clock(event.time)} ", "dim"),
            (f"{event.plugin}/{event.instance} ", "bold"),
            (f"{event.kind}: ", ""),
            (event.text, LEVELS.get(event.level, "")),
        )

    follow_stream(mesh_socket, "WatchEvents", request, take)
