"""Chooses the endpoint of each attempt: a channel's picker.

`LoadBalancer` owns the channel's endpoints and the tasks that watch them. The decisions are pure,
in `client/load_balancing`: priorities, balancing, outlier detection, circuit breaking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import time
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import purerpc
import trio

from meshtrio.client.channel_endpoint import (
    DEFAULT_PICK_ARGS,
    CallTracker,
    ChannelEndpoint,
    PickArgs,
    PickResult,
)
from meshtrio.client.health_watch import watch_health
from meshtrio.client.load_balancing.circuit_breaker import CircuitBreaker
from meshtrio.client.load_balancing.policies import Balancer, PriorityPolicy
from meshtrio.client.subchannel import ConnectionOptions
from meshtrio.client.subchannel_pool import SubchannelPool
from meshtrio.discovery.endpoint import Endpoint, ServiceState
from meshtrio.errors import ConnectionLostError
from meshtrio.grpc.service_config import ServiceConfig
from meshtrio.rpc.channelz_registry import TraceNode
from meshtrio.rpc.stats import CallCounters
from meshtrio.util.concurrency import start_soon_without_context
from meshtrio.util.shared_rng import RNG

if TYPE_CHECKING:
    from meshtrio.client.load_balancing.outlier_detection import EjectedHost, OutlierDetector
    from meshtrio.grpc.outlier_detection import Ejection


class LoadBalancer:
    """Endpoints of a channel; attempts wait here until one is ready."""

    def __init__(
        self,
        name: str,
        pool: SubchannelPool,
        connection_options: ConnectionOptions,
        nursery: trio.Nursery,
        trace_node: TraceNode,
        call_counters: CallCounters,
        on_ejection: Callable[[Ejection], None],
    ) -> None:
        """Pick nothing until `apply_config` and `update_endpoints`."""
        self._name = name
        self._pool = pool
        self._connection_options = connection_options
        self._trace_node = trace_node
        self._call_counters = call_counters
        self._endpoints: dict[str, ChannelEndpoint] = {}
        self._removed_endpoints: WeakValueDictionary[str, ChannelEndpoint] = WeakValueDictionary()
        """Endpoints no longer listed that still have calls, which may need their exit info."""
        self.state_changed = trio.lowlevel.ParkingLot()
        """Unparked when an endpoint is added, removed, connected or disconnected, or an attempt to
        connect has failed, which calls look at that do not wait for ready endpoints."""
        self.report_connect_failure: Callable[[str], None] | None = None
        """Called with the id of an endpoint that the mesh does not run and that could not be
        connected to, for its resolver."""
        self.report_demand: Callable[[], None] | None = None
        """Called if a call waits for an endpoint of a service whose plugin is idle, once for each
        state of the service."""
        self._is_on_demand = False
        """Whether that is to be called."""
        self._is_demand_reported = False
        self._nursery = nursery
        self._rng = RNG
        self._outlier_detector: OutlierDetector | None = None
        """None if outlier detection is off."""
        self._outlier_detection_scope = trio.CancelScope()
        self._on_ejection = on_ejection
        self._circuit_breaker = CircuitBreaker(name)
        self._config = ServiceConfig()
        self._priority_policy: PriorityPolicy[ChannelEndpoint]
        self._priority_policy = PriorityPolicy(self._rng, self._config.load_balancing)
        self._max_in_flight_per_endpoint: int | None = None
        self._last_exit_reason = ""
        self._is_resolved = False
        """Whether the resolver has reported a state."""
        self._is_managed = True
        """Whether a mesh keeps the service running, or it has endpoints."""
        self._closed = False

    @property
    def endpoints(self) -> tuple[ChannelEndpoint, ...]:
        """Endpoints listed now, ready or not."""
        return tuple(self._endpoints.values())

    @property
    def ready(self) -> Sequence[ChannelEndpoint]:
        """Ready endpoints of the best priority that has any."""
        return self._priority_policy.ready

    # -- what is shown of it ------------------------------------------------------------------

    @property
    def policy_name(self) -> str:
        """The name of the balancing policy."""
        return self._config.load_balancing.policy.value.removesuffix("_experimental")

    @property
    def pending_count(self) -> int:
        """Number of calls that wait for an endpoint."""
        return self._circuit_breaker.pending_count

    def find_ejection(self, endpoint: ChannelEndpoint) -> EjectedHost | None:
        """Return when and why outlier detection has ejected an endpoint; None if it has not."""
        detector = self._outlier_detector
        return None if detector is None else detector.find_ejection(endpoint.endpoint.id)

    def count_ejections(self, endpoint: ChannelEndpoint) -> int:
        """Return how often outlier detection has ejected an endpoint."""
        detector = self._outlier_detector
        return 0 if detector is None else detector.count_ejections(endpoint.endpoint.id)

    # -- picking -----------------------------------------------------------------------------

    def try_pick(self, args: PickArgs = DEFAULT_PICK_ARGS) -> PickResult | None:
        """Pick an endpoint without waiting, preferably one with a free stream slot.

        Raises:
            ResourceExhaustedError: Every endpoint has `max_in_flight_per_endpoint` calls.
        """
        policy = self._priority_policy
        ready, balancer = policy.ready, policy.balancer
        if not ready:
            return None
        if args.excluded or self._max_in_flight_per_endpoint is not None:
            balancer, ready = self._find_eligible(args)
        picked = balancer.pick(ready, args.hash_key).pick_result
        if picked is not None and picked.connection.has_stream_slot:
            return picked
        return _pick_with_stream_slot(ready)

    async def pick(self, args: PickArgs = DEFAULT_PICK_ARGS) -> PickResult:
        """Wait for a ready endpoint and pick it.

        Raises:
            ConnectionLostError: The channel is closed.
            ResourceExhaustedError: A circuit breaker is open.
            UnavailableError: No endpoint is reachable, and the call does not wait for one.
        """
        self._circuit_breaker.acquire_pending()
        self._call_counters.last_started = time()
        try:
            while True:
                self._update_ready()
                picked = self.try_pick(args)
                if picked is not None:
                    return picked
                if self._closed:
                    raise ConnectionLostError(f"the channel to {self._name} is closed")
                if self._is_on_demand and self.report_demand is not None:
                    self._report_demand(self.report_demand)
                elif not (self._is_managed if args.wait_for_ready is None else args.wait_for_ready):
                    reason = self.unavailable_reason
                    if reason is not None:
                        raise purerpc.UnavailableError(f"{self._name} is unavailable: {reason}")
                await self.state_changed.park()
        finally:
            self._circuit_breaker.release_pending()

    def handle_demand_failure(self) -> None:
        """Let calls fail that do not wait for ready endpoints: a report has not reached the mesh.

        A mesh that is back sends the state of the service again.
        """
        self._is_on_demand = False
        self._refresh()

    def _report_demand(self, report: Callable[[], None]) -> None:
        """Have the plugin started, unless this was done already."""
        if not self._is_demand_reported:
            self._is_demand_reported = True
            report()

    def _find_eligible(
        self, args: PickArgs
    ) -> tuple[Balancer[ChannelEndpoint], Sequence[ChannelEndpoint]]:
        """Return ready endpoints below their limit, of the best priority that has any.

        Those that the call has tried already are returned only if no priority has others.
        """
        limit, policy, tried = self._max_in_flight_per_endpoint, self._priority_policy, None
        for balancer, members in ((policy.balancer, policy.ready), *policy.spill_over):
            free = members
            if limit is not None:
                free = [endpoint for endpoint in members if endpoint.in_flight < limit]
            untried = [endpoint for endpoint in free if endpoint not in args.excluded]
            if untried:
                return balancer, untried
            if free and tried is None:
                tried = balancer, free
        if tried is None:
            text = f"{self._name}: every endpoint has reached its limit of {limit} calls in flight"
            raise purerpc.ResourceExhaustedError(text)
        return tried

    # -- state -------------------------------------------------------------------------------

    @property
    def unavailable_reason(self) -> str | None:
        """Why no endpoint is reachable; None if one is, or has not been tried yet."""
        if not self._is_resolved:
            return None
        tried = [each for each in self._endpoints.values() if not each.is_ejected]
        errors = [endpoint.subchannel.connect_error for endpoint in tried]
        if errors and not all(errors):
            return None
        return errors[-1] if errors else self._last_exit_reason or "no endpoints"

    async def is_reachable(self) -> bool:
        """Whether an endpoint is ready, after the first attempts to connect."""
        while True:
            self._update_ready()
            if self._priority_policy.ready:
                return True
            if self._closed or self.unavailable_reason is not None:
                return False
            await self.state_changed.park()

    def _refresh(self) -> None:
        self._update_ready()
        self.state_changed.unpark_all()

    def _update_ready(self) -> None:
        self._priority_policy.update_ready(self._endpoints.values())

    # -- updates -----------------------------------------------------------------------------

    def apply_config(self, config: ServiceConfig) -> None:
        """Use another service config, before `update_endpoints`."""
        self._config = config
        self._circuit_breaker.limits = config.circuit_breakers
        self._max_in_flight_per_endpoint = config.circuit_breakers.max_in_flight_per_endpoint
        self._priority_policy = PriorityPolicy(self._rng, config.load_balancing)
        self._outlier_detection_scope.cancel()
        self._outlier_detector, detection = None, config.load_balancing.outlier_detection
        if detection is not None:
            # Few services have it, and it takes long to import.
            from meshtrio.client.load_balancing.outlier_detection import OutlierDetector

            detector = OutlierDetector(detection, self._rng, self._on_ejection)
            detector.update_endpoints(self._endpoints)
            self._outlier_detector = detector
            self._outlier_detection_scope = trio.CancelScope()
            self._nursery.start_soon(
                self._run_outlier_detection, detector, self._outlier_detection_scope
            )
        for endpoint in self._endpoints.values():
            endpoint.is_ejected = False
            self._configure_endpoint(endpoint)

    def _configure_endpoint(self, endpoint: ChannelEndpoint) -> None:
        """Have an endpoint's calls tracked, and its health watched, as the config says."""
        tracker, limit = None, self._config.circuit_breakers.max_in_flight
        if limit is not None or self._outlier_detector is not None:
            tracker = CallTracker(self._circuit_breaker, partial(self._report_result, endpoint))
        endpoint.set_call_tracker(tracker)
        service = self._config.health_check_service
        endpoint.health_watch_scope.cancel()
        endpoint.is_healthy = service is None
        if service is not None:
            endpoint.health_watch_scope = trio.CancelScope()
            args = endpoint, service, self._refresh, self.state_changed
            start_soon_without_context(
                self._nursery, watch_health, endpoint.health_watch_scope, *args
            )

    # -- outlier detection -------------------------------------------------------------------

    def _report_result(self, endpoint: ChannelEndpoint, success: bool) -> None:
        detector, now = self._outlier_detector, trio.current_time()
        if detector is not None and detector.record(endpoint.endpoint.id, success=success, now=now):
            self._apply_ejections(detector)

    async def _run_outlier_detection(
        self, detector: OutlierDetector, scope: trio.CancelScope
    ) -> None:
        with scope:
            while True:
                await trio.sleep(detector.config.interval)
                detector.end_interval(trio.current_time())
                self._apply_ejections(detector)

    def _apply_ejections(self, detector: OutlierDetector) -> None:
        ejected = detector.ejected
        for endpoint_id, endpoint in self._endpoints.items():
            endpoint.is_ejected = endpoint_id in ejected
        self._refresh()

    def update_endpoints(self, state: ServiceState) -> None:
        """Follow the endpoints and exit infos of a state of the service."""
        self._is_resolved = True
        self._is_managed = bool(state.endpoints) or not state.unmanaged
        self._is_on_demand = state.on_demand and not state.endpoints
        self._is_demand_reported = False
        listed = {endpoint.id: endpoint for endpoint in state.endpoints}
        exit_infos = {exit_info.endpoint_id: exit_info for exit_info in state.exit_infos}
        # Before others are removed, which may have used the same connection.
        added = {
            endpoint_id: self._add_endpoint(endpoint)
            for endpoint_id, endpoint in listed.items()
            if endpoint_id not in self._endpoints
        }
        for endpoint_id in [i for i in self._endpoints if i not in listed]:
            removed, exit_info = self._endpoints.pop(endpoint_id), exit_infos.get(endpoint_id)
            removed.remove(exit_info)
            self._removed_endpoints[endpoint_id] = removed
            reason = "" if exit_info is None else f": {exit_info.reason}"
            self._trace_endpoint(removed, f"removed{reason}")
        for endpoint_id, removed in list(self._removed_endpoints.items()):
            if endpoint_id in exit_infos:
                removed.set_exit_info(exit_infos[endpoint_id])
        for endpoint_id, known in self._endpoints.items():
            if known.update(listed[endpoint_id]):
                self._trace_endpoint(known, "has another weight or priority")
        self._endpoints |= added
        if self._outlier_detector is not None:
            self._outlier_detector.update_endpoints(self._endpoints)
        for endpoint in added.values():
            self._trace_endpoint(endpoint, "added")
            self._configure_endpoint(endpoint)
        if state.exit_infos:
            self._last_exit_reason = state.exit_infos[-1].reason
        self._priority_policy.update_endpoints(self._endpoints.values())
        self._refresh()

    def _add_endpoint(self, endpoint: Endpoint) -> ChannelEndpoint:
        on_connect_failure = partial(self._on_connect_failure, endpoint)
        args = self._pool, self._connection_options, self._refresh, on_connect_failure
        return ChannelEndpoint(endpoint, *args)

    def _on_connect_failure(self, endpoint: Endpoint) -> None:
        self.state_changed.unpark_all()
        if self.report_connect_failure is not None and endpoint.is_registered:
            self.report_connect_failure(endpoint.id)

    def _trace_endpoint(self, endpoint: ChannelEndpoint, event: str) -> None:
        text = f"{endpoint.endpoint.address} {event}"
        self._trace_node.add_event(text, subchannel_id=endpoint.subchannel.trace_node.channelz_id)

    def close(self, owner: object) -> None:
        """Release all endpoints, and fail the calls whose streams belong to `owner`."""
        self._closed = True
        self._priority_policy.ready = ()
        self.state_changed.unpark_all()
        error = ConnectionLostError(f"the channel to {self._name} is closed")
        for endpoint in self._endpoints.values():
            endpoint.subchannel.abort_streams(owner, error)
            endpoint.remove(None)
        self._endpoints.clear()


def _pick_with_stream_slot(endpoints: Iterable[ChannelEndpoint]) -> PickResult | None:
    """The first with a free stream slot, or any that is usable: its calls wait for a slot."""
    found = None
    for endpoint in endpoints:
        picked = endpoint.pick_result
        if picked is not None and picked.connection.is_usable:
            found = picked
            if picked.connection.has_stream_slot:
                break
    return found
