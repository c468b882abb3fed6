"""The state machine of a streaming call.

    IDLE --START--> STARTING --OPENED--> OPEN --REPLY--> COMMITTED
                                         |  ^
                                         OPENED, by a retry

`FINISH` leads from any state to FINISHED. Unary calls need no such machine: their states are the
lines of `run_attempts`.
"""

from __future__ import annotations

from enum import Enum


class CallState(Enum):
    """State of a streaming call."""

    IDLE = "idle"
    """Not used yet: nothing was sent or counted."""
    STARTING = "starting"
    """Interceptors are being entered, and the first attempt opened."""
    OPEN = "open"
    """An attempt is under way, and may still be replaced by a retry."""
    COMMITTED = "committed"
    """A reply has arrived: there are no more retries."""
    FINISHED = "finished"
    """The call has ended, by its status or from this side. Final."""


class CallInput(Enum):
    """What changes the state of a streaming call."""

    START = "start"
    OPENED = "opened"
    REPLY = "reply"
    FINISH = "finish"


TRANSITIONS = {
    (CallState.IDLE, CallInput.START): CallState.STARTING,
    (CallState.STARTING, CallInput.OPENED): CallState.OPEN,
    (CallState.OPEN, CallInput.OPENED): CallState.OPEN,  # by a retry
    (CallState.OPEN, CallInput.REPLY): CallState.COMMITTED,
    **{(state, CallInput.FINISH): CallState.FINISHED for state in CallState},
}
"""All others are errors. `FINISH` may be repeated."""
