"""`meshtrio top`: watch the load of instances."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click

from meshtrio.cli.json_output import message_to_dict, print_json, print_json_line
from meshtrio.cli.mesh_client import open_control_stub, run_async
from meshtrio.cli.options import json_option, mesh_socket_option
from meshtrio.cli.statistics_rates import compute_rates
from meshtrio.cli.stdio import wait_stdout_writable
from meshtrio.messages import control


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between reports.",
)
@click.option("--once", is_flag=True, help="Print one report, after one interval, and end.")
@json_option("Print one JSON object per line for each interval; with --once, one document.")
@mesh_socket_option
def top(interval: float, once: bool, as_json: bool, mesh_socket: Path | None) -> None:
    """Watch what each instance does: calls, latencies, CPU and memory.

    Keys: q quits, s and the arrow keys choose the column to sort by, r reverses the order. If
    stdout is not a terminal, one report is printed, as with --once.

    CALLS/S, FAILED/S and CPU % are averages of the last interval, MEDIAN and P99 cover the calls
    that ended in the last half second. Plugins that do not serve meshtrio.v1.Load do not report
    calls: '-'.
    """
    watch = partial(_open_statistics, mesh_socket, interval)
    if as_json:
        run_async(_print_json, watch, once)
    elif once or not sys.stdout.isatty():
        run_async(_print_once, watch)
    else:
        from meshtrio.cli.top_screen import run_screen

        run_async(run_screen, watch)


@asynccontextmanager
async def _open_statistics(mesh_socket: Path | None, interval: float) -> AsyncIterator[Any]:
    """Open the stream of reports, for the block."""
    request = control.WatchStatisticsRequest(interval=interval)
    async with open_control_stub(mesh_socket) as stub, stub.WatchStatistics(request) as reports:
        yield reports


async def _print_once(watch: Any) -> None:
    from meshtrio.cli import rich_output
    from meshtrio.cli.top_table import SortOrder, make_statistics_table

    async with watch() as reports:
        before, now = await anext(reports), await anext(reports)
    rich_output.print_renderable(make_statistics_table(before, now, SortOrder()))


async def _print_json(watch: Any, once: bool) -> None:
    """Print reports as they arrive, each instance with its rates since the one before."""
    before = None
    async with watch() as reports:
        async for now in reports:
            if before is not None:
                document, rates = message_to_dict(now), compute_rates(before, now)
                for instance, its_rates in zip(document["instances"], rates, strict=True):
                    instance["rates"] = attrs.asdict(its_rates)
                await wait_stdout_writable()
                (print_json if once else print_json_line)(document)
                if once:
                    return
            before = now
