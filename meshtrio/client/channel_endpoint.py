"""One endpoint of a channel: its subchannel, whether calls may go there, and how it is picked."""

from __future__ import annotations

from collections.abc import Callable

import trio

from meshtrio.client.load_balancing.circuit_breaker import CircuitBreaker
from meshtrio.client.subchannel import ConnectionOptions
from meshtrio.client.subchannel_pool import SubchannelPool
from meshtrio.discovery.endpoint import Endpoint, ExitInfo
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.util.record import FrozenRecord


class PickArgs(FrozenRecord):
    """What one attempt of a call requires of its endpoint."""

    wait_for_ready: bool | None = None
    """Whether to wait for a ready endpoint. None: wait only if the service is managed by a mesh."""
    hash_key: str | None = None
    """Value that ring hash maps to an endpoint."""
    excluded: frozenset[ChannelEndpoint] = frozenset()
    """Endpoints of earlier attempts; picked only if there are no others."""

    def excluding(self, channel_endpoint: ChannelEndpoint) -> PickArgs:
        """Return a copy that also avoids `channel_endpoint`."""
        return self.replace(excluded=self.excluded | {channel_endpoint})


DEFAULT_PICK_ARGS = PickArgs()


class CallTracker:
    """Follows the attempts on one endpoint for the circuit breaker and outlier detection.

    Compare gRPC core's SubchannelCallTrackerInterface.
    """

    __slots__ = ("_circuit_breaker", "_report_result")

    def __init__(
        self, circuit_breaker: CircuitBreaker, report_result: Callable[[bool], None]
    ) -> None:
        self._circuit_breaker = circuit_breaker
        self._report_result = report_result

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


class PickResult:
    """The connection that one attempt of a call is opened on."""

    __slots__ = ("call_tracker", "channel_endpoint", "connection")

    def __init__(
        self,
        connection: ClientConnection,
        channel_endpoint: ChannelEndpoint,
        call_tracker: CallTracker | None = None,
    ) -> None:
        self.connection = connection
        self.channel_endpoint = channel_endpoint
        self.call_tracker = call_tracker
        """Called at the start and end of the attempt, if there is one."""


class ChannelEndpoint:
    """A candidate of a channel's load balancing. Uses the pool's subchannel until `remove`."""

    __slots__ = (
        "__weakref__",
        "_call_tracker",
        "_on_change",
        "_on_connect_failure",
        "_pool",
        "endpoint",
        "exit_info",
        "health_watch_scope",
        "is_ejected",
        "is_healthy",
        "last_pick",
        "pick_result",
        "priority",
        "process_exited",
        "removed",
        "retries",
        "stable_id",
        "subchannel",
        "weight",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        pool: SubchannelPool,
        options: ConnectionOptions,
        on_change: Callable[[], None],
        on_connect_failure: Callable[[], object],
    ) -> None:
        """Acquire a subchannel.

        Args:
            endpoint: The endpoint as it is listed.
            pool: Has the subchannel.
            options: The options of the channel.
            on_change: Called when `is_ready` may have changed.
            on_connect_failure: Called when an attempt to connect has failed.
        """
        self.endpoint = endpoint
        self._pool = pool
        self._on_change = on_change
        self._on_connect_failure = on_connect_failure
        self.last_pick = 0
        self.retries = 0
        """Number of calls that it has refused and that the gateway has sent again."""
        self.is_ejected = False
        """Whether outlier detection has ejected it."""
        self.is_healthy = True
        """False if its health is watched and not SERVING."""
        self.health_watch_scope = trio.CancelScope()
        """Cancel scope of the task that watches its health."""
        self.exit_info: ExitInfo | None = None
        """Why the endpoint was removed, or how its process ended, once known."""
        self.removed = trio.Event()
        """Set when the endpoint is no longer listed."""
        self.process_exited = trio.Event()
        """Set when `exit_info` reports how its process ended."""
        self.pick_result: PickResult | None = None
        """Result of picking this endpoint, None if it is not connected."""
        self._call_tracker: CallTracker | None = None
        self.priority, self.weight = endpoint.priority, endpoint.weight
        self.stable_id = endpoint.stable_id
        self.subchannel = pool.acquire_subchannel(endpoint, options, self._on_subchannel_change)
        self._update_pick_result()

    def update(self, endpoint: Endpoint) -> bool:
        """Follow another weight or priority of the endpoint; return whether either has changed."""
        has_changed = (endpoint.priority, endpoint.weight) != (self.priority, self.weight)
        if has_changed:
            self.endpoint = endpoint
            self.priority, self.weight = endpoint.priority, endpoint.weight
        return has_changed

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
