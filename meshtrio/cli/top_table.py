"""The tables of `meshtrio top`: their columns, and the order of their rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from typing import Any

import attrs
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from meshtrio.cli import formatting, rich_output
from meshtrio.messages import control

_RESERVED_LINES = 4
"""Lines of the screen that are not instances: titles, the mesh, "… more", help."""
_UNBOUNDED_WIDTH = 1000


Row = dict[str, Any]
"""An instance, a method or the mesh: values by the titles of columns. None is unknown."""
Formats = dict[str, Callable[[Any], str | Text]]
"""The columns of a table, and how values that are known are shown."""


@attrs.frozen
class View:
    """What a table shows."""

    formats: Formats
    smallest_first: frozenset[str]
    """Columns by which rows are sorted in ascending order, unless it is reversed."""
    hideable: tuple[str, ...]
    """Columns that are hidden on a narrow screen, in this order."""
    make_rows: Callable[[control.Statistics | None, control.Statistics], list[Row]]
    """Makes the rows from two successive reports."""
    make_total_row: Callable[[control.Statistics, Sequence[Row]], Row] | None = None
    """Makes the first row, from the latest report and the other rows; None for no such row."""


_FORMATS: Formats = {
    "NAME": str,
    "STATE": rich_output.make_state_text,
    "PID": str,
    "CALLS/S": formatting.format_rate,
    "FAILED/S": formatting.format_rate,
    "MEDIAN": formatting.format_latency,
    "P99": formatting.format_latency,
    "IN FLIGHT": str,
    "CPU %": formatting.format_percent,
    "MEMORY": formatting.format_size,
    "RESTARTS": str,
    "UPTIME": formatting.format_duration,
}
_SMALLEST_FIRST = frozenset({"NAME", "STATE", "PID"})
_HIDEABLE_COLUMNS = (
    *("RESTARTS", "UPTIME", "MEDIAN", "PID", "FAILED/S", "IN FLIGHT", "MEMORY", "STATE", "P99"),
)


def make_rows(before: control.Statistics | None, now: control.Statistics) -> list[Row]:
    """Make a row for each instance."""
    return [
        {
            "NAME": f"{each.instance.name}/{each.instance.instance}",
            "STATE": each.instance.state,
            "PID": get_optional(each.instance, "pid"),
            "CALLS/S": rates.calls,
            "FAILED/S": rates.failed,
            "MEDIAN": get_optional(each.load, "median"),
            "P99": get_optional(each.load, "p99"),
            "IN FLIGHT": each.load.in_flight if each.HasField("load") else None,
            "CPU %": rates.cpu,
            "MEMORY": get_optional(each, "resident"),
            "RESTARTS": each.instance.restarts,
            "UPTIME": get_optional(each.instance, "uptime"),
        }
        for each, rates in zip(now.instances, compute_rates(before, now), strict=True)
    ]


def get_optional(message: Any, name: str) -> Any:
    """Return a field of a message; None if it is not set."""
    return getattr(message, name) if message.HasField(name) else None


def make_total_row(now: control.Statistics, rows: Sequence[Row]) -> Row:
    """Make the row of the mesh. Percentiles of instances cannot be merged, and are left out."""
    total: Row = {
        **dict.fromkeys(_FORMATS),
        "NAME": "mesh",
        "STATE": f"{sum(row['STATE'] == 'ready' for row in rows)}/{len(rows)} ready",
        "RESTARTS": now.total.counts.restarts,
        "UPTIME": now.uptime,
    }
    for title in ("CALLS/S", "FAILED/S", "IN FLIGHT", "CPU %", "MEMORY"):
        known = [row[title] for row in rows if row[title] is not None]
        total[title] = sum(known) if known else None
    return total


INSTANCE_VIEW = View(_FORMATS, _SMALLEST_FIRST, _HIDEABLE_COLUMNS, make_rows, make_total_row)
"""A row for each instance, and one for the mesh."""


@attrs.define
class SortOrder:
    """The column that rows are sorted by, and whether the order is reversed."""

    view: View = INSTANCE_VIEW
    column: int = 0
    reversed: bool = False

    def move_column(self, by: int) -> None:
        self.column = (self.column + by) % len(self.view.formats)
        self.reversed = False

    def reverse(self) -> None:
        self.reversed = not self.reversed

    @property
    def title(self) -> str:
        return tuple(self.view.formats)[self.column]

    @property
    def is_largest_first(self) -> bool:
        return (self.title in self.view.smallest_first) is self.reversed

    def sort(self, unsorted: list[Row]) -> list[Row]:
        """Sort the rows, with unknown values last."""
        known = [row for row in unsorted if row[self.title] is not None]
        known.sort(key=self._sort_key, reverse=self.is_largest_first)
        return known + [row for row in unsorted if row[self.title] is None]

    def _sort_key(self, row: Row) -> Any:
        """Return a sort key that puts echo/2 before echo/10."""
        value = row[self.title]
        if not isinstance(value, str):
            return value
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", value)]


def make_statistics_table(
    before: control.Statistics | None,
    now: control.Statistics,
    order: SortOrder,
    *,
    max_rows: int | None = None,
    hidden_columns: Container[str] = (),
) -> Table:
    """Make the table of the view that is sorted, with `max_rows` at most and one for the mesh."""
    view = order.view
    formats = {title: show for title, show in view.formats.items() if title not in hidden_columns}
    table = rich_output.make_table(_make_title(title, order) for title in formats)
    found = view.make_rows(before, now)
    totals = [] if view.make_total_row is None else [view.make_total_row(now, found)]
    for number, row in enumerate((*totals, *order.sort(found)[:max_rows])):
        style = "bold" if number < len(totals) else None
        values = ((show, row[title]) for title, show in formats.items())
        table.add_row(*("-" if v is None else show(v) for show, v in values), style=style)
    if max_rows is not None and len(found) > max_rows:
        table.add_row(f"… {len(found) - max_rows} more")
    return table


def make_fitting_statistics_table(
    before: control.Statistics | None, now: control.Statistics, order: SortOrder, console: Console
) -> Table:
    """Make a table that fits the console; the column that it is sorted by is never hidden."""
    max_rows = max(console.size.height - _RESERVED_LINES, 1)
    hideable = [name for name in order.view.hideable if name != order.title]
    unbounded = console.options.update(width=_UNBOUNDED_WIDTH)
    for count in range(len(hideable) + 1):
        table = make_statistics_table(
            before, now, order, max_rows=max_rows, hidden_columns=hideable[:count]
        )
        if Measurement.get(console, unbounded, table).maximum <= console.width:
            break
    return table


def _make_title(title: str, order: SortOrder) -> Text:
    text = Text(title)
    if title == order.title:
        text.append("▼" if order.is_largest_first else "▲")
        text.stylize("reverse")
    return text


# -- rates, computed from two successive reports --


@attrs.frozen
class Rates:
    """Rates of an instance; None if unknown."""

    calls: float | None = None
    """Calls per second."""
    failed: float | None = None
    """Calls per second that ended with a status other than OK."""
    cpu: float | None = None
    """CPU time per second: 1.0 is one busy CPU."""


def compute_rates(before: control.Statistics | None, now: control.Statistics) -> list[Rates]:
    """Return the rates of each instance in `now`; unknown for processes not in `before`."""
    earlier = {} if before is None else {_process_key(each): each for each in before.instances}
    seconds = 0.0 if before is None else now.uptime - before.uptime
    pairs = ((earlier.get(_process_key(each)), each) for each in now.instances)
    return [_compute_instance_rates(old, new, seconds) for old, new in pairs]


def _process_key(found: control.InstanceStatistics) -> tuple[str, int, int]:
    return found.instance.name, found.instance.instance, found.instance.pid


def _compute_instance_rates(
    before: control.InstanceStatistics | None, now: control.InstanceStatistics, seconds: float
) -> Rates:
    if before is None or seconds <= 0:
        return Rates()
    calls = failed = cpu = None
    if before.HasField("load") and now.HasField("load"):
        calls = (now.load.started - before.load.started) / seconds
        failed = (now.load.failed - before.load.failed) / seconds
    if before.HasField("cpu") and now.HasField("cpu"):
        # The sum falls when a child process ends.
        cpu = max(now.cpu - before.cpu, 0.0) / seconds
    return Rates(calls, failed, cpu)
