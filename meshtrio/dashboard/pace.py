"""How fast events, lines and calls are sent to viewers."""

from __future__ import annotations

import trio

from meshtrio.util.token_bucket import TokenBucket

_MAX_RATE, _BURST = 500.0, 2500.0
"""Messages per second of one stream of a viewer, and at once. A page cannot show more."""
_TOTAL_RATE, _TOTAL_BURST = 2500.0, 10000.0
"""Lines and calls per second of all viewers. Each takes about 0.1 ms of CPU time."""
_CHECK_INTERVAL = 0.02


class TotalPace:
    """The rate of all viewers together; those that wait for it have their turns in order."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(_TOTAL_BURST, _TOTAL_RATE)
        self._queue = trio.Lock()

    async def wait(self) -> None:
        """Wait until another message may be sent."""
        if not self._queue.locked() and self._bucket.try_acquire(trio.current_time()):
            return
        async with self._queue:
            await _wait_for_token(self._bucket)


class Pace:
    """The rate of one stream for one viewer."""

    def __init__(self, total: TotalPace | None) -> None:
        """Initialize. `total` is None for what is rare, and must not wait for what is not."""
        self._bucket = TokenBucket(_BURST, _MAX_RATE)
        self._total = total

    async def wait(self) -> None:
        """Wait until another message may be sent."""
        await _wait_for_token(self._bucket)
        if self._total is not None:
            await self._total.wait()


async def _wait_for_token(bucket: TokenBucket) -> None:
    while not bucket.try_acquire(trio.current_time()):  # noqa: ASYNC110 - time passes
        await trio.sleep(_CHECK_INTERVAL)
