"""Reports to the mesh that a plugin has no calls: `idle_timeout` of its config."""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshtrio.rpc.stats import LoadRecorder

_CHECKS_PER_IDLE_TIME = 8
"""Number of checks in the time after which a plugin is idle: calls themselves set no timer."""
_MIN_INTERVAL, _MAX_INTERVAL = 0.02, 10.0
"""Minimum and maximum seconds between two checks."""


async def report_idleness(
    recorder: LoadRecorder, idle_timeout: float, report: Callable[[], None]
) -> None:
    """Call `report` whenever there was no call for `idle_timeout` seconds, until cancelled."""
    interval = min(max(idle_timeout / _CHECKS_PER_IDLE_TIME, _MIN_INTERVAL), _MAX_INTERVAL)
    ended, idle_since = recorder.ended, trio.current_time()
    while True:
        await trio.sleep(interval)
        now = trio.current_time()
        if recorder.started != recorder.ended or recorder.ended != ended:
            ended, idle_since = recorder.ended, now
        elif now - idle_since >= idle_timeout:
            report()
            idle_since = now
