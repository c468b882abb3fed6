"""Calls over one connection: no choice of endpoints, no config, no interceptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from meshtrio.client.picker import ANY, Target, Wish
from meshtrio.errors import ConnectionLostError
from meshtrio.policies.retry import Throttle
from meshtrio.policies.service_config import ServiceConfig
from meshtrio.rpc.client import ClientConnection
from meshtrio.rpc.message_limits import MessageLengths
from meshtrio.rpc.observe import ClientObserver
from meshtrio.rpc.tally import Tally
from meshtrio.wire.grpc import Metadata

_DEFAULTS = ServiceConfig()


class SingleConnection:
    """Picks the one connection there is."""

    def __init__(
        self, connection: ClientConnection, authority: str, nursery: trio.Nursery | None = None
    ) -> None:
        """`nursery` is for the senders of calls that stream."""
        self.name = self.authority = authority
        self.scheme = "http"
        self.config = _DEFAULTS
        self.interceptors: tuple[Any, ...] = ()
        self.metadata: Metadata = ()
        self.target = authority
        self.observer: ClientObserver | None = None
        self.calls = Tally()
        self.throttle: Throttle | None = None
        self.lengths = MessageLengths()
        self.hash_header: str | None = None
        self.observes = self.counts = False
        self._target = Target(connection, None)
        self._nursery = nursery

    def pick_ready(self, wish: Wish = ANY) -> Target | None:
        return self._target if self._target.connection.usable else None

    async def pick(self, wish: Wish = ANY) -> Target:
        """Raises ConnectionLostError once the connection is gone."""
        if not self._target.connection.usable:
            raise ConnectionLostError(self._target.connection.loss)
        return self._target

    async def explain(self, target: Target, failure: ConnectionLostError) -> Exception:
        return failure

    def spawn(self, task: Callable[..., Any], *args: object) -> None:
        assert self._nursery is not None, "calls that stream need a nursery"
        self._nursery.start_soon(task, *args)

    def record(self, target: Target, *, success: bool) -> None:
        """Nobody wants to know."""

    def enter(self) -> None:
        """There are no bounds."""

    def leave(self) -> None:
        """There are no bounds."""

    def note_call(self) -> None:
        """There is no budget."""

    def may_retry(self) -> bool:
        return True
