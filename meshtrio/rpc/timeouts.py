"""Timeouts of connections."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping

from meshtrio import contract
from meshtrio.util.record import FrozenRecord

_log = logging.getLogger("meshtrio.rpc")

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
    """Age at which a server drains the connection; calls in progress may finish.

    It varies by up to a tenth either way from one connection to another (gRFC A9). A plugin's
    connections from its mesh on a Unix socket have no maximum age: there is no other server that
    they could find.
    """
    max_connection_age_grace: float = math.inf
    """Time from `max_connection_age` on after which calls in progress end with UNAVAILABLE."""
    keepalive_time: float = math.inf
    """Time without received data after which a keepalive PING is sent."""
    keepalive_timeout: float = 20.0
    """Maximum time from a keepalive PING to received data; the connection is closed after it."""


NETWORK_TIMEOUTS = Timeouts(keepalive_time=20.0, keepalive_timeout=10.0)
"""Timeouts for connections over a network, where a lost host or link is noticed by silence only."""


def with_configured_ages(
    timeouts: Timeouts | None, environ: Mapping[str, str] = os.environ
) -> Timeouts | None:
    """Return a plugin's timeouts with the ages of connections that the mesh's config sets.

    An invalid variable, which no mesh sets, is logged and ignored.
    """
    ages = {}
    for name, variable in (
        ("max_connection_age", contract.PLUGIN_MAX_CONNECTION_AGE),
        ("max_connection_age_grace", contract.PLUGIN_MAX_CONNECTION_AGE_GRACE),
    ):
        text = environ.get(variable)
        if text is not None and (seconds := _parse_seconds(variable, text)) is not None:
            ages[name] = seconds
    return (timeouts or Timeouts()).replace(**ages) if ages else timeouts


def _parse_seconds(variable: str, text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if seconds >= 0:
        return seconds
    _log.warning("%s is %r, not a number of seconds; ignoring it", variable, text)
    return None
