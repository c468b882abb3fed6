"""The table of `meshtrio top`: its columns, and the order of its rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from typing import Any

import attrs
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from meshtrio.cli import screen, words
from meshtrio.cli.rates import Row, rows, total
from meshtrio.messages import control

_AROUND = 4
"""Lines of the screen that are not for instances: titles, the mesh, what is left out, help."""
_UNBOUNDED = 1000


@attrs.frozen
class Column:
    """`value` is what rows are ordered by; `text` is how it is shown."""

    title: str
    value: Callable[[Row], Any]
    text: Callable[[Any], str | Text] = words.number
    largest_first: bool = True


COLUMNS = (
    Column("NAME", lambda row: _natural(row.name), largest_first=False),
    Column("STATE", lambda row: row.state, screen.state, largest_first=False),
    Column("PID", lambda row: row.pid, largest_first=False),
    Column("CALLS/S", lambda row: row.rates.calls, words.rate),
    Column("FAILED/S", lambda row: row.rates.failed, words.rate),
    Column("MEDIAN", lambda row: row.median, words.latency),
    Column("P99", lambda row: row.p99, words.latency),
    Column("IN FLIGHT", lambda row: row.in_flight),
    Column("CPU %", lambda row: row.rates.cpu, words.percent),
    Column("MEMORY", lambda row: row.resident, words.size),
    Column("RESTARTS", lambda row: row.restarts),
    Column("UPTIME", lambda row: row.uptime, words.duration),
)


_DISPENSABLE = (
    *("RESTARTS", "UPTIME", "MEDIAN", "PID", "FAILED/S", "IN FLIGHT", "MEMORY", "STATE", "P99"),
)
"""Columns that a narrow screen does without, the first of them first."""


def _natural(name: str) -> list[Any]:
    """As people order names: echo/2 comes before echo/10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


@attrs.define
class Order:
    """Which column the rows are ordered by, and whether the other way round."""

    column: int = 0
    turned: bool = False

    def move(self, by: int) -> None:
        self.column = (self.column + by) % len(COLUMNS)
        self.turned = False

    def turn(self) -> None:
        self.turned = not self.turned

    @property
    def largest_first(self) -> bool:
        return COLUMNS[self.column].largest_first is not self.turned

    def sorted(self, unsorted: list[Row]) -> list[Row]:
        """What is not known comes last."""
        value = COLUMNS[self.column].value
        known = [row for row in unsorted if value(row) is not None]
        unknown = [row for row in unsorted if value(row) is None]
        return sorted(known, key=value, reverse=self.largest_first) + unknown


def make_table(
    before: control.Statistics | None,
    now: control.Statistics,
    order: Order,
    *,
    most: int | None = None,
    without: Container[str] = (),
) -> Table:
    """A line for the mesh, then one for each instance; of those at most so many."""
    shown = [column for column in COLUMNS if column.title not in without]
    table = screen.table(_title(column, order) for column in shown)
    found = rows(before, now)
    table.add_row(*_cells(total(now, found), shown), style="bold")
    for row in order.sorted(found)[:most]:
        table.add_row(*_cells(row, shown))
    if most is not None and len(found) > most:
        table.add_row(f"… {len(found) - most} more")
    return table


def make_fitting_table(
    before: control.Statistics | None, now: control.Statistics, order: Order, console: Console
) -> Table:
    """As many rows and columns as there is room for, the one it is sorted by among them."""
    most = max(console.size.height - _AROUND, 1)
    without: list[str] = []
    expendable = [name for name in _DISPENSABLE if name != COLUMNS[order.column].title]
    while True:
        table = make_table(before, now, order, most=most, without=without)
        unbounded = console.options.update(width=_UNBOUNDED)
        if Measurement.get(console, unbounded, table).maximum <= console.width or not expendable:
            return table
        without.append(expendable.pop(0))


def _title(column: Column, order: Order) -> Text:
    title = Text(column.title)
    if column is COLUMNS[order.column]:
        title.append("▼" if order.largest_first else "▲")
        title.stylize("reverse")
    return title


def _cells(row: Row, shown: Iterable[Column]) -> list[str | Text]:
    texts = {column.title: column.text(column.value(row)) for column in COLUMNS[1:]}
    return [texts.get(column.title, row.name) for column in shown]
