"""Clients of a mesh in another process: channels to its services, and endpoints of one's own.

Watches and registrations, by meshtrio.v1.Registry, outlive restarts of the mesh.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import attrs
import purerpc
import trio

from meshtrio.client.call_destination import CallDestination
from meshtrio.client.channel import (
    Channel,
    ChannelOptions,
    connect_to,
    open_channel,
    open_endpoint_channel,
)
from meshtrio.client.connect_failures import ConnectFailureReporter
from meshtrio.client.demand_reporter import DemandReporter
from meshtrio.client.mesh_connection import (
    check_mesh_answers,
    connect_to_mesh,
    mesh_socket_endpoint,
)
from meshtrio.client.multicallable import make_multicallable
from meshtrio.discovery.endpoint import (
    LOCAL_RECONNECT_BACKOFF,
    RECONNECT_BACKOFF,
    Endpoint,
    ServiceState,
)
from meshtrio.discovery.registry_messages import make_register_request, state_from_message
from meshtrio.http2.limits import UNLIMITED
from meshtrio.messages import registry as messages
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.util.concurrency import open_collapsing_nursery, require_trio
from meshtrio.util.shared_rng import RNG
from meshtrio.util.tls_config import ClientTlsConfig

_log = logging.getLogger("meshtrio.rpc")

_DESCRIPTOR = messages.DESCRIPTOR.services_by_name["Registry"]
_REGISTER, _RESOLVE, _WATCH = (
    method_from_descriptor(_DESCRIPTOR.methods_by_name[name])
    for name in ("Register", "Resolve", "Watch")
)
_STALE_TIMEOUT = 5.0
"""Seconds for which a new mesh's endpoints are supplemented by those that an earlier one listed."""
_FATAL_ERRORS = (
    purerpc.AbortedError,
    purerpc.InvalidArgumentError,
    purerpc.PermissionDeniedError,
    purerpc.UnimplementedError,
)
"""Errors of a registration that another attempt would not resolve."""


@asynccontextmanager
async def connect(
    service: str, *, mesh_socket: Path | str | None = None, **options: Unpack[ChannelOptions]
) -> AsyncIterator[Channel]:
    """Open a channel to a service of a mesh in another process, for the block.

    The mesh only reports the endpoints: calls go straight to the plugins, and continue to work
    after the mesh has ended.

    Args:
        service: Name of the service: `plugin.<name>`, or one that is registered.
        mesh_socket: The path of the mesh socket. Defaults to the environment's MESH_SOCKET, else
            `mesh.sock` in the default runtime directory, which must belong to the same user or
            root.
        options: See `ChannelOptions`.

    Yields:
        A channel, whose calls end with the block.

    Raises:
        NoMeshError: No mesh answers.
        UntrustedMeshError: Another user serves, or could serve, in the mesh's place.
        NotFoundError: The mesh does not know the service; the text lists those it knows.
        ConfigError: The service config is malformed.
        UsageError: A message length or `max_busy_poll` is out of range, or MESHTRIO_BUSY_POLL is
            invalid.
    """
    require_trio("mesh.connect")
    where = mesh_socket_endpoint(mesh_socket)
    reporter = ConnectFailureReporter(partial(_report_connect_failure, where, service))
    demand = DemandReporter(partial(_report_demand, where, service))
    async with open_channel(
        service,
        partial(_watch_service, where, service),
        resolver_key=(where, service),
        resolve_once=partial(_resolve_service, where, service, trio.current_time()),
        report_connect_failure=reporter.report,
        report_demand=demand.report,
        **options,
    ) as channel:
        reporter.start(channel.nursery)
        demand.start(channel.nursery, channel.picker.handle_demand_failure)
        yield channel


async def _watch_service(
    mesh_endpoint: Endpoint, service: str, on_update: Callable[[ServiceState | None], None]
) -> None:
    """Watch a service on the mesh socket: the resolver of all channels that a process has to it.

    The connection is shared by all services of the mesh.
    """
    async with _connect_for_reading(mesh_endpoint) as mesh:
        await watch_remote_service(mesh, service, on_update)


