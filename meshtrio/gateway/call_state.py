"""The states of a proxied call, and the transitions between them.

                      REFUSED
           +-------------------------+
           v                         |
        PICKING --UPSTREAM_OPENED-> REPLAYABLE --COMMITTED-> COMMITTED
           |                         |      |                 |    |
           |                         |      +-CONNECTION_LOST-+    |
           |                         |               v             |
           |                         |         AWAITING_EXIT       |
           |                         |               |             |
           +------STATUS_QUEUED------+-------+-------+-------------+
                                             v
                                          FLUSHING --FLUSHED-> CLOSED

DOWNSTREAM_RESET leads from every state to CLOSED, DOWNSTREAM_REFUSED from PICKING and COMMITTED.

Two facts are not part of the state: whether the client has half-closed (it may at any time), and
whether response headers went out, which the downstream stream knows.
"""

from __future__ import annotations

from enum import IntEnum


class CallState(IntEnum):
    """State of a proxied call. Integers, as enum members hash slowly."""

    PICKING = 0
    """There is no upstream stream: a task waits for an endpoint. Request data is buffered."""
    REPLAYABLE = 1
    """The upstream stream is open and the request is still buffered: if the upstream refuses the
    call, it is sent to another endpoint."""
    COMMITTED = 2
    """The upstream stream is open, and the request is not buffered any more: response headers came,
    or the buffer was full."""
    AWAITING_EXIT = 3
    """The upstream connection is lost, and a task waits for the exit info of the plugin. Request
    data is discarded."""
    FLUSHING = 4
    """The status is queued, the attempt is over, and the outcome is recorded, but the client has
    not taken all of the response."""
    CLOSED = 5
    """The downstream stream is over and does not hold the call any more."""


class CallEvent(IntEnum):
    """What changes the state of a proxied call."""

    UPSTREAM_OPENED = 0
    """The call was sent to an endpoint."""
    COMMITTED = 1
    """The response began, or the request outgrew the replay buffer."""
    REFUSED = 2
    """The upstream refused the call before processing it."""
    CONNECTION_LOST = 3
    """The upstream connection ended during the call."""
    STATUS_QUEUED = 4
    """The status follows what is buffered for the client."""
    FLUSHED = 5
    """The client has taken the status."""
    DOWNSTREAM_RESET = 6
    """The client cancelled the call or is gone."""
    DOWNSTREAM_REFUSED = 7
    """The gateway ends the call with REFUSED_STREAM, for the client to make it elsewhere."""


_S, _E = CallState, CallEvent
_ACTIVE = _S.PICKING, _S.REPLAYABLE, _S.COMMITTED, _S.AWAITING_EXIT
TRANSITIONS: dict[tuple[CallState, CallEvent], CallState] = {
    (_S.PICKING, _E.UPSTREAM_OPENED): _S.REPLAYABLE,
    (_S.PICKING, _E.DOWNSTREAM_REFUSED): _S.CLOSED,
    (_S.REPLAYABLE, _E.COMMITTED): _S.COMMITTED,
    (_S.REPLAYABLE, _E.REFUSED): _S.PICKING,
    (_S.REPLAYABLE, _E.CONNECTION_LOST): _S.AWAITING_EXIT,
    (_S.COMMITTED, _E.CONNECTION_LOST): _S.AWAITING_EXIT,
    (_S.COMMITTED, _E.DOWNSTREAM_REFUSED): _S.CLOSED,
    **{(state, _E.STATUS_QUEUED): _S.FLUSHING for state in _ACTIVE},
    (_S.FLUSHING, _E.FLUSHED): _S.CLOSED,
    **{(state, _E.DOWNSTREAM_RESET): _S.CLOSED for state in (*_ACTIVE, _S.FLUSHING)},
}
"""The next state for each state and event; a pair that is not listed is a bug (KeyError)."""
