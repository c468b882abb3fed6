"""Rates of instances, computed from two successive reports of a mesh. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from meshtrio.messages import control


@attrs.frozen
class Rates:
    """Rates of an instance; None if unknown."""

    calls: float | None = None
    """Calls per second."""
    failed: float | None = None
    """Calls per second that ended with a status other than OK."""
    cpu: float | None = None
    """CPU time per second: 1.0 is one busy CPU."""


@attrs.frozen
class StatisticsRow:
    """A row of the table: an instance, or the mesh as a whole. None is an unknown value."""

    name: str
    state: str
    rates: Rates
    in_flight: int | None
    resident: int | None
    restarts: int
    uptime: float | None
    pid: int | None = None
    median: float | None = None
    p99: float | None = None


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


def make_rows(before: control.Statistics | None, now: control.Statistics) -> list[StatisticsRow]:
    """Make a row for each instance."""
    return [
        StatisticsRow(
            name=f"{each.instance.name}/{each.instance.instance}",
            state=each.instance.state,
            pid=_get_optional(each.instance, "pid"),
            rates=rates,
            median=_get_optional(each.load, "median"),
            p99=_get_optional(each.load, "p99"),
            in_flight=each.load.in_flight if each.HasField("load") else None,
            resident=_get_optional(each, "resident"),
            restarts=each.instance.restarts,
            uptime=_get_optional(each.instance, "uptime"),
        )
        for each, rates in zip(now.instances, compute_rates(before, now), strict=True)
    ]


def _get_optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def make_total_row(now: control.Statistics, rows: Sequence[StatisticsRow]) -> StatisticsRow:
    """Make the row of the mesh. Percentiles of instances cannot be merged, and are left out."""
    ready = sum(row.state == "ready" for row in rows)
    rates = [(row.rates.calls, row.rates.failed, row.rates.cpu) for row in rows]
    return StatisticsRow(
        name="mesh",
        state=f"{ready}/{len(rows)} ready",
        rates=Rates(*map(_sum_known, zip(*rates, strict=True))),
        in_flight=_sum_known(row.in_flight for row in rows),
        resident=_sum_known(row.resident for row in rows),
        restarts=now.total.counts.restarts,
        uptime=now.uptime,
    )


def _sum_known(values: Iterable[Any]) -> Any:
    """Sum up the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