def _connect_for_reading(mesh_endpoint: Endpoint) -> AbstractAsyncContextManager[Channel]:
    """Open a channel for calls that change nothing, which are sent with the connection preface."""
    limit = UNLIMITED
    return open_endpoint_channel(
        mesh_endpoint, traced=True, sends_before_settings=True, max_receive_message_length=limit
    )


async def _resolve_service(mesh_endpoint: Endpoint, service: str, since: float) -> ServiceState:
    """Ask for the state of a service by the connection that the process has to the mesh.

    Args:
        mesh_endpoint: The mesh socket.
        service: Name of the service.
        since: Time from which on the mesh has had the time to accept a connection.

    Raises:
        NoMeshError: No mesh answers.
        UntrustedMeshError: Another user serves in the mesh's place.
        NotFoundError: The mesh has no such service.
    """
    async with _connect_for_reading(mesh_endpoint) as mesh:
        with suppress(purerpc.UnavailableError):
            return await resolve_remote_service(mesh, service, wait_for_ready=False)
    await check_mesh_answers(mesh_endpoint, since=since)
    async with connect_to(mesh_endpoint, max_receive_message_length=UNLIMITED) as mesh:
        return await resolve_remote_service(mesh, service)


async def _report_connect_failure(mesh_endpoint: Endpoint, service: str, endpoint_id: str) -> None:
    """Report to the mesh that an endpoint cannot be connected to, if the mesh answers."""
    request = messages.ResolveRequest(service=service, unreachable_endpoint_id=endpoint_id)
    with suppress(purerpc.RpcFailedError):
        async with _connect_for_reading(mesh_endpoint) as mesh:
            await make_multicallable(mesh, _RESOLVE)(request, wait_for_ready=False)


async def _report_demand(mesh_endpoint: Endpoint, service: str) -> None:
    """Report to the mesh that a call waits for an endpoint. Raises RpcFailedError."""
    request = messages.ResolveRequest(service=service, wanted=True)
    async with _connect_for_reading(mesh_endpoint) as mesh:
        await make_multicallable(mesh, _RESOLVE)(request, wait_for_ready=False)


@asynccontextmanager
async def register(
    service: str,
    address: Path | str,
    *,
    mesh_socket: Path | str | None = None,
    weight: int = 1,
    local: bool | None = None,
    tls: ClientTlsConfig | None = None,
) -> AsyncIterator[None]:
    """Register an endpoint with a mesh in another process, for the block.

    The registration is renewed whenever the mesh restarts, and ends with the block or the process.

    Args:
        service: Name of the service.
        address: The path of a Unix socket, `unix:/path` or `tcp:host:port`.
        mesh_socket: As in `connect`.
        weight: As in `Mesh.register`.
        local: As in `Mesh.register`.
        tls: As in `Mesh.register`.

    Raises:
        NoMeshError: No mesh answers when the block is entered.
        InvalidArgumentError: The endpoint cannot be registered.
        PermissionDeniedError: The mesh does not let this user register it.
        AbortedError: In the block: another client registered the same address.
    """
    require_trio("mesh.register")
    registration = make_register_request(service, address, weight, tls, local=local)
    async with connect_to_mesh(mesh_socket) as channel, open_collapsing_nursery() as nursery:
        await nursery.start(keep_registered, channel, registration)
        yield
        nursery.cancel_scope.cancel()


async def resolve_remote_service(
    channel: CallDestination, service: str, *, wait_for_ready: bool | None = None
) -> ServiceState:
    """Return the state of a service.

    Raises:
        NotFoundError: The mesh has no such service.
    """
    resolve = make_multicallable(channel, _RESOLVE)
    request = messages.ResolveRequest(service=service)
    return state_from_message(await resolve(request, wait_for_ready=wait_for_ready))


