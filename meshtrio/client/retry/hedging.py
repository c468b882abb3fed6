"""Hedging: concurrent attempts of a call that may be executed more than once (gRFC A6)."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.client.call_destination import CallContext
from meshtrio.client.channel_endpoint import PickArgs
from meshtrio.client.retry.loop import run_attempts
from meshtrio.client.retry.policy import DO_NOT_RETRY, MAX_ATTEMPTS
from meshtrio.grpc.service_config import HedgingPolicy, MethodConfig
from meshtrio.rpc.tracer import HEDGE, ORIGINAL
from meshtrio.util.concurrency import open_collapsing_nursery


async def call_hedged(
    call: CallContext, policy: HedgingPolicy, exchange: Callable[[Attempt], Awaitable[Any]]
) -> tuple[Any, Attempt]:
    """Make attempts as the policy says, until one succeeds; the others are cancelled.

    Returns the first reply, and its attempt, which is still to be ended. Raises the first fatal
    failure, or the last one.
    """
    hedged = _HedgedCall(call, policy, exchange, call.pick_args)
    try:
        async with open_collapsing_nursery() as nursery:
            await hedged.run(nursery)
    except BaseException:
        if hedged.result is not None:
            hedged.result[1].end()
        raise
    if hedged.result is not None:
        return hedged.result
    assert hedged.failure is not None
    raise hedged.failure


@attrs.define(eq=False, repr=False)
class _HedgedCall:
    _call: CallContext
    _policy: HedgingPolicy
    _exchange: Callable[[Attempt], Awaitable[Any]]
    _pick_args: PickArgs
    """Excludes the endpoints of all attempts so far."""
    result: tuple[Any, Attempt] | None = None
    failure: Exception | None = None
    _next_attempt_at: float = 0.0
    _schedule_changed: trio.Event = attrs.field(factory=trio.Event)
    """Set when `_next_attempt_at` or `_is_closed` changes."""
    _is_closed: bool = False
    """Whether no further attempt is started."""

    async def run(self, nursery: trio.Nursery) -> None:
        """Start attempts in `nursery`, which is cancelled as soon as the outcome is known."""
        for number in range(min(self._policy.max_attempts, MAX_ATTEMPTS)):
            if number:
                await self._wait_until_next()
                if self._is_closed or not self._can_hedge():
                    break
            self._next_attempt_at = trio.current_time() + self._policy.hedging_delay
            nursery.start_soon(self._run_attempt, number, nursery.cancel_scope)

    async def _wait_until_next(self) -> None:
        while trio.current_time() < self._next_attempt_at and not self._is_closed:
            self._schedule_changed = trio.Event()
            with trio.move_on_at(self._next_attempt_at):
                await self._schedule_changed.wait()

    def _can_hedge(self) -> bool:
        control = self._call.channel.retry_control
        can_retry = control.throttle is None or control.throttle.can_retry
        return can_retry and control.budget.withdraw(trio.current_time())

    async def _run_attempt(self, number: int, scope: trio.CancelScope) -> None:
        """Make one hedge, with transparent retries only: its failures are subject to the policy."""
        opened: list[Attempt] = []

        async def exchange(attempt: Attempt) -> Any:
            opened.append(attempt)
            self._pick_args = self._pick_args.excluding(attempt.pick_result.channel_endpoint)
            return await self._exchange(attempt)

        hedge = copy.copy(self._call)
        hedge.config, hedge.pick_args = MethodConfig(), self._pick_args
        hedge.attempt_kind = HEDGE if number else ORIGINAL
        hedge.previous_attempts = number
        try:
            result = await run_attempts(hedge, exchange)
            if self.result is None:
                self.result = result
            else:
                result[1].end()
            scope.cancel()
        except purerpc.RpcFailedError as exc:
            if self._on_failure(exc, opened[-1].pushback if opened else None):
                scope.cancel()

    def _on_failure(self, failure: purerpc.RpcFailedError, pushback: float | None) -> bool:
        """Follow the policy after a failure; return whether it is fatal."""
        self.failure = failure
        is_fatal = failure.status.status_code.value not in self._policy.non_fatal_codes
        throttle = self._call.channel.retry_control.throttle
        if throttle is not None and (not is_fatal or pushback == DO_NOT_RETRY):
            throttle.on_failure()
        if is_fatal or pushback == DO_NOT_RETRY:
            self._is_closed = True
        else:
            self._next_attempt_at = trio.current_time() + (pushback or 0.0)
        self._schedule_changed.set()
        return is_fatal
