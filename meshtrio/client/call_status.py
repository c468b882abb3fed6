"""The status that tracers are given for a call or an attempt that ended with an exception."""

from __future__ import annotations

import math

import purerpc
import trio

from meshtrio.grpc.status import CANCELLED, DEADLINE_EXCEEDED, UNKNOWN, CallStatus
from meshtrio.util.errors import unwrap_exception_group


def attempt_status_for(exc: BaseException, deadline: float) -> CallStatus:
    """Return the status of an attempt that an exception ended.

    Args:
        exc: The exception.
        deadline: The attempt's deadline on trio's clock, which tells DEADLINE_EXCEEDED from
            CANCELLED if the attempt was cancelled.
    """
    exc = unwrap_exception_group(exc)
    if isinstance(exc, purerpc.RpcFailedError):
        return exc.status.status_code.value, str(exc.status.status_message)
    if isinstance(exc, Exception):
        return UNKNOWN, f"{type(exc).__name__} was raised"
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
