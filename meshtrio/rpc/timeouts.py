"""How long a connection may take over things, and how its peer's life is told."""

from __future__ import annotations

import math

import attrs


@attrs.frozen
class Timeouts:
    """All in seconds; infinite means never. They are looked after once a second."""

    handshake: float = 10.0
    """From the start of a connection to the peer's first SETTINGS."""
    frame: float = 20.0
    """To finish a frame or a header block once it was begun."""
    message: float = 60.0
    """To finish a message once it was begun, while the peer's window is open; and for a client, to
    end its side (END_STREAM) of a call with one request once that has come."""
    half_close: float = 2.0
    """For a client to end its side of a call that is answered already, before the server resets
    the stream (RST_STREAM with NO_ERROR). The handler's place is free at once."""
    max_connection_idle: float = math.inf
    """Without a call, after which a server sends the client elsewhere (GOAWAY)."""
    max_connection_age: float = math.inf
    """After which a server sends the client elsewhere; calls under way may finish."""
    keepalive_time: float = math.inf
    """Of silence, after which the peer is asked for a sign of life (PING)."""
    keepalive_timeout: float = 20.0
    """For that sign; without it the connection counts as lost."""

    @property
    def is_keepalive_enabled(self) -> bool:
        return self.keepalive_time != math.inf


NETWORK_TIMEOUTS = Timeouts(keepalive_time=20.0, keepalive_timeout=10.0)
"""There a host that is gone, or a link that is cut, says nothing."""