async def watch_remote_service(
    channel: CallDestination, service: str, on_update: Callable[[ServiceState | None], None]
) -> None:
    """Call `on_update` with the state of a service, at once and after each change.

    If the first attempt fails, because no mesh answers or it refuses, `on_update` is called with
    None. Runs until it is cancelled. When the mesh is gone the last state stays, and the watch is
    renewed when there is another one, whose registered endpoints may take `_STALE_TIMEOUT` to
    return.
    """
    watch, request = make_multicallable(channel, _WATCH), messages.ResolveRequest(service=service)
    cache, failures, is_refused = ServiceStateCache(on_update), 0, False
    is_first = True
    expiry_scope = trio.CancelScope()
    try:
        while True:
            try:
                async with watch(request, wait_for_ready=False if is_first else None) as call:
                    async for message in call:
                        is_first = False
                        cache.update(state_from_message(message), is_new_mesh=failures > 0)
                        if failures:
                            expiry_scope.cancel()
                            expiry_scope = trio.CancelScope()
                            channel.nursery.start_soon(cache.expire_stale, expiry_scope)
                        failures, is_refused = 0, False
            except (purerpc.PermissionDeniedError, purerpc.ResourceExhaustedError) as exc:
                # The first attempt's failure is reported by `on_update`.
                if not (is_first or is_refused):
                    _log.warning("watching %s failed: %s", service, exc.status.status_message)
                is_refused = not is_first
            except purerpc.RpcFailedError:
                pass
            if is_first:
                on_update(None)
                is_first = False
            failures += 1
            backoff = RECONNECT_BACKOFF if is_refused else LOCAL_RECONNECT_BACKOFF
            await trio.sleep(backoff.delay(failures, RNG))
    finally:
        expiry_scope.cancel()


@attrs.define
class ServiceStateCache:
    """The state of a service, kept over restarts of the mesh."""

    _on_update: Callable[[ServiceState], None]
    _state: ServiceState = attrs.field(factory=ServiceState)
    _stale_endpoints: tuple[Endpoint, ...] = ()
    """Endpoints that an earlier mesh listed, and that may register again."""

    def update(self, state: ServiceState, *, is_new_mesh: bool) -> None:
        """Set the state; `is_new_mesh` if it may come from another mesh than the one before."""
        if is_new_mesh:
            self._stale_endpoints = (*self._state.endpoints, *self._stale_endpoints)
        listed = {endpoint.address for endpoint in state.endpoints}
        exited = {exit_info.endpoint_id for exit_info in state.exit_infos}
        self._stale_endpoints = tuple(
            endpoint
            for endpoint in self._stale_endpoints
            if endpoint.address not in listed and endpoint.id not in exited
        )
        self._state = state
        self._publish()

    async def expire_stale(self, scope: trio.CancelScope) -> None:
        """Drop the endpoints that have not returned after `_STALE_TIMEOUT`, unless cancelled."""
        with scope:
            await trio.sleep(_STALE_TIMEOUT)
            if self._stale_endpoints:
                self._stale_endpoints = ()
                self._publish()

    def _publish(self) -> None:
        state = self._state
        self._on_update(state.replace(endpoints=state.endpoints + self._stale_endpoints))


async def keep_registered(
    channel: CallDestination,
    registration: Any,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep an endpoint registered, again whenever the mesh restarts.

    Args:
        channel: Channel to the mesh.
        registration: A RegisterRequest.
        task_status: Reports the start once the endpoint is registered.

    Raises:
        AbortedError: Another client has registered the address.
        InvalidArgumentError: The registration is invalid.
        PermissionDeniedError: The caller may not register the service.
        ResourceExhaustedError: The first registration exceeded a limit.
        UnimplementedError: The mesh has no registry.

    Cancellation: removes the registration.
    """
    register_endpoint = make_multicallable(channel, _REGISTER)
    failures, is_registered = 0, False
    while True:
        backoff = LOCAL_RECONNECT_BACKOFF
        try:
            async with register_endpoint(registration) as call:
                if await call.receive_message() is not None:
                    failures, is_registered = 0, True
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await call.receive_message()
        except _FATAL_ERRORS:
            raise
        except purerpc.RpcFailedError as exc:
            if isinstance(exc, purerpc.ResourceExhaustedError):
                if not is_registered:
                    raise
                backoff = RECONNECT_BACKOFF
            reason = exc.status.status_message
            _log.info("registration of %s lost: %s; retrying", registration.service, reason)
        failures += 1
        await trio.sleep(backoff.delay(failures, RNG))
