"""Flow control windows, RFC 9113 §5.2 and §6.9.

The connection's receive window is restored as DATA arrives, so that one stream which is not read
cannot stop the others. A stream's receive window is restored by its reader
(`H2Connection.set_receive_window`), so that a stream which is not read stops its own sender.
"""

from __future__ import annotations

import attrs

from meshtrio.http2.errors import ErrorCode, RemoteProtocolError
from meshtrio.http2.frames import DEFAULT_INITIAL_WINDOW_SIZE, MAX_WINDOW_SIZE


@attrs.define(eq=False)
class ConnectionWindows:
    """The two flow control windows of a connection, in bytes."""

    _full_receive: int
    send: int = DEFAULT_INITIAL_WINDOW_SIZE
    """Number of bytes of DATA that may be sent."""
    receive: int = attrs.field(init=False)
    """Number of bytes of DATA that the peer may send."""

    def __attrs_post_init__(self) -> None:
        self.receive = self._full_receive

    def consume_received(self, size: int) -> int:
        """Count received DATA, and restore the window once half of it is used.

        Returns the increment for WINDOW_UPDATE, 0 for none. Raises RemoteProtocolError.
        """
        self.receive -= size
        if self.receive < 0:
            reason = "more DATA than the connection's window"
            raise RemoteProtocolError(reason, ErrorCode.FLOW_CONTROL_ERROR)
        if self.receive * 2 > self._full_receive:
            return 0
        increment = self._full_receive - self.receive
        self.receive = self._full_receive
        return increment

    def increase_send(self, increment: int) -> None:
        """Apply WINDOW_UPDATE for the connection. Raises RemoteProtocolError."""
        if not increment:
            raise RemoteProtocolError("WINDOW_UPDATE of zero")
        self.send += increment
        if self.send > MAX_WINDOW_SIZE:
            raise RemoteProtocolError("the window overflows", ErrorCode.FLOW_CONTROL_ERROR)
