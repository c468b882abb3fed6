"""What the attempts of one call share, and the statuses that its tracers are given."""

from __future__ import annotations

import math

import attrs
import purerpc
import trio

from meshtrio.client.call_destination import CallDestination, CallOptions, PickArgs
from meshtrio.grpc.retry_policy import RetryPolicy
from meshtrio.grpc.status import CANCELLED, DEADLINE_EXCEEDED, UNKNOWN, CallStatus
from meshtrio.http2.hpack.encoder import HeaderBlock
from meshtrio.rpc.message_limits import MessageLimits
from meshtrio.rpc.method import Method
from meshtrio.rpc.tracer import ORIGINAL, AttemptKind, ClientCallTracer
from meshtrio.util.errors import unwrap_exception_group


@attrs.define(eq=False, repr=False)
class CallContext:
    """What `Attempt.open` needs, and what the retry loop changes between attempts."""

    channel: CallDestination
    method: Method
    method_headers: HeaderBlock
    options: CallOptions
    message_limits: MessageLimits | None
    """Limits of the call's messages; None for those of the connection."""
    tracer: ClientCallTracer | None
    retry_policy: RetryPolicy | None
    pick_args: PickArgs
    attempt_kind: AttemptKind = ORIGINAL
    previous_attempts: int = 0
    """Value of `grpc-previous-rpc-attempts`; transparent retries do not count."""


def make_timeout_error(seconds: float | None) -> purerpc.DeadlineExceededError:
    """Make the error of a call that took longer than its method config allows."""
    return purerpc.DeadlineExceededError(f"the service config's timeout of {seconds:g} s passed")


def attempt_status_for(exc: BaseException, deadline: float) -> CallStatus:
    """Return the status of an attempt that an exception ended.

    The deadline, on trio's clock, tells DEADLINE_EXCEEDED from CANCELLED if it was cancelled.
    """
    exc = unwrap_exception_group(exc)
    if isinstance(exc, purerpc.RpcFailedError):
        return exc.status.status_code.value, str(exc.status.status_message)
    if isinstance(exc, Exception):
        return UNKNOWN, f"{type(exc).__name__} was raised"
    return cancellation_status(deadline)


def cancellation_status(deadline: float) -> CallStatus:
    """Return the status of an attempt that its caller, or its deadline, cancelled."""
    if trio.current_time() >= deadline:
        return DEADLINE_EXCEEDED, "the caller's deadline passed"
    return CANCELLED, "the caller cancelled the call"


def call_status_for(exc: BaseException) -> CallStatus | None:
    """Return the status of a call that an exception ended; None if the caller cancelled it.

    For a cancelled call the last attempt knows whether its deadline had passed, see
    `ClientCallTracer.call_ended`.
    """
    exc = unwrap_exception_group(exc)
    return None if isinstance(exc, trio.Cancelled) else attempt_status_for(exc, math.inf)
