"""Hedging: several attempts of a call at once, for those that may be executed twice (gRFC A6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import purerpc
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.client.picker import Picker, Wish
from meshtrio.policies.retry import MOST_ATTEMPTS, HedgingPolicy, Pushback
from meshtrio.structured import open_nursery_of_one

Try = Callable[[int, Wish, Callable[[Attempt], None]], Awaitable[tuple[Any, Attempt]]]
"""Makes one attempt, given the number of those before it, what it wishes for, and who is to know
once it has an endpoint."""


async def hedged(
    picker: Picker, policy: HedgingPolicy, attempt: Try, wish: Wish
) -> tuple[Any, Attempt]:
    """Give the first reply; the other attempts are cancelled. All of them have the one `wish`.

    Raises the failure that is final, or the last one. When cancelled, all attempts are.
    """
    race = _Race(picker, policy, attempt, wish)
    async with open_nursery_of_one() as nursery:
        nursery.start_soon(race.run, nursery)
        await race.over.wait()
        nursery.cancel_scope.cancel()
    if race.reply is not None:
        return race.reply
    assert race.failure is not None
    raise race.failure


class _Race:
    def __init__(self, picker: Picker, policy: HedgingPolicy, attempt: Try, wish: Wish) -> None:
        self.over = trio.Event()
        self.reply: tuple[Any, Attempt] | None = None
        self.failure: Exception | None = None
        self._picker = picker
        self._policy = policy
        self._attempt = attempt
        self._running = 0
        self._next_at = 0.0
        self._changed = trio.Event()
        """Of when the next attempt is made, or whether there is one."""
        self._closed = False
        """No further attempt is started."""
        self._wish = wish
        """It avoids the endpoints that have an attempt."""

    async def run(self, nursery: trio.Nursery) -> None:
        for number in range(min(self._policy.max_attempts, MOST_ATTEMPTS)):
            if number:
                await self._until_next()
                if self._closed or not self._may_hedge():
                    break
            self._next_at = trio.current_time() + self._policy.delay
            self._running += 1
            nursery.start_soon(self._run_one, number)
        self._closed = True
        self._finish_if_none_is_left()

    async def _until_next(self) -> None:
        while trio.current_time() < self._next_at and not self._closed:
            self._changed = trio.Event()
            with trio.move_on_at(self._next_at):
                await self._changed.wait()

    def _may_hedge(self) -> bool:
        throttle = self._picker.throttle
        return (throttle is None or throttle.allows) and self._picker.may_retry()

    async def _run_one(self, number: int) -> None:
        opened: list[Attempt] = []

        def note(attempt: Attempt) -> None:
            opened.append(attempt)
            self._wish = self._wish.elsewhere_than(attempt.target.source)

        try:
            self.reply = await self._attempt(number, self._wish, note)
            if self._picker.throttle is not None:
                self._picker.throttle.succeeded()
            self.over.set()
        except purerpc.RpcFailedError as exc:
            self._take_failure(exc, opened[-1].pushback if opened else Pushback.NONE)
        finally:
            self._running -= 1
        self._finish_if_none_is_left()

    def _take_failure(self, failure: purerpc.RpcFailedError, pushback: float | Pushback) -> None:
        self.failure = failure
        non_fatal = failure.status.status_code.value in self._policy.non_fatal
        if self._picker.throttle is not None and (non_fatal or pushback is Pushback.NEVER):
            self._picker.throttle.failed()
        if not non_fatal:
            self.over.set()
        elif pushback is Pushback.NEVER:
            self._closed = True
        else:
            wait = pushback if isinstance(pushback, float) else 0.0
            self._next_at = trio.current_time() + wait
        self._changed.set()

    def _finish_if_none_is_left(self) -> None:
        if self._closed and not self._running:
            self.over.set()
