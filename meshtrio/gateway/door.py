"""What a mesh serves on its socket and on the gateway's port: its services, and the plugins'."""

from __future__ import annotations

import logging
import socket
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial

import attrs
import trio

from meshtrio.config import GatewayConfig, MeshConfig, Security
from meshtrio.errors import ConfigError, UsageError
from meshtrio.gateway.gateway import Gateway
from meshtrio.gateway.health import PassedHealth
from meshtrio.registry import Registry
from meshtrio.rpc.listener import tcp_listener
from meshtrio.rpc.server import Server
from meshtrio.rpc.timeouts import ACROSS_A_NETWORK, Timeouts
from meshtrio.rpc.tls import server_context
from meshtrio.runtime_dir import Claim
from meshtrio.services.access import Gatekeeper, is_shared
from meshtrio.services.chronicle import Chronicle
from meshtrio.services.control import ControlServicer
from meshtrio.services.loads import Loads
from meshtrio.services.log_levels import LogLevels
from meshtrio.services.mesh_socket import serve_mesh_socket
from meshtrio.services.quotas import CallQuota
from meshtrio.services.registry import RegistryServicer
from meshtrio.services.standard import standard_server
from meshtrio.structured import running, settle
from meshtrio.supervise.operations import Operations
from meshtrio.supervise.tree import Tree
from meshtrio.telemetry.metrics import Metrics
from meshtrio.telemetry.metrics.passed import PassedCalls
from meshtrio.wire.limits import Limits

_log = logging.getLogger("meshtrio.mesh")


_LIMITS = Limits(max_concurrent_streams=256)
"""One caller shall not have all the places that a plugin has."""


class Door:
    """The servers of one mesh."""

    def __init__(
        self,
        tree: Tree,
        registry: Registry,
        operations: Operations,
        chronicle: Chronicle,
        log_levels: LogLevels,
        metrics: Metrics | None = None,
    ) -> None:
        """`metrics`: what the mesh's process measures, if it does."""
        self._tree = tree
        self._metrics = metrics
        self._loads = Loads(registry)
        self._log_levels = log_levels
        passed = None if metrics is None else PassedCalls()
        if metrics is not None and passed is not None:
            metrics.include(passed.families)
        self._gateway = Gateway(registry, _Configured(tree), passed)
        self._health = PassedHealth(registry, self._gateway)
        self._servicers = (
            ControlServicer(tree, registry, operations, chronicle, self._loads, log_levels),
            RegistryServicer(registry, lambda: tree.config),
        )
        self._quota = CallQuota(lambda: tree.config.limits.max_calls_per_user)

    @asynccontextmanager
    async def opened(self, claim: Claim) -> AsyncIterator[None]:
        """Serve during the block, and until it is quite done.

        Raises UsageError for what cannot be bound, and ConfigError for TLS files that cannot be
        used.
        """
        config = self._tree.config.gateway
        context = _tls(config)
        async with (
            running(self._gateway.run),
            running(self._serve_loads),
            running(self._log_levels.run),
            running(self._serve_sockets, claim, context),
        ):
            yield

    async def _serve_loads(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await self._loads.run()

    async def _serve_sockets(
        self, claim: Claim, context: ssl.SSLContext | None, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Serve on the mesh socket and the gateway's port, which are shut down at the same time."""
        config = self._tree.config.gateway
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    serve_mesh_socket,
                    self._tree.mesh_socket,
                    claim,
                    self._server(),
                    lambda: is_shared(self._tree.config.access),
                    config.drain_timeout,
                )
                if config.listen is not None:
                    await nursery.start(self._serve_port, config, context)
                task_status.started()
        except BaseExceptionGroup as group:
            raise settle(group) from None

    async def _serve_port(
        self,
        config: GatewayConfig,
        context: ssl.SSLContext | None,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        assert config.listen is not None
        open_to_all = config.security is Security.PLAINTEXT
        with _listening(config.listen) as listener:
            server = self._server(open_to_all=open_to_all, timeouts=ACROSS_A_NETWORK)
            if open_to_all:
                _log.warning("any client that reaches %s may call every plugin", config.listen)
            async with running(partial(server.serve, ssl_context=context), listener):
                _log.info("the gateway listens on %s", config.listen)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await server.shut_down(config.drain_timeout)

    def _server(self, *, open_to_all: bool = False, timeouts: Timeouts | None = None) -> Server:
        config = self._tree.config.gateway
        keeper = Gatekeeper(lambda: self._tree.config.access, open_to_all=open_to_all)
        return standard_server(
            *self._servicers,
            limits=attrs.evolve(
                _LIMITS,
                max_connections=config.max_connections,
                max_connections_per_peer=config.max_connections_per_peer,
                max_header_list_size=config.max_header_list_size,
                reset_burst=config.reset_burst,
                reset_rate=config.reset_rate,
                connection_memory=max(config.max_memory_per_peer // 2, 1),
                peer_memory=config.max_memory_per_peer,
                process_memory=config.max_memory,
            ),
            timeouts=timeouts,
            interceptors=[self._quota],
            forwarder=self._gateway,
            admit=keeper.refusal,
            others=self._gateway.catalog.described,
            others_health=self._health,
            metrics=self._metrics,
        )[0]


class _Configured:
    """What the config says of the gRPC services that plugins serve: the same while it is."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._config: MeshConfig | None = None
        self._found: Mapping[str, Iterable[str]] = {}

    def __call__(self) -> Mapping[str, Iterable[str]]:
        if self._tree.config is not self._config:
            self._config = self._tree.config
            found: defaultdict[str, set[str]] = defaultdict(set)
            for plugin in self._config.plugins:
                found[plugin.service].update(plugin.services)
            for table in self._config.services:
                found[table.name].update(table.services)
            self._found = found
        return self._found


@contextmanager
def _listening(where: str) -> Iterator[socket.socket]:
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(tcp_listener(where))
        except UsageError as exc:
            raise UsageError(f"[mesh.gateway] listen: {exc}") from None
        yield listener


def _tls(config: GatewayConfig) -> ssl.SSLContext | None:
    if config.tls is None:
        return None
    try:
        files = config.tls
        return server_context(files.certificate, files.key, files.client_ca)
    except OSError as exc:
        raise ConfigError([f"mesh: gateway: tls: cannot be used: {exc.strerror or exc}"]) from None
