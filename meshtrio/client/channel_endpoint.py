"""One endpoint as a channel sees it: its link, and what the channel thinks of it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshtrio.client.call_destination import PickResult
from meshtrio.client.subchannel import ConnectionOptions
from meshtrio.client.subchannel_pool import SubchannelPool
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.exit_info import ExitInfo


class ChannelEndpoint:
    """A candidate for the channel's balancing.

    `changed` is called when its readiness may have changed, `failed` when an attempt to connect has
    failed.
    """

    __slots__ = (
        "__weakref__",
        "_on_change",
        "_on_connect_failure",
        "_options",
        "_pool",
        "endpoint",
        "exit_info",
        "health_watch_scope",
        "is_ejected",
        "is_healthy",
        "last_pick",
        "pick_result",
        "process_exited",
        "removed",
        "subchannel",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        pool: SubchannelPool,
        options: ConnectionOptions,
        on_change: Callable[[], None],
        on_connect_failure: Callable[[], None],
    ) -> None:
        self.endpoint = endpoint
        self.last_pick = 0
        self.is_ejected = False
        """It fails more than the others, and gets no calls for a while."""
        self.is_healthy = True
        """False where the server's health is watched, and it does not say SERVING."""
        self.health_watch_scope = trio.CancelScope()
        """Of the watch of its health."""
        self.exit_info: ExitInfo | None = None
        self.removed = trio.Event()
        """Set when the endpoint is listed no more; `departure` then says why, where known."""
        self.process_exited = trio.Event()
        """Set when `departure` says how its process ended."""
        self.pick_result: PickResult | None = None
        """Where calls go now."""
        self._on_change = on_change
        self._on_connect_failure = on_connect_failure
        self._pool = pool
        self._options = options
        self.subchannel = pool.acquire_subchannel(endpoint, options, self._on_subchannel_change)
        if self.subchannel.connection is not None:
            self.pick_result = PickResult(self.subchannel.connection, self)

    def _on_subchannel_change(self) -> None:
        connection, before = self.subchannel.connection, self.pick_result
        self.pick_result = None if connection is None else PickResult(connection, self)
        if before is None and connection is None:
            self._on_connect_failure()  # What is ready is the same as before.
        else:
            self._on_change()

    @property
    def stable_id(self) -> str:
        return self.endpoint.stable_id

    @property
    def weight(self) -> int:
        return self.endpoint.weight

    @property
    def in_flight(self) -> int:
        return len(self.subchannel.streams) - self.subchannel.health_watch_count

    @property
    def is_ready(self) -> bool:
        target = self.pick_result
        usable = target is not None and target.connection.is_usable
        return usable and self.is_healthy and not (self.is_ejected or self.removed.is_set())

    def remove(self, exit_info: ExitInfo | None) -> None:
        """The endpoint is listed no more: calls under way may finish, no new one is taken."""
        if exit_info is not None:
            self.set_exit_info(exit_info)
        self.removed.set()
        self.health_watch_scope.cancel()
        self._pool.release_subchannel(self.subchannel, self._options, self._on_subchannel_change)

    def set_exit_info(self, exit_info: ExitInfo) -> None:
        """Take over why the endpoint left: that it is being stopped, then how its process ended."""
        self.exit_info = exit_info
        if exit_info.is_process_exit:
            self.process_exited.set()
