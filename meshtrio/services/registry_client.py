"""meshtrio.v1.Registry as another process uses it: it survives the mesh, and finds the next one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.client.endpoint import RECONNECT, RECONNECT_LOCAL, Endpoint, ServiceState
from meshtrio.client.picker import Picker
from meshtrio.messages import registry as messages
from meshtrio.services.registry_messages import from_message
from meshtrio.structured import open_nursery_of_one

_log = logging.getLogger("meshtrio.rpc")

_DESCRIPTOR = messages.DESCRIPTOR.services_by_name["Registry"]
_RETURN_WITHIN = 5.0
"""Seconds that a new mesh has to learn again of the endpoints an earlier one knew."""
_FINAL = (
    purerpc.AbortedError,
    purerpc.InvalidArgumentError,
    purerpc.PermissionDeniedError,
    purerpc.UnimplementedError,
)
"""What another try would not mend."""


async def resolve(mesh: Picker, service: str) -> ServiceState:
    """Ask a mesh once. Raises NotFoundError for a service it does not know."""
    stub = DynamicStub(mesh, _DESCRIPTOR)
    return from_message(await stub.Resolve(messages.ResolveRequest(service=service)))


async def watch(mesh: Picker, service: str, deliver: Callable[[ServiceState], None]) -> None:
    """Deliver what a mesh knows of a service, at once and after each change, until cancelled.

    Survives the mesh: what was known stays, and the watch is taken up again when there is another.
    That one has a while to learn of the endpoints that it does not run.
    """
    stub = DynamicStub(mesh, _DESCRIPTOR)
    known, failures, rng, refused = Known(deliver), 0, Random(), False
    settling = trio.CancelScope()
    async with open_nursery_of_one() as nursery:
        while True:
            try:
                async for message in stub.Watch(messages.ResolveRequest(service=service)):
                    known.take(from_message(message), afresh=failures > 0)
                    if failures:
                        settling.cancel()
                        settling = trio.CancelScope()
                        nursery.start_soon(known.settle, settling)
                    failures, refused = 0, False
            except (purerpc.PermissionDeniedError, purerpc.ResourceExhaustedError) as exc:
                if not refused:
                    _log.warning("%s cannot be watched: %s", service, exc.status.status_message)
                refused = True
            except purerpc.RpcFailedError:
                pass
            failures += 1
            await trio.sleep((RECONNECT if refused else RECONNECT_LOCAL).delay(failures, rng))


class Known:
    """The state of a service over the lives of several meshes."""

    def __init__(self, deliver: Callable[[ServiceState], None]) -> None:
        self._deliver = deliver
        self._state = ServiceState()
        self._survivors: tuple[Endpoint, ...] = ()
        """Endpoints that were known to an earlier mesh, and may yet return."""

    def take(self, state: ServiceState, *, afresh: bool) -> None:
        """Take over what is told; `afresh`: by a mesh that may not be the one before."""
        if afresh:
            self._survivors = (*self._state.endpoints, *self._survivors)
        here = {endpoint.address for endpoint in state.endpoints}
        gone = {departure.endpoint_id for departure in state.departures}
        self._survivors = tuple(
            endpoint
            for endpoint in self._survivors
            if endpoint.address not in here and endpoint.id not in gone
        )
        self._state = state
        self._tell()

    async def settle(self, scope: trio.CancelScope) -> None:
        """Give up on those that have not returned, after a while, unless that is cancelled."""
        with scope:
            await trio.sleep(_RETURN_WITHIN)
            if self._survivors:
                self._survivors = ()
                self._tell()

    def _tell(self) -> None:
        state = self._state
        self._deliver(attrs.evolve(state, endpoints=state.endpoints + self._survivors))


async def stay_registered(
    mesh: Picker,
    registration: Any,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Register, and again whenever the mesh comes back, until cancelled; that takes it out.

    `registration`: a RegisterRequest. Reports started once registered. Raises what the mesh says
    of a registration that cannot be, ResourceExhaustedError if that is so at first, and
    AbortedError where somebody else registers the address.
    """
    stub = DynamicStub(mesh, _DESCRIPTOR)
    failures, rng, registered = 0, Random(), False
    while True:
        backoff = RECONNECT_LOCAL
        try:
            async with stub.Register(registration) as call:
                if await call.receive_message() is not None:
                    failures, registered = 0, True
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await call.receive_message()
        except _FINAL:
            raise
        except purerpc.RpcFailedError as exc:
            if isinstance(exc, purerpc.ResourceExhaustedError):
                if not registered:
                    raise
                backoff = RECONNECT
            reason = exc.status.status_message
            _log.info("%s is not registered now: %s", registration.service, reason)
        failures += 1
        await trio.sleep(backoff.delay(failures, rng))
