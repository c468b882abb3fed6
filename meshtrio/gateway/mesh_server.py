"""The servers on the mesh socket and on the gateway's port.

The mesh socket is bound again if it is removed.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from meshtrio.config import GatewayConfig, GatewaySecurity
from meshtrio.discovery.registry import Registry
from meshtrio.gateway.balancing_state import list_balancing
from meshtrio.gateway.configured_services import ConfiguredServices
from meshtrio.gateway.router import Router
from meshtrio.http2.limits import Limits
from meshtrio.rpc.method_load import MethodTracker
from meshtrio.rpc.peer_accounts import BudgetSetting, BudgetSettings
from meshtrio.rpc.server import Server
from meshtrio.rpc.timeouts import NETWORK_TIMEOUTS, Timeouts
from meshtrio.runtime_dir.claim import ClaimedRuntimeDir
from meshtrio.services.access_control import AccessControl, allows_other_users
from meshtrio.services.call_quota import CallQuota
from meshtrio.services.control import ControlServicer, ErrorTranslator
from meshtrio.services.event_log import EventLog
from meshtrio.services.health import HealthServicer
from meshtrio.services.history import ProcessHistory
from meshtrio.services.load_reports import LoadReports
from meshtrio.services.log_level_controller import LogLevelController
from meshtrio.services.method_statistics import GatewayKey
from meshtrio.services.registry import RegistryServicer
from meshtrio.services.standard import add_standard_services
from meshtrio.supervisor.operations import Operations
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.telemetry.metrics import Metrics
from meshtrio.telemetry.metrics.call_metrics import GatewayMetrics
from meshtrio.transport.listener import PassedListener, tcp_listener, unix_listener
from meshtrio.transport.tls import make_server_ssl_context
from meshtrio.util.concurrency import background_service, open_collapsing_nursery, sleep_until_tick
from meshtrio.util.errors import ConfigError, MeshtrioError, UsageError
from meshtrio.util.log_once import ReasonChangeLogger

if TYPE_CHECKING:
    from meshtrio.cluster.node import Node

_log = logging.getLogger("meshtrio.mesh")

_CHECK_INTERVAL = 1.0
"""Seconds between two checks of the mesh socket."""


_HANDLER_DRAIN_TIMEOUT = 0.3
"""Seconds for which calls of the mesh's own services may end by themselves before an upgrade; most
of those that take longer are watches, which clients renew."""
_BASE_LIMITS = Limits(max_concurrent_streams=256)
"""Limits of a connection: one client must not take all concurrent streams of a plugin."""

_BUDGET_SETTINGS = BudgetSettings(
    connection=BudgetSetting("[mesh.gateway] max_memory_per_peer", ratio=0.5),
    peer=BudgetSetting("[mesh.gateway] max_memory_per_peer"),
    process=BudgetSetting("[mesh.gateway] max_memory"),
)


class MeshServer:
    """The servers of one mesh."""

    def __init__(
        self,
        supervisor: Supervisor,
        registry: Registry,
        operations: Operations,
        event_log: EventLog,
        log_levels: LogLevelController,
        metrics: Metrics | None = None,
        node: Node | None = None,
    ) -> None:
        """Initialize the servers.

        `metrics` is None if metrics are off, `node` if the mesh is not one of several.
        """
        self._supervisor = supervisor
        self._metrics = metrics
        self._load_reports = LoadReports(registry)
        self._log_levels = log_levels
        gateway_metrics = None
        if metrics is not None:
            gateway_metrics = GatewayMetrics()
            metrics.add_source(gateway_metrics.collect)
        self._router = Router(
            registry,
            ConfiguredServices(supervisor).get,
            gateway_metrics,
            supervisor.config.gateway.max_busy_poll,
            supervisor.config.discovery.prefix,
        )
        self.history = ProcessHistory(supervisor)
        parts = event_log, self._load_reports, log_levels, node, self.history, self
        control = ControlServicer(supervisor, registry, operations, *parts)
        self.registry_servicer = RegistryServicer(registry, lambda: supervisor.config)
        self._servicers = control, self.registry_servicer
        self._call_quota = CallQuota(lambda: supervisor.config.limits.max_calls_per_user)
        self._servers: list[Server] = []

    # -- for `ControlServicer` ---------------------------------------------------------------

    def watch_calls(self) -> AbstractContextManager[MethodTracker[GatewayKey]]:
        """Count the gateway's calls by method during the block, those under way included."""
        connections = (each for server in self._servers for each in server.connections)
        streams = [stream for each in connections for stream in each.streams.values()]
        return self._router.watch_calls(streams)

    def list_balancing(self, services: Sequence[str]) -> list[Any]:
        """Return the ServiceBalancing messages of the services that have been called."""
        return list_balancing(self._router, services)

    async def release_connections(self) -> None:
        """Have all clients connect again; see `Server.release_connections`."""
        grace = self._supervisor.config.gateway.drain_timeout
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(server.release_connections, _HANDLER_DRAIN_TIMEOUT, grace)

    @asynccontextmanager
    async def running(
        self,
        claim: ClaimedRuntimeDir,
        mesh_socket: PassedListener | None = None,
        gateway: PassedListener | None = None,
    ) -> AsyncIterator[None]:
        """Serve during the block, and until it has exited.

        `mesh_socket` and `gateway` are listening sockets that a service manager has passed, of
        those that it has; they are closed.

        Raises:
            UsageError: A socket or port cannot be bound.
            ConfigError: The TLS files cannot be used.
        """
        async with (
            background_service(self._router.run),
            background_service(self._load_reports.run),
            background_service(self._log_levels.run),
            background_service(self._serve_sockets, claim, mesh_socket, gateway),
        ):
            yield

    async def _serve_sockets(
        self,
        claim: ClaimedRuntimeDir,
        mesh_socket: PassedListener | None,
        gateway: PassedListener | None,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Serve on the mesh socket and the gateway's port; both are shut down concurrently."""
        config = self._supervisor.config.gateway
        context = None
        if (tls := config.tls) is not None:
            try:
                context = make_server_ssl_context(tls.certificate, tls.key, tls.client_ca)
            except OSError as exc:
                text = f"mesh: gateway: tls: cannot be used: {exc.strerror or exc}"
                raise ConfigError([text]) from None
        async with open_collapsing_nursery() as nursery:
            await nursery.start(self._serve_mesh_socket, claim, mesh_socket)
            if config.listen is not None:
                await nursery.start(self._serve_port, config, context, gateway)
            task_status.started()

    async def _serve_mesh_socket(
        self,
        claim: ClaimedRuntimeDir,
        passed: PassedListener | None,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Serve on the mesh socket until cancelled, then shut the server down.

        If the socket or its directory is removed, both are created again within a second. Connected
        clients stay connected, and their calls continue.

        Raises:
            UsageError: The socket cannot be bound at the start.
        """
        path, server = self._supervisor.mesh_socket, self._make_server()
        drain_timeout = self._supervisor.config.gateway.drain_timeout
        with ExitStack() as stack:
            bound = ExitStack()
            stack.callback(lambda: bound.close())
            listener = bound.enter_context(unix_listener(path) if passed is None else passed)
            async with background_service(server.serve, listener):
                task_status.started()
                try:
                    while True:
                        await _wait_until_lost(path, claim, self._is_shared)
                        _log.error("mesh socket %s was removed; recreating", path)
                        # Also if it was systemd's: no client reaches that any more.
                        claim.keep_mesh_socket = False
                        previous, bound = bound, ExitStack()
                        # The server closes the previous socket when it moves.
                        with previous:
                            server.replace_listener(await _rebind(path, claim, bound))
                finally:
                    with trio.CancelScope(shield=True):
                        await server.shut_down(drain_timeout)

    def _is_shared(self) -> bool:
        """Return whether other users may connect; access is checked for each call."""
        return allows_other_users(self._supervisor.config.access)

    async def _serve_port(
        self,
        config: GatewayConfig,
        context: ssl.SSLContext | None,
        passed: PassedListener | None,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        assert config.listen is not None
        is_plaintext = config.security is GatewaySecurity.PLAINTEXT
        with ExitStack() as stack:
            try:
                listener = stack.enter_context(
                    tcp_listener(config.listen) if passed is None else passed
                )
            except UsageError as exc:
                raise UsageError(f"[mesh.gateway] listen: {exc}") from None
            timeouts = NETWORK_TIMEOUTS.replace(
                max_connection_age=_or_unlimited(config.max_connection_age),
                max_connection_age_grace=_or_unlimited(config.max_connection_age_grace),
            )
            server = self._make_server(allow_anonymous=is_plaintext, timeouts=timeouts)
            if is_plaintext:
                text = "gateway on %s is unauthenticated: any client can call every plugin"
                _log.warning(text, config.listen)
            async with background_service(partial(server.serve, ssl_context=context), listener):
                _log.info("gateway listening on %s", config.listen)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await server.shut_down(config.drain_timeout)

    def _make_server(
        self, *, allow_anonymous: bool = False, timeouts: Timeouts | None = None
    ) -> Server:
        config = self._supervisor.config.gateway
        access_control = AccessControl(
            lambda: self._supervisor.config.access, allow_anonymous=allow_anonymous
        )
        # NOT_SERVING while the mesh stops, in which it still serves draining plugins.
        stopping = self._supervisor.shutdown_started
        health = HealthServicer(fallback=self._router, shutdown_started=stopping)
        server = Server(
            *self._servicers,
            health,
            limits=_BASE_LIMITS.replace(
                max_connections=config.max_connections,
                max_connections_per_peer=config.max_connections_per_peer,
                max_header_list_size=config.max_header_list_size,
                reset_burst=config.reset_burst,
                reset_rate=config.reset_rate,
                connection_memory=max(
                    int(config.max_memory_per_peer * _BUDGET_SETTINGS.connection.ratio), 1
                ),
                peer_memory=config.max_memory_per_peer,
                process_memory=config.max_memory,
            ),
            budget_settings=_BUDGET_SETTINGS,
            timeouts=timeouts,
            interceptors=[self._call_quota, ErrorTranslator()],
            forwarder=self._router,
            check_access=access_control.get_denial_reason,
            max_busy_poll=config.max_busy_poll,
        )
        self._servers.append(server)
        get_sources = self._router.service_index.list_reflection_sources
        add_standard_services(
            server, health, get_proxied_sources=get_sources, metrics=self._metrics
        )
        return server


def _or_unlimited(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


async def _rebind(path: Path, claim: ClaimedRuntimeDir, socket_stack: ExitStack) -> socket.socket:
    while True:
        try:
            if claim.is_lost:
                claim.recreate()
            return socket_stack.enter_context(unix_listener(path))
        except (MeshtrioError, OSError) as exc:
            _log.error("cannot recreate the mesh socket: %s; retrying", exc)
            await trio.sleep(_CHECK_INTERVAL)


def _set_mode(
    path: Path, own_stat: os.stat_result, claim: ClaimedRuntimeDir, is_shared: bool
) -> None:
    """Set the mode of the socket. Raises FileNotFoundError if it is no longer ours."""
    if is_shared:
        claim.allow_traversal()
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(fd), own_stat):
            raise FileNotFoundError
        # Access is checked for each call. An O_PATH descriptor does not support fchmod(2).
        fd_path = f"/proc/self/fd/{fd}"
        os.chmod(fd_path if os.path.lexists(fd_path) else path, 0o666 if is_shared else 0o600)
    finally:
        os.close(fd)


async def _wait_until_lost(
    path: Path, claim: ClaimedRuntimeDir, is_shared: Callable[[], bool]
) -> None:
    """Wait until the path or its directory is gone or replaced; meanwhile keep the mode set."""
    own_stat: os.stat_result | None = None
    applied_shared: bool | None = None
    failures = ReasonChangeLogger(_log, level=logging.ERROR)
    while True:
        try:
            found = os.lstat(path)
            own_stat = own_stat or found
            if not os.path.samestat(found, own_stat):
                return
            if claim.is_lost:
                claim.recreate()  # Only the lock file was removed.
            if is_shared() is not applied_shared:
                applied_shared = is_shared()
                _set_mode(path, own_stat, claim, applied_shared)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            text = "cannot check the mesh socket %s: %s; retrying"
            failures.log(str(exc), text, path, exc.strerror)
        except ConfigError as exc:
            failures.log(str(exc), "cannot recreate the lock file: %s; retrying", exc)
        await sleep_until_tick(_CHECK_INTERVAL)
