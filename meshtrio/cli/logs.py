"""`meshtrio logs`: print the output of plugins."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from meshtrio.cli import formatting
from meshtrio.cli.console_formatter import format_parsed_line
from meshtrio.cli.json_output import message_to_dict, print_json_line
from meshtrio.cli.mesh_client import stream_control
from meshtrio.cli.options import json_option, mesh_socket_option, names_argument
from meshtrio.cli.stream_output import (
    LEVEL_STYLES,
    StyledText,
    count_of_past_entries,
    follow_option,
    last_option,
    make_line_printer,
    parse_since,
)
from meshtrio.messages import control
from meshtrio.supervisor.log_line import parse_line
from meshtrio.supervisor.process.output.output_lines import parse_json_fields

_PLUGIN_COLOURS = (
    "cyan",
    "green",
    "magenta",
    "blue",
    "bright_cyan",
    "bright_green",
    "bright_magenta",
)


@click.command(short_help="Print the output of plugins.")
@names_argument
@follow_option
@click.option(
    "--since",
    callback=parse_since,
    metavar="WHEN",
    help="Only lines since then: 5m or 90 (seconds) ago, or an RFC 3339 time.",
)
@last_option
@json_option("Print one JSON object per line.")
@mesh_socket_option
def logs(
    names: tuple[str, ...],
    follow: bool,
    since: float,
    last: int | None,
    as_json: bool,
    mesh_socket: Path | None,
) -> None:
    """Print the stdout and stderr of plugins, oldest first: of all plugins, or of those named.

    A NAME is a plugin or a group. The mesh keeps the last lines of each instance, as many as
    `output.kept` in its config. A line of JSON is shown with its message first, as in the mesh's
    log; --json includes the line itself. --follow continues until Ctrl-C, which exits with status
    130. Lines that were written too fast, or read too slowly, are counted.
    """
    wanted = count_of_past_entries(last, follow=follow, since=since)
    request = control.ReadLogsRequest(
        names=names,
        # The mesh takes 0 for no limit.
        since=math.inf if wanted == 0 else since,
        last=wanted,
        follow=follow,
    )
    print_line = make_line_printer(flush=follow)

    def print_entry(line: Any) -> None:
        if as_json:
            print_json_line(message_to_dict(line))
            return
        head = (
            (f"{formatting.format_time(line.time)} ", "dim"),
            (f"{line.plugin}/{line.instance} | ", _colour_for_plugin(line.plugin)),
        )
        if line.missed:
            text = f"… {formatting.format_count(line.missed, 'line')} not shown: "
            print_line(*head, (f"{text}written too fast, or read too slowly", "italic yellow"))
        if line.text or not line.missed:
            _print_log_line(print_line, head, line)

    stream_control(mesh_socket, "ReadLogs", request, print_entry)


def _print_log_line(
    print_line: Callable[..., None], head: tuple[StyledText, StyledText], line: Any
) -> None:
    """Print a line of output; of a record that has several lines, only the first has the time."""
    fields = parse_json_fields(line.text)
    texts = [line.text] if fields is None else format_parsed_line(parse_line(line.text, fields))
    (time, dim), who = head
    for text in texts:
        print_line((time, dim), who, (text, _style_for_line(line, fields is not None)))
        time = " " * len(time)


def _style_for_line(line: Any, is_json: bool) -> str:
    """Return the style of a line: by its level if it is JSON, since loggers write all to stderr."""
    if is_json:
        return LEVEL_STYLES.get(line.level, "")
    return "red" if line.stream == "stderr" else ""


def _colour_for_plugin(plugin: str) -> str:
    """Return the colour of a plugin, always the same one."""
    return _PLUGIN_COLOURS[zlib.crc32(plugin.encode()) % len(_PLUGIN_COLOURS)]
