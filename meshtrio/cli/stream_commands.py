"""Commands that print streams: `meshtrio events`, `logs`, `trace`."""

from __future__ import annotations

import math
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from meshtrio.cli import formatting
from meshtrio.cli.json_output import print_json_line
from meshtrio.cli.mesh_client import run_with_control
from meshtrio.cli.options import SecondsRange, mesh_options, names_argument
from meshtrio.cli.serve_log import format_parsed_line
from meshtrio.cli.stdio import wait_stdout_writable
from meshtrio.grpc.status import status_code_name
from meshtrio.messages import control, tap
from meshtrio.supervisor.log_line import parse_line
from meshtrio.supervisor.process.output.output_lines import parse_json_fields
from meshtrio.util.text import escape_unprintable

_ALL_ENTRIES = 2**32 - 1
_DEFAULT_LAST_WHEN_FOLLOWING = 10
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_MIN_EPOCH_TIME = 1e9
"""A plain number from here on is seconds since the epoch, as in the JSON output."""
_PLUGIN_COLOURS = (
    *("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta"),
)
_LEVEL_STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}
"""The styles of levels above INFO."""

StyledText = tuple[str, str]
"""A text, and its style on a terminal."""
Line = tuple[StyledText, ...]

follow_option = click.option(
    "-f", "--follow", is_flag=True, help="Continue with new entries, until Ctrl-C."
)
last_option = click.option(
    "-n",
    "--last",
    "last",
    type=click.IntRange(0, _ALL_ENTRIES),
    metavar="N",
    help="Start with the last N; by default all that are kept, or 10 with --follow.",
)


def _count_of_past_entries(last: int | None, *, follow: bool, since: float = 0.0) -> int:
    if last is not None:
        return last
    return _DEFAULT_LAST_WHEN_FOLLOWING if follow and not since else _ALL_ENTRIES


def parse_time(text: str, now: float) -> float:
    """Parse `5m` (ago), an RFC 3339 time, or seconds to seconds since the epoch."""
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        found = seconds if seconds >= _MIN_EPOCH_TIME else now - seconds
        if math.isfinite(found):
            return found
    span = _DURATION.fullmatch(text)
    if span and text:
        days, hours, minutes, rest = (float(part or 0) for part in span.groups())
        return now - (((days * 24 + hours) * 60 + minutes) * 60 + rest)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise click.BadParameter(
            f"invalid time {text!r}: write 5m or 1h30m (ago), seconds, or 2026-01-31T12:00:00Z"
        ) from None


@click.command()
@names_argument
@follow_option
@last_option
@mesh_options("Print one JSON object per line.")
def events(names: tuple[str, ...], follow: bool, last: int | None, **options: Any) -> None:
    """Print lifecycle events, oldest first: of all plugins, or of those named.

    A NAME is a plugin or a group. The mesh keeps the last thousand events. --follow continues until
    Ctrl-C, which exits with status 130.
    """
    past = _count_of_past_entries(last, follow=follow)
    request = control.WatchEventsRequest(names=names, last=past, follow=follow)
    _print_stream("WatchEvents", request, _format_event, flush=follow, **options)


def _format_event(event: Any) -> Iterator[Line]:
    if event.missed:
        count = formatting.format_count(event.missed, "event")
        yield ((f"… {count} not shown: read too slowly", "yellow"),)
    yield (
        (f"{formatting.format_time(event.time)} ", "dim"),
        (f"{event.plugin}/{event.instance} ", "bold"),
        (f"{event.kind}: ", ""),
        (event.text, _LEVEL_STYLES.get(event.level, "")),
    )


@click.command()
@names_argument
@follow_option
@click.option(
    "--since",
    callback=lambda _, __, value: 0.0 if value is None else parse_time(value, time.time()),
    metavar="WHEN",
    help="Only lines since then: 5m or 90 (seconds) ago, or an RFC 3339 time.",
)
@last_option
@mesh_options("Print one JSON object per line.")
def logs(
    names: tuple[str, ...], follow: bool, since: float, last: int | None, **options: Any
) -> None:
    """Print the stdout and stderr of plugins, oldest first: of all plugins, or of those named.

    A NAME is a plugin or a group. The mesh keeps the last lines of each instance, as many as
    `output.kept` in its config. A line of JSON is shown with its message first, as in the mesh's
    log; --json includes the line itself. --follow continues until Ctrl-C, which exits with status
    130. Lines that were written too fast, or read too slowly, are counted.
    """
    wanted = _count_of_past_entries(last, follow=follow, since=since)
    # The mesh takes 0 for no limit.
    since = math.inf if wanted == 0 else since
    request = control.ReadLogsRequest(names=names, since=since, last=wanted, follow=follow)
    _print_stream("ReadLogs", request, _format_output, flush=follow, **options)


