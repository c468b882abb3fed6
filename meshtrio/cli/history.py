"""`meshtrio history`: the processes that instances and tasks have had."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from meshtrio.cli import formatting
from meshtrio.cli.json_output import print_json
from meshtrio.cli.mesh_client import run_with_control
from meshtrio.cli.options import mesh_options, names_argument
from meshtrio.cli.stream_commands import parse_time
from meshtrio.cli.text_table import print_table
from meshtrio.messages import control
from meshtrio.supervisor.event_text import format_last_stderr_line
from meshtrio.util.text import escape_unprintable

_COLUMNS = ("NAME", "PID", "STARTED", "FOR", "READY", "LASTED", "STATE", "END")
_RUNNING_STATES = ("ready", "unready", "draining")
"""Kinds of moments that say what a process is doing."""

_since_option = click.option(
    "--since",
    callback=lambda _, __, value: 0.0 if value is None else parse_time(value, time.time()),
    metavar="WHEN",
    help="Only processes that ran since then: 5m or 90 (seconds) ago, or an RFC 3339 time.",
)


@click.command()
@names_argument
@mesh_options(
    "Print a JSON object: the lives, since when they are complete, and what is missing.",
    _since_option,
)
def history(names: tuple[str, ...], since: float, as_json: bool, mesh_socket: Path | None) -> None:
    """List the processes that plugins and tasks have had in the last day, by their starts.

    Of all, or of those named; a NAME is a plugin, a group or a task, and may be one that the config
    no longer has. FOR is what a process was started for, READY the time until it was ready, END how
    it ended with its last line of stderr, and what its instance did then. The mesh keeps 20 MiB of
    history, also over an upgrade; --json has all that happened to each process.
    """
    request = control.WatchHistoryRequest(names=names, since=since)

    async def fetch(stub: Any) -> list[control.HistoryUpdate]:
        async with stub.WatchHistory(request) as call:
            return [update async for update in call]

    updates = run_with_control(fetch, mesh_socket)
    lives = [life for update in updates for life in update.lives]
    first = updates[0]
    if as_json:
        print_json({"oldest": first.oldest, "dropped": [*first.dropped], "lives": lives})
        return
    for dropped in first.dropped:
        print(escape_unprintable(_describe_dropped(dropped)))
    print_table(_COLUMNS, (_make_row(life, first.time) for life in lives))


def _describe_dropped(dropped: control.DroppedLives) -> str:
    count = formatting.format_count(dropped.count, "earlier life", "earlier lives")
    until = formatting.format_time(dropped.until)
    return f"{count} of {dropped.plugin}/{dropped.instance}, until {until}, not kept"


def _make_row(life: control.Life, now: float) -> tuple[Any, ...]:
    ready = next((each.time for each in life.moments if each.kind == "ready"), None)
    end = life.ended if life.HasField("ended") else now
    return (
        life.plugin if life.task else f"{life.plugin}/{life.instance}",
        life.pid if life.HasField("pid") else "-",
        formatting.format_time(life.started),
        life.follows,
        "-" if ready is None else formatting.format_latency(ready - life.started),
        formatting.format_duration(end - life.started),
        life.outcome or _find_state(life),
        _describe_end(life),
    )


def _find_state(life: control.Life) -> str:
    """Return the state of a process that runs, as far as its moments tell."""
    kinds = (each.kind for each in reversed(life.moments) if each.kind in _RUNNING_STATES)
    return next(kinds, "running" if life.task or life.follows == "adopted" else "starting")


def _describe_end(life: control.Life) -> str:
    text = f"{life.reason}{format_last_stderr_line(life.last_lines)}"
    return f"{text}; then {life.next_state}" if life.next_state else text
