"""Rates of instances, computed from two successive reports of a mesh. Pure."""

from __future__ import annotations

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
