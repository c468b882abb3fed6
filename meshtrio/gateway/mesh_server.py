"""The servers on the mesh socket and on the gateway's port."""

from __future__ import annotations

import logging
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import attrs
import trio

from meshtrio.config import GatewayConfig, GatewaySecurity, MeshConfig
from meshtrio.discovery.registry import Registry
from meshtrio.gateway.mesh_socket import serve_mesh_socket
from meshtrio.gateway.proxied_health import ProxiedHealth
from meshtrio.gateway.router import Router
from meshtrio.http2.limits import Limits
from meshtrio.rpc.peer_accounts import BudgetSetting, BudgetSettings
from meshtrio.rpc.server import Server
from meshtrio.rpc.timeouts import NETWORK_TIMEOUTS, Timeouts
from meshtrio.runtime_dir.claim import ClaimedRuntimeDir
from meshtrio.services.access_control import AccessControl, allows_other_users
from meshtrio.services.call_quota import CallQuota
from meshtrio.services.control import ControlServicer, ErrorTranslator
from meshtrio.services.event_log import EventLog
from meshtrio.services.health import HealthServicer
from meshtrio.services.load_reports import LoadReports
from meshtrio.services.log_level_controller import LogLevelController
from meshtrio.services.registry import RegistryServicer
from meshtrio.services.standard import add_standard_services
from meshtrio.supervisor.operations import Operations
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.telemetry.metrics import Metrics
from meshtrio.telemetry.metrics.gateway_metrics import GatewayMetrics
from meshtrio.transport.listener import tcp_listener
from meshtrio.transport.tls import make_server_ssl_context
from meshtrio.util.caches import IdentityCache
from meshtrio.util.concurrency import background_service, open_collapsing_nursery
from meshtrio.util.errors import ConfigError, UsageError

_log = logging.getLogger("meshtrio.mesh")


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
    ) -> None:
        """Initialize the servers; `metrics` is None if metrics are off."""
        self._supervisor = supervisor
        self._metrics = metrics
        self._load_reports = LoadReports(registry)
        self._log_levels = log_levels
        gateway_metrics = None
        if metrics is not None:
            gateway_metrics = GatewayMetrics()
            metrics.add_source(gateway_metrics.collect)
        list_services = IdentityCache(_list_grpc_services, max_entries=1)
        self._router = Router(registry, lambda: list_services(supervisor.config), gateway_metrics)
        self._proxied_health = ProxiedHealth(registry, self._router)
        control = ControlServicer(
            supervisor, registry, operations, event_log, self._load_reports, log_levels
        )
        self._servicers = control, RegistryServicer(registry, lambda: supervisor.config)
        self._call_quota = CallQuota(lambda: supervisor.config.limits.max_calls_per_user)

    @asynccontextmanager
    async def running(self, claim: ClaimedRuntimeDir) -> AsyncIterator[None]:
        """Serve during the block, and until it has exited.

        Raises:
            UsageError: A socket or port cannot be bound.
            ConfigError: The TLS files cannot be used.
        """
        async with (
            background_service(self._router.run),
            background_service(self._load_reports.run),
            background_service(self._log_levels.run),
            background_service(self._serve_sockets, claim),
        ):
            yield

    async def _serve_sockets(
        self, claim: ClaimedRuntimeDir, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Serve on the mesh socket and the gateway's port; both are shut down concurrently."""
        config = self._supervisor.config.gateway
        async with open_collapsing_nursery() as nursery:
            await nursery.start(
                serve_mesh_socket,
                self._supervisor.mesh_socket,
                claim,
                self._make_server(),
                lambda: allows_other_users(self._supervisor.config.access),
                config.drain_timeout,
            )
            if config.listen is not None:
                await nursery.start(self._serve_port, config)
            task_status.started()

    async def _serve_port(
        self, config: GatewayConfig, *, task_status: trio.TaskStatus[None]
    ) -> None:
        assert config.listen is not None
        context = _make_ssl_context(config)
        is_plaintext = config.security is GatewaySecurity.PLAINTEXT
        with ExitStack() as stack:
            try:
                listener = stack.enter_context(tcp_listener(config.listen))
            except UsageError as exc:
                raise UsageError(f"[mesh.gateway] listen: {exc}") from None
            server = self._make_server(allow_anonymous=is_plaintext, timeouts=NETWORK_TIMEOUTS)
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
        health = HealthServicer(fallback=self._proxied_health, shutdown_started=stopping)
        server = Server(
            *self._servicers,
            health,
            limits=attrs.evolve(
                _BASE_LIMITS,
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
        )
        get_sources = self._router.service_index.list_reflection_sources
        add_standard_services(
            server, health, get_proxied_sources=get_sources, metrics=self._metrics
        )
        return server


def _list_grpc_services(config: MeshConfig) -> Mapping[str, Iterable[str]]:
    """Return the gRPC services that a config lists, by service of the mesh."""
    services: defaultdict[str, set[str]] = defaultdict(set)
    for plugin in config.plugins:
        services[plugin.service].update(plugin.services)
    for table in config.services:
        services[table.name].update(table.services)
    return services


def _make_ssl_context(config: GatewayConfig) -> ssl.SSLContext | None:
    if config.tls is None:
        return None
    try:
        files = config.tls
        return make_server_ssl_context(files.certificate, files.key, files.client_ca)
    except OSError as exc:
        raise ConfigError([f"mesh: gateway: tls: cannot be used: {exc.strerror or exc}"]) from None