def _format_output(line: Any) -> Iterator[Line]:
    """Format a line of output; of a record that has several lines, only the first has the time."""
    time = f"{formatting.format_time(line.time)} "
    colour = _PLUGIN_COLOURS[zlib.crc32(line.plugin.encode()) % len(_PLUGIN_COLOURS)]
    source = (f"{line.plugin}/{line.instance} | ", colour)
    if line.missed:
        text = f"… {formatting.format_count(line.missed, 'line')} not shown: "
        text += "written too fast, or read too slowly"
        yield (time, "dim"), source, (text, "italic yellow")
        if not line.text:
            return
    fields = parse_json_fields(line.text)
    if fields is None:
        texts, style = [line.text], "red" if line.stream == "stderr" else ""
    else:
        # By its level, since loggers write all to stderr.
        texts = format_parsed_line(parse_line(line.text, fields))
        style = _LEVEL_STYLES.get(line.level, "")
    for text in texts:
        yield (time, "dim"), source, (text, style)
        time = " " * len(time)


@click.command()
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
    type=SecondsRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Only calls that took at least this long.",
)
@mesh_options("Print one JSON object per line.")
def trace(
    names: tuple[str, ...], method: str, failed: bool, slower_than: float, **options: Any
) -> None:
    """Print the calls that plugins serve: method, duration, status, size and caller.

    Of all plugins, or of those named; a NAME is a plugin or a group. Each call is printed when it
    ends, until Ctrl-C, which exits with status 130. Only plugins made with meshtrio report their
    calls, and only while they are watched.
    """
    wanted = tap.WatchCallsRequest(method=method, failed=failed, at_least=slower_than)
    request = control.WatchCallsOfRequest(names=names, calls=wanted)
    _print_stream("WatchCalls", request, _format_call, flush=True, **options)


def _format_call(found: Any) -> Iterator[Line]:
    source = (f"{found.plugin}/{found.instance} ", "bold")
    if found.silent:
        yield source, ("does not report calls: it is not made with meshtrio", "yellow")
    if found.missed:
        count = formatting.format_count(found.missed, "call")
        yield source, (f"… {count} not shown: more calls than can be reported", "italic yellow")
    if found.HasField("call"):
        call = found.call
        yield (
            (f"{formatting.format_time(call.time)} ", "dim"),
            source,
            (f"{call.method} ", ""),
            (f"{status_code_name(call.status)} ", "red" if call.status else "green"),
            (f"{formatting.format_latency(call.seconds)} ", ""),
            (f"{call.received:,} B in, {call.sent:,} B out, ", "dim"),
            (call.forwarded_for or call.peer, "dim"),
            (f": {call.message}" if call.message else "", "red"),
        )


def _print_stream(
    method: str,
    request: Any,
    format_message: Callable[[Any], Iterator[Line]],
    *,
    flush: bool,
    as_json: bool,
    mesh_socket: Path | None,
) -> None:
    """Print the messages of a streaming method of meshtrio.v1.Control."""
    print_line = _make_line_printer(flush=flush)

    async def receive(stub: Any) -> None:
        async with getattr(stub, method)(request) as call:
            async for message in call:
                await wait_stdout_writable()
                if as_json:
                    print_json_line(message)
                else:
                    for line in format_message(message):
                        print_line(*line)

    run_with_control(receive, mesh_socket)


def _make_line_printer(*, flush: bool) -> Callable[..., None]:
    """Return a function that prints a line and escapes control characters, colours included."""
    if not sys.stdout.isatty():
        return lambda *parts: print(
            escape_unprintable("".join(text for text, _ in parts)), flush=flush
        )
    from rich.text import Text

    from meshtrio.cli import rich_output

    console = rich_output.make_console()

    def show(*parts: StyledText) -> None:
        line = Text()
        for text, style in parts:
            line.append(escape_unprintable(text), style)
        console.print(line, soft_wrap=True)

    return show
