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

from meshtrio.cli import formatting, rich_output
from meshtrio.cli.statistics_rates import StatisticsRow, make_rows, make_total_row
from meshtrio.messages import control

_RESERVED_LINES = 4
"""Lines of the screen that are not instances: titles, the mesh, "… more", help."""
_UNBOUNDED_WIDTH = 1000


@attrs.frozen
class Column:
    """A column: `value` is its sort key, `text` formats it."""

    title: str
    value: Callable[[StatisticsRow], Any]
    text: Callable[[Any], str | Text] = formatting.format_number
    largest_first: bool = True


COLUMNS = (
    Column("NAME", lambda row: _natural_sort_key(row.name), largest_first=False),
    Column("STATE", lambda row: row.state, rich_output.make_state_text, largest_first=False),
    Column("PID", lambda row: row.pid, largest_first=False),
    Column("CALLS/S", lambda row: row.rates.calls, formatting.format_rate),
    Column("FAILED/S", lambda row: row.rates.failed, formatting.format_rate),
    Column("MEDIAN", lambda row: row.median, formatting.format_latency),
    Column("P99", lambda row: row.p99, formatting.format_latency),
    Column("IN FLIGHT", lambda row: row.in_flight),
    Column("CPU %", lambda row: row.rates.cpu, formatting.format_percent),
    Column("MEMORY", lambda row: row.resident, formatting.format_size),
    Column("RESTARTS", lambda row: row.restarts),
    Column("UPTIME", lambda row: row.uptime, formatting.format_duration),
)


_HIDEABLE_COLUMNS = (
    *("RESTARTS", "UPTIME", "MEDIAN", "PID", "FAILED/S", "IN FLIGHT", "MEMORY", "STATE", "P99"),
)
"""Columns that are hidden on a narrow screen, in this order."""


def _natural_sort_key(name: str) -> list[Any]:
    """Return a sort key that puts echo/2 before echo/10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


@attrs.define
class SortOrder:
    """The column that rows are sorted by, and whether the order is reversed."""

    column: int = 0
    reversed: bool = False

    def move_column(self, by: int) -> None:
        self.column = (self.column + by) % len(COLUMNS)
        self.reversed = False

    def reverse(self) -> None:
        self.reversed = not self.reversed

    @property
    def is_largest_first(self) -> bool:
        return COLUMNS[self.column].largest_first is not self.reversed

    def sort(self, unsorted: list[StatisticsRow]) -> list[StatisticsRow]:
        """Sort the rows, with unknown values last."""
        value = COLUMNS[self.column].value
        known = [row for row in unsorted if value(row) is not None]
        known.sort(key=value, reverse=self.is_largest_first)
        return known + [row for row in unsorted if value(row) is None]


def make_statistics_table(
    before: control.Statistics | None,
    now: control.Statistics,
    order: SortOrder,
    *,
    max_rows: int | None = None,
    hidden_columns: Container[str] = (),
) -> Table:
    """Make a table with a row for the mesh and one for each instance, `max_rows` at most."""
    shown = [column for column in COLUMNS if column.title not in hidden_columns]
    table = rich_output.make_table(_make_title(column, order) for column in shown)
    found = make_rows(before, now)
    table.add_row(*_make_cells(make_total_row(now, found), shown), style="bold")
    for row in order.sort(found)[:max_rows]:
        table.add_row(*_make_cells(row, shown))
    if max_rows is not None and len(found) > max_rows:
        table.add_row(f"… {len(found) - max_rows} more")
    return table


def make_fitting_statistics_table(
    before: control.Statistics | None, now: control.Statistics, order: SortOrder, console: Console
) -> Table:
    """Make a table that fits the console; the column that it is sorted by is never hidden."""
    max_rows = max(console.size.height - _RESERVED_LINES, 1)
    hideable = [name for name in _HIDEABLE_COLUMNS if name != COLUMNS[order.column].title]
    unbounded = console.options.update(width=_UNBOUNDED_WIDTH)
    for count in range(len(hideable) + 1):
        table = make_statistics_table(
            before, now, order, max_rows=max_rows, hidden_columns=hideable[:count]
        )
        if Measurement.get(console, unbounded, table).maximum <= console.width:
            break
    return table


def _make_title(column: Column, order: SortOrder) -> Text:
    title = Text(column.title)
    if column is COLUMNS[order.column]:
        title.append("▼" if order.is_largest_first else "▲")
        title.stylize("reverse")
    return title


def _make_cells(row: StatisticsRow, shown: Iterable[Column]) -> list[str | Text]:
    texts = {column.title: column.text(column.value(row)) for column in COLUMNS[1:]}
    return [texts.get(column.title, row.name) for column in shown]
