"""What instances do each second: the differences between two reports of a mesh. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from meshtrio.messages import control


@attrs.frozen
class Rates:
    """Each second; `cpu` is in CPUs that are kept busy."""

    calls: float | None = None
    failed: float | None = None
    cpu: float | None = None


@attrs.frozen
class Row:
    """An instance, or all of them; None for what is not known."""

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


def rates(before: control.Statistics | None, now: control.Statistics) -> list[Rates]:
    """Of each instance in `now`. None is known of a process that was not there before."""
    earlier = {} if before is None else {_life(each): each for each in before.instances}
    seconds = 0.0 if before is None else now.uptime - before.uptime
    return [_rates(earlier.get(_life(each)), each, seconds) for each in now.instances]


def _life(found: control.InstanceStatistics) -> tuple[str, int, int]:
    return found.instance.name, found.instance.instance, found.instance.pid


def _rates(
    before: control.InstanceStatistics | None, now: control.InstanceStatistics, seconds: float
) -> Rates:
    if before is None or seconds <= 0:
        return Rates()
    calls = failed = cpu = None
    if before.HasField("load") and now.HasField("load"):
        calls = (now.load.started - before.load.started) / seconds
        failed = (now.load.failed - before.load.failed) / seconds
    if before.HasField("cpu") and now.HasField("cpu"):
        # What a child had used is gone from the sum with it.
        cpu = max(now.cpu - before.cpu, 0.0) / seconds
    return Rates(calls, failed, cpu)


def rows(before: control.Statistics | None, now: control.Statistics) -> list[Row]:
    """A row for each instance."""
    pairs = zip(now.instances, rates(before, now), strict=True)
    return [_row(found, its_rates) for found, its_rates in pairs]


def _row(found: control.InstanceStatistics, its_rates: Rates) -> Row:
    instance, load = found.instance, found.load
    return Row(
        name=f"{instance.name}/{instance.instance}",
        state=instance.state,
        pid=_optional(instance, "pid"),
        rates=its_rates,
        median=_optional(load, "median"),
        p99=_optional(load, "p99"),
        in_flight=load.in_flight if found.HasField("load") else None,
        resident=_optional(found, "resident"),
        restarts=instance.restarts,
        uptime=_optional(instance, "uptime"),
    )


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def total(now: control.Statistics, instances: Iterable[Row]) -> Row:
    """The mesh as a whole. A median or a 99th percentile of several cannot be told."""
    found = list(instances)
    ready = sum(row.state == "ready" for row in found)
    return Row(
        name="mesh",
        state=f"{ready}/{len(found)} ready",
        pid=None,
        rates=Rates(
            _sum(row.rates.calls for row in found),
            _sum(row.rates.failed for row in found),
            _sum(row.rates.cpu for row in found),
        ),
        median=None,
        p99=None,
        in_flight=_sum(row.in_flight for row in found),
        resident=_sum(row.resident for row in found),
        restarts=now.total.counts.restarts,
        uptime=now.uptime,
    )


def _sum(values: Iterable[Any]) -> Any:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
