"""The parts of a call that all of its attempts share."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import purerpc
import trio

from meshtrio.client.call_destination import (
    DEFAULT_PICK_ARGS,
    CallDestination,
    CallOptions,
    PickArgs,
)
from meshtrio.grpc.retry_policy import RetryPolicy
from meshtrio.grpc.service_config import MethodConfig
from meshtrio.http2.hpack.encoder import HeaderBlock
from meshtrio.rpc.composite_tracer import start_attempt_tracer
from meshtrio.rpc.message_limits import MessageLimits
from meshtrio.rpc.method import Method
from meshtrio.rpc.tracer import ORIGINAL, AttemptKind, AttemptTracer, ClientCallTracer

_PICK_ARGS = {
    None: DEFAULT_PICK_ARGS,
    True: PickArgs(wait_for_ready=True),
    False: PickArgs(wait_for_ready=False),
}


class CallContext:
    """What `Attempt.open` needs, and what the retry loop changes between attempts."""

    __slots__ = (
        "attempt_kind",
        "channel",
        "message_limits",
        "method",
        "method_headers",
        "options",
        "pick_args",
        "previous_attempts",
        "retry_policy",
        "tracer",
    )

    def __init__(
        self,
        channel: CallDestination,
        method: Method,
        method_headers: HeaderBlock,
        options: CallOptions,
        message_limits: MessageLimits | None,
        tracer: ClientCallTracer | None,
        retry_policy: RetryPolicy | None,
        pick_args: PickArgs,
        attempt_kind: AttemptKind = ORIGINAL,
        previous_attempts: int = 0,
    ) -> None:
        self.channel = channel
        self.method = method
        self.method_headers = method_headers
        self.options = options
        self.message_limits = message_limits
        """Limits of the call's messages; None for those of the connection."""
        self.tracer = tracer
        self.retry_policy = retry_policy
        self.pick_args = pick_args
        self.attempt_kind = attempt_kind
        self.previous_attempts = previous_attempts
        """Value of `grpc-previous-rpc-attempts`; transparent retries do not count."""

    def start_attempt_tracer(self) -> AttemptTracer:
        """Report the start of an attempt to the call's tracer."""
        assert self.tracer is not None
        return start_attempt_tracer(self.tracer, self.attempt_kind, self.previous_attempts)


def make_pick_args(options: CallOptions, method_config: MethodConfig) -> PickArgs:
    """Resolve `wait_for_ready`: the caller's option overrides the service config."""
    return _PICK_ARGS[
        method_config.wait_for_ready if options.wait_for_ready is None else options.wait_for_ready
    ]


@asynccontextmanager
async def timeout_scope(seconds: float | None) -> AsyncIterator[None]:
    """Limit a call to the `timeout` of its method config.

    Raises:
        DeadlineExceededError: The time has passed.
    """
    with trio.move_on_after(math.inf if seconds is None else seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise make_timeout_error(seconds)


def make_timeout_error(seconds: float | None) -> purerpc.DeadlineExceededError:
    """Make the error of a call that took longer than its method config allows."""
    return purerpc.DeadlineExceededError(f"the service config's timeout of {seconds:g} s passed")
