"""One endpoint of a channel: its subchannel, whether calls may go there, and how it is picked."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from meshtrio.client.load_balancing.circuit_breaker import CircuitBreaker
from meshtrio.client.subchannel import ConnectionOptions, Subchannel
from meshtrio.client.subchannel_pool import SubchannelPool
from meshtrio.discovery.endpoint import Endpoint, ExitInfo
from meshtrio.rpc.client_connection import ClientConnection


@attrs.frozen(eq=False, repr=False)
class PickArgs:
    """What one attempt of a call requires of its endpoint."""

    wait_for_ready: bool | None = None
    """Whether to wait for a ready endpoint. None: wait only if the service is managed by a mesh."""
    hash_key: str | None = None
    """Value that ring hash maps to an endpoint."""
    excluded: frozenset[ChannelEndpoint] = frozenset()
    """Endpoints of earlier attempts; picked only if there are no others."""

    def excluding(self, channel_endpoint: ChannelEndpoint) -> PickArgs:
        """Return a copy that also avoids `channel_endpoint`."""
        return attrs.evolve(self, excluded=self.excluded | {channel_endpoint})


DEFAULT_PICK_ARGS = PickArgs()


@attrs.frozen(eq=False, repr=False)
class CallTracker:
    """Follows the attempts on one endpoint for the circuit breaker and outlier detection.

    Compare gRPC core's SubchannelCallTrackerInterface.
    """

    _circuit_breaker: CircuitBreaker
    _report_result: Callable[[bool], None]

    def on_start(self) -> None:
        """Count an attempt that is about to be opened.

        Raises:
            ResourceExhaustedError: A circuit breaker is open.
        """
        self._circuit_breaker.acquire_slot()

    def on_finish(self, *, success: bool | None) -> None:
        """Count the end of an attempt; `success` is None if it does not concern the endpoint."""
        self._circuit_breaker.release_slot()
        if success is not None:
            self._report_result(success)


@attrs.frozen(eq=False, repr=False)
class PickResult:
    """The connection that one attempt of a call is opened on."""

    connection: ClientConnection
    channel_endpoint: ChannelEndpoint
    call_tracker: CallTracker | None = None
    """Called at the start and end of the attempt, if there is one."""


@attrs.define(eq=False, repr=False)
class ChannelEndpoint:
    """A candidate of a channel's load balancing. Uses the pool's subchannel until `remove`."""

    endpoint: Endpoint
    _pool: SubchannelPool
    _options: ConnectionOptions
    _on_change: Callable[[], None]
    """Called when `is_ready` may have changed."""
    _on_connect_failure: Callable[[], object]
    """Called when an attempt to connect has failed."""
    last_pick: int = 0
    is_ejected: bool = False
    """Whether outlier detection has ejected it."""
    is_healthy: bool = True
    """False if its health is watched and not SERVING."""
    health_watch_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancel scope of the task that watches its health."""
    exit_info: ExitInfo | None = None
    """Why the endpoint was removed, or how its process ended, once known."""
    removed: trio.Event = attrs.field(factory=trio.Event)
    """Set when the endpoint is no longer listed."""
    process_exited: trio.Event = attrs.field(factory=trio.Event)
    """Set when `exit_info` reports how its process ended."""
    pick_result: PickResult | None = None
    """Result of picking this endpoint, None if it is not connected."""
    _call_tracker: CallTracker | None = None
    priority: int = attrs.field(init=False)
    weight: int = attrs.field(init=False)
    stable_id: str = attrs.field(init=False)
    subchannel: Subchannel = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.priority, self.weight = self.endpoint.priority, self.endpoint.weight
        self.stable_id = self.endpoint.stable_id
        self.subchannel = self._pool.acquire_subchannel(
            self.endpoint, self._options, self._on_subchannel_change
        )
        self._update_pick_result()

    def set_call_tracker(self, call_tracker: CallTracker | None) -> None:
        """Have attempts that are picked from now on followed by `call_tracker`."""
        self._call_tracker = call_tracker
        self._update_pick_result()

    def _update_pick_result(self) -> None:
        connection, self.pick_result = self.subchannel.connection, None
        if connection is not None:
            self.pick_result = PickResult(connection, self, self._call_tracker)

    def _on_subchannel_change(self) -> None:
        before = self.pick_result
        self._update_pick_result()
        if before is None and self.pick_result is None:
            self._on_connect_failure()
        else:
            self._on_change()

    @property
    def in_flight(self) -> int:
        return len(self.subchannel.streams) - self.subchannel.health_watch_count

    @property
    def is_ready(self) -> bool:
        picked = self.pick_result
        is_usable = picked is not None and picked.connection.is_usable
        return is_usable and self.is_healthy and not (self.is_ejected or self.removed.is_set())

    def remove(self, exit_info: ExitInfo | None) -> None:
        """Release the subchannel: calls under way may finish, and no more are picked."""
        if exit_info is not None:
            self.set_exit_info(exit_info)
        self.removed.set()
        self.health_watch_scope.cancel()
        self._pool.release_subchannel(self.subchannel, self._on_subchannel_change)

    def set_exit_info(self, exit_info: ExitInfo) -> None:
        """Record why the endpoint was removed: first that it is stopping, then how it ended."""
        self.exit_info = exit_info
        if exit_info.is_process_exit:
            self.process_exited.set()
