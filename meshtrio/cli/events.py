"""`meshtrio events`: print lifecycle events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meshtrio.cli import formatting
from meshtrio.cli.json_output import message_to_dict, print_json_line
from meshtrio.cli.mesh_client import stream_control
from meshtrio.cli.options import json_option, mesh_socket_option, names_argument
from meshtrio.cli.stream_output import (
    LEVEL_STYLES,
    count_of_past_entries,
    follow_option,
    last_option,
    make_line_printer,
)
from meshtrio.messages import control


@click.command(short_help="Print lifecycle events of plugins.")
@names_argument
@follow_option
@last_option
@json_option("Print one JSON object per line.")
@mesh_socket_option
def events(
    names: tuple[str, ...],
    follow: bool,
    last: int | None,
    as_json: bool,
    mesh_socket: Path | None,
) -> None:
    """Print lifecycle events, oldest first: of all plugins, or of those named.

    A NAME is a plugin or a group. The mesh keeps the last thousand events. --follow continues until
    Ctrl-C, which exits with status 130.
    """
    request = control.WatchEventsRequest(
        names=names, last=count_of_past_entries(last, follow=follow), follow=follow
    )
    print_line = make_line_printer(flush=follow)

    def print_entry(event: Any) -> None:
        if as_json:
            print_json_line(message_to_dict(event))
            return
        if event.missed:
            print_line(
                (
                    (
                        f"… {formatting.format_count(event.missed, 'event')} not shown: "
                        "read too slowly"
                    ),
                    "yellow",
                )
            )
        print_line(
            (f"{formatting.format_time(event.time)} ", "dim"),
            (f"{event.plugin}/{event.instance} ", "bold"),
            (f"{event.kind}: ", ""),
            (event.text, LEVEL_STYLES.get(event.level, "")),
        )

    stream_control(mesh_socket, "WatchEvents", request, print_entry)
