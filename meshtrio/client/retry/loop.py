"""The one retry loop of unary, hedged and streaming calls (gRFC A6).

The gateway's `ProxiedCall`, which is driven by callbacks, shares the decision
(`RetryState.next_delay`) but not the loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import purerpc
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.client.call_destination import CallContext
from meshtrio.client.retry.policy import RetryState
from meshtrio.rpc.tracer import RETRY, TRANSPARENT_RETRY

T = TypeVar("T")


async def run_attempts(
    call: CallContext,
    run: Callable[[Attempt], Awaitable[T]],
    first: Attempt | None = None,
    is_replayable: Callable[[], bool] | None = None,
) -> tuple[T, Attempt]:
    """Open attempts until one succeeds, or fails for good.

    `run` sends the request on an attempt and waits for the reply, or for the first of several;
    `first` is an attempt that is open already; `is_replayable` says whether the request can be sent
    again, which by default it can. Returns the result of `run`, and its attempt, which is still to
    be ended; after a failure, and if this is cancelled, it has been.
    """
    attempt = first
    retry_state: RetryState | None = None
    while True:
        if attempt is None:
            attempt = await Attempt.open(call)
        try:
            return await run(attempt), attempt
        except purerpc.RpcFailedError as exc:
            delay = None
            if not attempt.is_committed and (is_replayable is None or is_replayable()):
                if retry_state is None:
                    retry_state = RetryState(call.config.retry_policy, call.channel.retry_control)
                now, deadline = trio.current_time(), trio.current_effective_deadline()
                delay = retry_state.next_delay(exc, attempt.pushback, now, deadline)
            attempt.end()
            if delay is None or retry_state is None:
                raise
            failure = exc
        except BaseException:
            attempt.end()
            raise
        call.attempt_kind = TRANSPARENT_RETRY if retry_state.is_transparent else RETRY
        if call.config.retry_policy is not None:
            call.previous_attempts = retry_state.attempts - 1
        call.pick_args = call.pick_args.excluding(attempt.pick_result.channel_endpoint)
        await trio.sleep(delay)
        if is_replayable is not None and not is_replayable():
            raise failure
        del failure  # Its traceback refers to this frame.
        attempt = None
