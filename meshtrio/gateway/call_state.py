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
RESPONSE_SENT leads from REPLAYABLE and COMMITTED to CLOSED, instead of STATUS_QUEUED and FLUSHED.

Two facts are not part of the state: whether the client has half-closed (it may at any time), and
whether response headers went out, which the downstream stream knows.
"""

from __future__ import annotations

from collections.abc import Mapping
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


CallEvent = Mapping[CallState, CallState]
"""What changes the state of a proxied call: the next state by the current one.

A state that is not listed is a bug (KeyError).
"""

_S = CallState
_ACTIVE = _S.PICKING, _S.REPLAYABLE, _S.COMMITTED, _S.AWAITING_EXIT
ON_UPSTREAM_OPENED: CallEvent = {_S.PICKING: _S.REPLAYABLE}
"""The call was sent to an endpoint."""
ON_COMMITTED: CallEvent = {_S.REPLAYABLE: _S.COMMITTED}
"""The response began, or the request outgrew the replay buffer."""
ON_REFUSED: CallEvent = {_S.REPLAYABLE: _S.PICKING}
"""The upstream refused the call before processing it."""
ON_CONNECTION_LOST: CallEvent = dict.fromkeys((_S.REPLAYABLE, _S.COMMITTED), _S.AWAITING_EXIT)
"""The upstream connection ended during the call."""
ON_STATUS_QUEUED: CallEvent = dict.fromkeys(_ACTIVE, _S.FLUSHING)
"""The status follows what is buffered for the client."""
ON_FLUSHED: CallEvent = {_S.FLUSHING: _S.CLOSED}
"""The client has taken the status."""
ON_RESPONSE_SENT: CallEvent = dict.fromkeys((_S.REPLAYABLE, _S.COMMITTED), _S.CLOSED)
"""The whole response was sent at once, as its headers, DATA and status came in one read."""
ON_DOWNSTREAM_RESET: CallEvent = dict.fromkeys((*_ACTIVE, _S.FLUSHING), _S.CLOSED)
"""The client cancelled the call or is gone."""
ON_DOWNSTREAM_REFUSED: CallEvent = dict.fromkeys((_S.PICKING, _S.COMMITTED), _S.CLOSED)
"""The gateway ends the call with REFUSED_STREAM, for the client to make it elsewhere."""
