"""Hedging: several attempts of a call at once, for those that may be executed twice (gRFC A6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import purerpc
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.client.call_destination import CallDestination, PickArgs
from meshtrio.client.retry.policy import MAX_ATTEMPTS, Pushback
from meshtrio.grpc.retry_policy import HedgingPolicy
from meshtrio.util.concurrency import open_collapsing_nursery

AttemptFunction = Callable[
    [int, PickArgs, Callable[[Attempt], None]], Awaitable[tuple[Any, Attempt]]
]
"""Makes one attempt, given the number of those before it, what it wishes for, and who is to know
once it has an endpoint."""


async def call_hedged(
    channel: CallDestination, policy: HedgingPolicy, attempt: AttemptFunction, pick_args: PickArgs
) -> tuple[Any, Attempt]:
    """Give the first reply; the other attempts are cancelled. All of them have the one `wish`.

    Raises the failure that is final, or the last one. When cancelled, all attempts are.
    """
    race = _HedgedCall(channel, policy, attempt, pick_args)
    async with open_collapsing_nursery() as nursery:
        nursery.start_soon(race.run, nursery)
        await race.done.wait()
        nursery.cancel_scope.cancel()
    if race.reply is not None:
        return race.reply
    assert race.failure is not None
    raise race.failure


class _HedgedCall:
    def __init__(
        self,
        channel: CallDestination,
        policy: HedgingPolicy,
        attempt: AttemptFunction,
        pick_args: PickArgs,
    ) -> None:
        self.done = trio.Event()
        self.reply: tuple[Any, Attempt] | None = None
        self.failure: Exception | None = None
        self._channel = channel
        self._policy = policy
        self._attempt = attempt
        self._running_attempts = 0
        self._next_attempt_at = 0.0
        self._schedule_changed = trio.Event()
        """Of when the next attempt is made, or whether there is one."""
        self._is_closed = False
        """No further attempt is started."""
        self._pick_args = pick_args
        """It avoids the endpoints that have an attempt."""

    async def run(self, nursery: trio.Nursery) -> None:
        for number in range(min(self._policy.max_attempts, MAX_ATTEMPTS)):
            if number:
                await self._wait_until_next()
                if self._is_closed or not self._can_hedge():
                    break
            self._next_attempt_at = trio.current_time() + self._policy.hedging_delay
            self._running_attempts += 1
            nursery.start_soon(self._run_attempt, number)
        self._is_closed = True
        self._finish_if_idle()

    async def _wait_until_next(self) -> None:
        while trio.current_time() < self._next_attempt_at and not self._is_closed:
            self._schedule_changed = trio.Event()
            with trio.move_on_at(self._next_attempt_at):
                await self._schedule_changed.wait()

    def _can_hedge(self) -> bool:
        throttle = self._channel.retry_throttle
        return (throttle is None or throttle.can_retry) and self._channel.withdraw_retry_budget()

    async def _run_attempt(self, number: int) -> None:
        opened: list[Attempt] = []

        def note(attempt: Attempt) -> None:
            opened.append(attempt)
            self._pick_args = self._pick_args.excluding(attempt.pick_result.channel_endpoint)

        try:
            self.reply = await self._attempt(number, self._pick_args, note)
            if self._channel.retry_throttle is not None:
                self._channel.retry_throttle.on_success()
            self.done.set()
        except purerpc.RpcFailedError as exc:
            self._on_failure(exc, opened[-1].pushback if opened else Pushback.ABSENT)
        finally:
            self._running_attempts -= 1
        self._finish_if_idle()

    def _on_failure(self, failure: purerpc.RpcFailedError, pushback: float | Pushback) -> None:
        self.failure = failure
        non_fatal = failure.status.status_code.value in self._policy.non_fatal_codes
        if self._channel.retry_throttle is not None and (
            non_fatal or pushback is Pushback.DO_NOT_RETRY
        ):
            self._channel.retry_throttle.on_failure()
        if not non_fatal:
            self.done.set()
        elif pushback is Pushback.DO_NOT_RETRY:
            self._is_closed = True
        else:
            wait = pushback if isinstance(pushback, float) else 0.0
            self._next_attempt_at = trio.current_time() + wait
        self._schedule_changed.set()

    def _finish_if_idle(self) -> None:
        if self._is_closed and not self._running_attempts:
            self.done.set()
