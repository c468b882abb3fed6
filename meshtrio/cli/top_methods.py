"""The table of `meshtrio top --methods`: a row for each method."""

from __future__ import annotations

from meshtrio.cli import formatting
from meshtrio.cli.top_table import Formats, Row, View, get_optional
from meshtrio.messages import control

_FORMATS: Formats = {
    "NAME": str,
    "METHOD": str,
    "CALLS/S": formatting.format_rate,
    "FAILED/S": formatting.format_rate,
    "P50": formatting.format_latency,
    "P95": formatting.format_latency,
    "P99": formatting.format_latency,
    "IN FLIGHT": str,
    "FAILURES": str,
}


def compute_method_rates(row: control.MethodStatistics, interval: float) -> dict[str, float]:
    """Return the calls per second that have started, and those that have failed."""
    failed = sum(count for status, count in row.ended.items() if status != "OK")
    return {"calls": row.started / interval, "failed": failed / interval}


def _make_rows(_before: control.Statistics | None, now: control.Statistics) -> list[Row]:
    """Make the rows of plugins, then those of the gateway."""
    named = [(each, each.plugin) for each in now.methods]
    named += [(each, f"gateway: {each.target or '-'}") for each in now.gateway]
    return [_make_row(each, name, now.interval) for each, name in named]


def _make_row(found: control.MethodStatistics, name: str, interval: float) -> Row:
    rates = compute_method_rates(found, interval)
    failures = sorted(each for each in found.ended.items() if each[0] != "OK")
    return {
        "NAME": name,
        "METHOD": "/".join(filter(None, (found.service, found.method))),
        "CALLS/S": rates["calls"],
        "FAILED/S": rates["failed"],
        "P50": get_optional(found, "p50"),
        "P95": get_optional(found, "p95"),
        "P99": get_optional(found, "p99"),
        "IN FLIGHT": found.in_flight,
        "FAILURES": ", ".join(f"{count} {status}" for status, count in failures) or None,
    }


METHOD_VIEW = View(
    _FORMATS,
    smallest_first=frozenset({"NAME", "METHOD", "FAILURES"}),
    hideable=("P50", "P95", "FAILED/S", "IN FLIGHT", "FAILURES", "P99"),
    make_rows=_make_rows,
)
"""A row for each method of a plugin, and one for each method that the gateway has calls of."""
