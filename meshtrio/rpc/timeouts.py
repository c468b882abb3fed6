"""Timeouts of connections."""

from __future__ import annotations

import math

from meshtrio.util.record import FrozenRecord

CHECK_INTERVAL = 1.0
"""Seconds between two checks of the timeouts."""


class Timeouts(FrozenRecord):
    """Timeouts of a connection, in seconds, checked once a second; infinity disables one."""

    handshake: float = 10.0
    """Maximum time from the start of a connection to the peer's first SETTINGS."""
    frame: float = 20.0
    """Maximum time from the start of a frame or header block to its end."""
    message: float = 60.0
    """Maximum time from the start of a message to its end, while the peer's window is open.

    On a server also the maximum time from the only request of a call to END_STREAM.
    """
    half_close: float = 2.0
    """Maximum time from a server's response to the client's END_STREAM.

    The server then resets the stream (RST_STREAM with NO_ERROR). The slot of the handler is free
    immediately.
    """
    max_connection_idle: float = math.inf
    """Time without a call after which a server drains the connection (GOAWAY)."""
    max_connection_age: float = math.inf
    """Age at which a server drains the connection; calls in progress may finish."""
    keepalive_time: float = math.inf
    """Time without received data after which a keepalive PING is sent."""
    keepalive_timeout: float = 20.0
    """Maximum time from a keepalive PING to received data; the connection is closed after it."""


NETWORK_TIMEOUTS = Timeouts(keepalive_time=20.0, keepalive_timeout=10.0)
"""Timeouts for connections over a network, where a lost host or link is noticed by silence only."""
