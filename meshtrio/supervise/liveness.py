"""Liveness: asking a plugin that was ready again and again, until it fails to answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from meshtrio.config import Liveness
from meshtrio.structured import next_beat
from meshtrio.supervise.decisions.vitality import Streak
from meshtrio.supervise.probe import Health
from meshtrio.supervise.vitals import Vitals

_SLACK = 0.1
"""Of the interval, that a check may come late so that many are made together."""


async def watch(
    check: Callable[[float], Awaitable[Health]],
    vitals: Vitals,
    config: Liveness,
    found: Callable[[Health], None],
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
    streak = Streak()
    while True:
        await next_beat(config.interval * _SLACK, after=config.interval)
        health = await check(config.timeout)
        if health.alive:
            vitals.forget()
        else:
            health = await vitals.assess(health, config.timeout)
        found(health)
        streak.note(None if health.alive else health.condition)
        verdict = streak.verdict(config.threshold, config.overload_threshold)
        if verdict:
            return f"{verdict}: {health.reason}"
