"""Liveness: asking a plugin that was ready again and again, until it fails to answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from meshtrio.config import Liveness
from meshtrio.structured import next_beat
from meshtrio.supervise.probe import Health

_SLACK = 0.1
"""Of the interval, that a check may come late so that many are made together."""


async def watch(
    check: Callable[[float], Awaitable[Health]],
    config: Liveness,
    found: Callable[[Health], None],
) -> str:
    """Check until `config.threshold` checks in a row were not answered; gives what to say of it.

    `check` is given the seconds it may take, `found` is called with what each check found. Never
    returns where checks are turned off.
    """
    if not config.interval:
        await trio.sleep_forever()
    failures = 0
    while True:
        await next_beat(config.interval * _SLACK, after=config.interval)
        health = await check(config.timeout)
        found(health)
        failures = 0 if health.alive else failures + 1
        if failures >= config.threshold:
            return f"failed {failures} health checks in a row: {health.reason}"
