"""`meshtrio top`: watch the load of instances, or the calls of methods."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click

from meshtrio.cli.json_output import print_json, print_json_line, to_plain
from meshtrio.cli.mesh_client import run_with_control
from meshtrio.cli.options import SecondsRange, mesh_options
from meshtrio.cli.stdio import wait_stdout_writable
from meshtrio.cli.top_methods import METHOD_VIEW, compute_method_rates
from meshtrio.cli.top_table import (
    INSTANCE_VIEW,
    SortOrder,
    View,
    compute_rates,
    make_statistics_table,
)
from meshtrio.messages import control


@click.command()
@click.option(
    "--interval",
    type=SecondsRange(0.1),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between reports.",
)
@click.option("--once", is_flag=True, help="Print one report, after one interval, and end.")
@click.option("--methods", is_flag=True, help="Watch methods instead of instances.")
@mesh_options("Print one JSON object per line for each interval; with --once, one document.")
def top(
    interval: float, once: bool, methods: bool, as_json: bool, mesh_socket: Path | None
) -> None:
    """Watch what each instance does: calls, latencies, CPU and memory.

    Keys: q quits, s and the arrow keys choose the column to sort by, r reverses the order. If
    stdout is not a terminal, one report is printed, as with --once.

    CALLS/S, FAILED/S and CPU % are averages of the last interval, MEDIAN and P99 cover the calls
    that ended in the last half second. Plugins that do not serve meshtrio.v1.Load do not report
    calls: '-'.

    With --methods there is a row for each method of a plugin, over all of its instances, and one
    for each method of a service that is called through the gateway or the mesh socket, with those
    calls that the mesh itself refuses. All columns cover the last interval. Methods that there are
    not are counted as 'other'.
    """
    show: Callable[[Any], Awaitable[None]]
    view = METHOD_VIEW if methods else INSTANCE_VIEW
    if as_json:
        show = partial(_print_json, once)
    elif once or not sys.stdout.isatty():
        show = partial(_print_once, view)
    else:
        show = partial(_run_screen, view)

    async def watch(stub: Any) -> None:
        async with stub.WatchStatistics(request) as reports:
            await show(reports)

    request = control.WatchStatisticsRequest(interval=interval, by_method=methods)
    run_with_control(watch, mesh_socket)


async def _run_screen(view: View, reports: Any) -> None:
    from meshtrio.cli.top_screen import run_screen

    await run_screen(reports, view)


async def _print_once(view: View, reports: Any) -> None:
    from meshtrio.cli import rich_output

    before, now = await anext(reports), await anext(reports)
    order = SortOrder(view)
    rich_output.print_renderable(make_statistics_table(before, now, order))


async def _print_json(once: bool, reports: Any) -> None:
    """Print reports as they arrive, instances and methods with rates since the one before."""
    before = None
    async for now in reports:
        if before is not None:
            document, rates = to_plain(now), compute_rates(before, now)
            for instance, its_rates in zip(document["instances"], rates, strict=True):
                instance["rates"] = attrs.asdict(its_rates)
            for name in ("methods", "gateway"):
                for method, row in zip(document[name], getattr(now, name), strict=True):
                    method["rates"] = compute_method_rates(row, now.interval)
            await wait_stdout_writable()
            (print_json if once else print_json_line)(document)
            if once:
                return
        before = now
