"""`meshtrio logs`: what plugins wrote."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import click

from meshtrio.cli import words
from meshtrio.cli.asking import follow as follow_stream
from meshtrio.cli.lines import follow_option, how_many, last_option, parse_since, printer
from meshtrio.cli.options import json_option, mesh_socket_option, names_argument
from meshtrio.cli.records import print_line, record
from meshtrio.messages import control

_COLOURS = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")


@click.command(short_help="Print what plugins wrote.")
@names_argument
@follow_option
@click.option(
    "--since",
    callback=parse_since,
    metavar="WHEN",
    help="Only lines since then: 5m or 90 (seconds) ago, or a time as in RFC 3339.",
)
@last_option
@json_option("A JSON object a line.")
@mesh_socket_option
def logs(
    names: tuple[str, ...],
    follow: bool,
    since: float,
    last: int | None,
    as_json: bool,
    mesh_socket: Path | None,
) -> None:
    """Print what plugins wrote to stdout and stderr, oldest first: all, or those of the NAMEs.

    A NAME is that of a plugin or a group. The mesh keeps the last lines of each instance, as many
    as `output.kept` says in its config. With --follow it goes on until Ctrl-C, which ends it with
    exit status 130. Lines that were written too fast, or read too slowly, are told as a number.
    """
    wanted = how_many(last, follow=follow, since=since)
    request = control.ReadLogsRequest(
        names=names,
        # To the mesh, 0 is all of them.
        since=math.inf if wanted == 0 else since,
        last=wanted,
        follow=follow,
    )
    show = printer(flush=follow)

    def take(line: Any) -> None:
        if as_json:
            print_line(record(line))
            return
        head = (
            (f"{words.clock(line.time)} ", "dim"),
            (f"{line.plugin}/{line.instance} | ", _colour(line.plugin)),
        )
        if line.missed:
            text = f"… {words.count(line.missed, 'line')} not shown: "
            show(*head, (f"{text}written too fast, or read too slowly", "italic yellow"))
        if line.text or not line.missed:
            show(*head, (line.text, "red" if line.stream == "stderr" else ""))

    follow_stream(mesh_socket, "ReadLogs", request, take)


def _colour(plugin: str) -> str:
    """The same for a plugin every time."""
    return _COLOURS[zlib.crc32(plugin.encode()) % len(_COLOURS)]
