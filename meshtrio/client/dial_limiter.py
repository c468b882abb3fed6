"""Limits the attempts to connect of a process.

A registry may list any number of endpoints that nothing listens at. Each costs its clients an
attempt to connect again and again, so attempts for endpoints that programs or the config have
registered are limited: those under way, and the rate of repeated ones. Each registrar has limits of
its own, so that its endpoints do not delay those of others. Endpoints that the mesh runs, and
addresses that a channel was opened to, are not limited: their number is configured.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import AbstractAsyncContextManager, nullcontext

import trio

from meshtrio.discovery.endpoint import Endpoint

_MAX_LOCAL_ATTEMPTS = 16
"""Concurrent attempts on Unix sockets, which take no time unless a backlog is full."""
_MAX_REMOTE_ATTEMPTS = 64
"""Concurrent attempts across a network."""
_RETRY_RATE = 100.0
"""Repeated attempts per second, each of which costs about 0.15 ms of a core."""
_RETRY_BURST = 100
"""Repeated attempts that may be made at once."""


class _RegistrarLimits:
    """Limits for the endpoints that one user has registered."""

    def __init__(self) -> None:
        self.local = trio.CapacityLimiter(_MAX_LOCAL_ATTEMPTS)
        self.remote = trio.CapacityLimiter(_MAX_REMOTE_ATTEMPTS)
        self.next_retry = 0.0


class DialLimiter:
    """Limits all subchannels of a pool."""

    def __init__(self) -> None:
        self._limits: defaultdict[int | None, _RegistrarLimits] = defaultdict(_RegistrarLimits)
        """Limits by uid of the registrar; None for the mesh's own user and its config."""

    def slot(self, endpoint: Endpoint, *, local: bool) -> AbstractAsyncContextManager[object]:
        """Return the context manager to hold while connecting to an endpoint."""
        if not endpoint.is_registered:
            return nullcontext()
        registrar = self._limits[endpoint.server_uid]
        return registrar.local if local else registrar.remote

    def reserve_retry_time(self, endpoint: Endpoint, now: float) -> float:
        """Reserve a time for a repeated attempt, at or after `now` (seconds)."""
        if not endpoint.is_registered:
            return now
        registrar = self._limits[endpoint.server_uid]
        at = max(registrar.next_retry, now - _RETRY_BURST / _RETRY_RATE)
        registrar.next_retry = at + 1 / _RETRY_RATE
        return max(at, now)
