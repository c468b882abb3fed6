"""`meshtrio top`: what plugins do just now."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click

from meshtrio.cli.asking import control, run
from meshtrio.cli.options import json_option, mesh_socket_option
from meshtrio.cli.pipes import until_stdout_takes_more
from meshtrio.cli.rates import rates
from meshtrio.cli.records import print_document, print_line, record
from meshtrio.messages import control as messages


@click.command(short_help="Watch calls, latencies, CPU and memory.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds from one report to the next.",
)
@click.option("--once", is_flag=True, help="Print one report, after one interval, and end.")
@json_option("A JSON object a line for each interval; with --once, one document.")
@mesh_socket_option
def top(interval: float, once: bool, as_json: bool, mesh_socket: Path | None) -> None:
    """Watch what each instance does: calls, latencies, CPU and memory.

    Keys: q quits, s and the arrow keys choose the column to sort by, r turns the order round. Where
    stdout is no terminal, one report is printed, as with --once.

    CALLS/S, FAILED/S and CPU % are over the last interval, MEDIAN and P99 of the calls that ended
    in the last half second. A plugin that does not serve meshtrio.v1.Load tells nothing of its
    calls: '-'.
    """
    request = messages.WatchStatisticsRequest(interval=interval)
    watch = partial(_watch, mesh_socket, request)
    if as_json:
        run(_print_json, watch, once)
        return
    from meshtrio.cli import screen

    if once or not screen.is_terminal():
        run(_print_once, watch)
        return
    from meshtrio.cli.top_screen import show

    run(show, watch)


@asynccontextmanager
async def _watch(mesh_socket: Path | None, request: Any) -> AsyncIterator[Any]:
    """The reports, which are ended with the block."""
    async with control(mesh_socket) as stub, stub.WatchStatistics(request) as reports:
        yield reports


async def _print_once(watch: Any) -> None:
    from meshtrio.cli import screen
    from meshtrio.cli.top_table import Order, make_table

    async with watch() as reports:
        before, now = await anext(reports), await anext(reports)
    screen.show(make_table(before, now, Order()))


async def _print_json(watch: Any, once: bool) -> None:
    """Statistics as they come, each instance with its rates since the one before."""
    before = None
    async with watch() as reports:
        async for now in reports:
            if before is not None:
                document = record(now)
                for instance, its_rates in zip(
                    document["instances"], rates(before, now), strict=True
                ):
                    instance["rates"] = attrs.asdict(its_rates)
                await until_stdout_takes_more()
                (print_document if once else print_line)(document)
                if once:
                    return
            before = now
