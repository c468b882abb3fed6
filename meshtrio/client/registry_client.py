"""meshtrio.v1.Registry as another process uses it: it survives the mesh, and finds the next one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.client.call_destination import CallDestination
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.discovery.endpoint import LOCAL_RECONNECT_BACKOFF, RECONNECT_BACKOFF, Endpoint
from meshtrio.discovery.registry_messages import state_from_message
from meshtrio.discovery.service_state import ServiceState
from meshtrio.messages import registry as messages
from meshtrio.util.concurrency import open_collapsing_nursery

_log = logging.getLogger("meshtrio.rpc")

_DESCRIPTOR = messages.DESCRIPTOR.services_by_name["Registry"]
_STALE_TIMEOUT = 5.0
"""Seconds that a new mesh has to learn again of the endpoints an earlier one knew."""
_FATAL_ERRORS = (
    purerpc.AbortedError,
    purerpc.InvalidArgumentError,
    purerpc.PermissionDeniedError,
    purerpc.UnimplementedError,
)
"""What another try would not mend."""


async def resolve_remote_service(channel: CallDestination, service: str) -> ServiceState:
    """Ask a mesh once. Raises NotFoundError for a service it does not know."""
    stub = DynamicStub(channel, _DESCRIPTOR)
    return state_from_message(await stub.Resolve(messages.ResolveRequest(service=service)))


async def watch_remote_service(
    channel: CallDestination, service: str, on_update: Callable[[ServiceState], None]
) -> None:
    """Deliver what a mesh knows of a service, at once and after each change, until cancelled.

    Survives the mesh: what was known stays, and the watch is taken up again when there is another.
    That one has a while to learn of the endpoints that it does not run.
    """
    stub = DynamicStub(channel, _DESCRIPTOR)
    known, failures, rng, refused = ServiceStateCache(on_update), 0, Random(), False
    settling = trio.CancelScope()
    async with open_collapsing_nursery() as nursery:
        while True:
            try:
                async for message in stub.Watch(messages.ResolveRequest(service=service)):
                    known.update(state_from_message(message), is_new_mesh=failures > 0)
                    if failures:
                        settling.cancel()
                        settling = trio.CancelScope()
                        nursery.start_soon(known.expire_stale, settling)
                    failures, refused = 0, False
            except (purerpc.PermissionDeniedError, purerpc.ResourceExhaustedError) as exc:
                if not refused:
                    _log.warning("%s cannot be watched: %s", service, exc.status.status_message)
                refused = True
            except purerpc.RpcFailedError:
                pass
            failures += 1
            await trio.sleep(
                (RECONNECT_BACKOFF if refused else LOCAL_RECONNECT_BACKOFF).delay(failures, rng)
            )


class ServiceStateCache:
    """The state of a service over the lives of several meshes."""

    def __init__(self, on_update: Callable[[ServiceState], None]) -> None:
        self._on_update = on_update
        self._state = ServiceState()
        self._stale_endpoints: tuple[Endpoint, ...] = ()
        """Endpoints that were known to an earlier mesh, and may yet return."""

    def update(self, state: ServiceState, *, is_new_mesh: bool) -> None:
        """Take over what is told; `afresh`: by a mesh that may not be the one before."""
        if is_new_mesh:
            self._stale_endpoints = (*self._state.endpoints, *self._stale_endpoints)
        here = {endpoint.address for endpoint in state.endpoints}
        gone = {departure.endpoint_id for departure in state.exit_infos}
        self._stale_endpoints = tuple(
            endpoint
            for endpoint in self._stale_endpoints
            if endpoint.address not in here and endpoint.id not in gone
        )
        self._state = state
        self._publish()

    async def expire_stale(self, scope: trio.CancelScope) -> None:
        """Give up on those that have not returned, after a while, unless that is cancelled."""
        with scope:
            await trio.sleep(_STALE_TIMEOUT)
            if self._stale_endpoints:
                self._stale_endpoints = ()
                self._publish()

    def _publish(self) -> None:
        state = self._state
        self._on_update(attrs.evolve(state, endpoints=state.endpoints + self._stale_endpoints))


async def keep_registered(
    channel: CallDestination,
    registration: Any,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Register, and again whenever the mesh comes back, until cancelled; that takes it out.

    `registration`: a RegisterRequest. Reports started once registered. Raises what the mesh says
    of a registration that cannot be, ResourceExhaustedError if that is so at first, and
    AbortedError where somebody else registers the address.
    """
    stub = DynamicStub(channel, _DESCRIPTOR)
    failures, rng, registered = 0, Random(), False
    while True:
        backoff = LOCAL_RECONNECT_BACKOFF
        try:
            async with stub.Register(registration) as call:
                if await call.receive_message() is not None:
                    failures, registered = 0, True
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await call.receive_message()
        except _FATAL_ERRORS:
            raise
        except purerpc.RpcFailedError as exc:
            if isinstance(exc, purerpc.ResourceExhaustedError):
                if not registered:
                    raise
                backoff = RECONNECT_BACKOFF
            reason = exc.status.status_message
            _log.info("%s is not registered now: %s", registration.service, reason)
        failures += 1
        await trio.sleep(backoff.delay(failures, rng))
