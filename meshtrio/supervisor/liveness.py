"""Liveness: asking a plugin that was ready again and again, until it fails to answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from meshtrio.config import Liveness
from meshtrio.supervisor.policy.diagnosis import FailureStreak
from meshtrio.supervisor.probe import HealthCheckResult
from meshtrio.supervisor.process_observer import ProcessObserver
from meshtrio.util.concurrency import sleep_until_tick

_INTERVAL_SLACK = 0.1
"""Of the interval, that a check may come late so that many are made together."""


async def run_liveness_checks(
    check: Callable[[float], Awaitable[HealthCheckResult]],
    observer: ProcessObserver,
    config: Liveness,
    on_result: Callable[[HealthCheckResult], None],
) -> str:
    """Check until the process has to be killed.

    Args:
        check: Asks once; is given the seconds that the answer may take.
        vitals: Tells why a check failed.
        config: How often to check, and how many checks in a row may fail.
        found: Is called with what each check found.

    Returns:
        Why it has to be killed, as a phrase. Never returns if checks are turned off.
    """
    if not config.interval:
        await trio.sleep_forever()
    streak = FailureStreak()
    while True:
        await sleep_until_tick(config.interval * _INTERVAL_SLACK, min_delay=config.interval)
        health = await check(config.timeout)
        if health.is_alive:
            observer.reset()
        else:
            health = await observer.diagnose(health, config.timeout)
        on_result(health)
        streak.record(None if health.is_alive else health.condition)
        verdict = streak.find_kill_reason(config.failure_threshold, config.overload_threshold)
        if verdict:
            return f"{verdict}: {health.reason}"
