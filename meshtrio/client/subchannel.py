"""One endpoint as a channel sees it: its link, and what the channel thinks of it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshtrio.client.endpoint import Departure, Endpoint
from meshtrio.client.link import Manner
from meshtrio.client.picker import Target
from meshtrio.client.pool import Pool


class Subchannel:
    """A candidate for the channel's balancing.

    `changed` is called when its readiness may have changed, `failed` when an attempt to connect has
    failed.
    """

    __slots__ = (
        "__weakref__",
        "_changed",
        "_failed",
        "_manner",
        "_pool",
        "departed",
        "departure",
        "ejected",
        "ended",
        "endpoint",
        "health",
        "healthy",
        "link",
        "target",
        "turn",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        pool: Pool,
        manner: Manner,
        changed: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self.endpoint = endpoint
        self.turn = 0
        self.ejected = False
        """It fails more than the others, and gets no calls for a while."""
        self.healthy = True
        """False where the server's health is watched, and it does not say SERVING."""
        self.health = trio.CancelScope()
        """Of the watch of its health."""
        self.departure: Departure | None = None
        self.departed = trio.Event()
        """Set when the endpoint is listed no more; `departure` then says why, where known."""
        self.ended = trio.Event()
        """Set when `departure` says how its process ended."""
        self.target: Target | None = None
        """Where calls go now."""
        self._changed = changed
        self._failed = failed
        self._pool = pool
        self._manner = manner
        self.link = pool.link(endpoint, manner, self._follow)
        if self.link.connection is not None:
            self.target = Target(self.link.connection, self)

    def _follow(self) -> None:
        connection, before = self.link.connection, self.target
        self.target = None if connection is None else Target(connection, self)
        if before is None and connection is None:
            self._failed()  # What is ready is the same as before.
        else:
            self._changed()

    @property
    def identity(self) -> str:
        return self.endpoint.identity

    @property
    def weight(self) -> int:
        return self.endpoint.weight

    @property
    def in_flight(self) -> int:
        return len(self.link.streams) - self.link.watches

    @property
    def ready(self) -> bool:
        target = self.target
        usable = target is not None and target.connection.usable
        return usable and self.healthy and not (self.ejected or self.departed.is_set())

    def leave(self, departure: Departure | None) -> None:
        """The endpoint is listed no more: calls under way may finish, no new one is taken."""
        if departure is not None:
            self.learn(departure)
        self.departed.set()
        self.health.cancel()
        self._pool.unlink(self.link, self._manner, self._follow)

    def learn(self, departure: Departure) -> None:
        """Take over why the endpoint left: that it is being stopped, then how its process ended."""
        self.departure = departure
        if departure.died:
            self.ended.set()
