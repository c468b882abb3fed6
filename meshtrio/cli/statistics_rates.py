"""Rates of instances, computed from two successive reports of a mesh. Pure."""

from __future__ import annotations

from collections.abc import Iterable
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
    pid: int | None
    rates: Rates
    median: float | None
    p99: float | None
    in_flight: int | None
    resident: int | None
    restarts: int
    uptime: float | None


def compute_rates(before: control.Statistics | None, now: control.Statistics) -> list[Rates]:
    """Return the rates of each instance in `now`; unknown for processes not in `before`."""
    earlier = {} if before is None else {_process_key(each): each for each in before.instances}
    seconds = 0.0 if before is None else now.uptime - before.uptime
    return [
        _compute_instance_rates(earlier.get(_process_key(each)), each, seconds)
        for each in now.instances
    ]


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
    pairs = zip(now.instances, compute_rates(before, now), strict=True)
    return [_make_row(found, instance_rates) for found, instance_rates in pairs]


def _make_row(found: control.InstanceStatistics, instance_rates: Rates) -> StatisticsRow:
    instance, load = found.instance, found.load
    return StatisticsRow(
        name=f"{instance.name}/{instance.instance}",
        state=instance.state,
        pid=_get_optional(instance, "pid"),
        rates=instance_rates,
        median=_get_optional(load, "median"),
        p99=_get_optional(load, "p99"),
        in_flight=load.in_flight if found.HasField("load") else None,
        resident=_get_optional(found, "resident"),
        restarts=instance.restarts,
        uptime=_get_optional(instance, "uptime"),
    )


def _get_optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def make_total_row(now: control.Statistics, instances: Iterable[StatisticsRow]) -> StatisticsRow:
    """Make the row of the mesh. Percentiles of instances cannot be merged, and are left out."""
    found = list(instances)
    ready = sum(row.state == "ready" for row in found)
    return StatisticsRow(
        name="mesh",
        state=f"{ready}/{len(found)} ready",
        pid=None,
        rates=Rates(
            _sum_known(row.rates.calls for row in found),
            _sum_known(row.rates.failed for row in found),
            _sum_known(row.rates.cpu for row in found),
        ),
        median=None,
        p99=None,
        in_flight=_sum_known(row.in_flight for row in found),
        resident=_sum_known(row.resident for row in found),
        restarts=now.total.counts.restarts,
        uptime=now.uptime,
    )


def _sum_known(values: Iterable[Any]) -> Any:
    """Sum up the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
