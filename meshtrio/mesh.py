"""The façade: run a mesh, and connect to one.

trio.run(mesh.main, config)                    # a whole program
m = await nursery.start(mesh.main, config)     # inside one
async with m.connect("plugin.echo") as channel: ...
async with mesh.connect("plugin.echo") as channel: ...    # from any other process
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import purerpc
import trio

from meshtrio.client import registry_client
from meshtrio.client.channel import Channel, connect_to, open_channel
from meshtrio.client.interceptors import Interceptor
from meshtrio.config import MeshConfig
from meshtrio.config.async_loading import load_in_thread
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.exit_info import ExitInfo
from meshtrio.discovery.memory_registry import MemoryRegistry
from meshtrio.discovery.registry import UnknownServiceError, watch_service
from meshtrio.discovery.registry_messages import make_register_request
from meshtrio.discovery.service_state import ServiceState
from meshtrio.discovery.static import make_external_endpoint
from meshtrio.errors import RESOURCE_EXHAUSTED_ERRNOS, NoMeshError, UntrustedMeshError, UsageError
from meshtrio.gateway.mesh_server import MeshServer
from meshtrio.grpc.service_config import ServiceConfig, parse_service_config
from meshtrio.http2.limits import UNLIMITED
from meshtrio.rpc.method import MetadataLike
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.runtime_dir import directory
from meshtrio.services.event_log import EventLog
from meshtrio.services.log_level_controller import LogLevelController
from meshtrio.services.telemetry_setup import mesh_telemetry
from meshtrio.supervisor import events
from meshtrio.supervisor.instance import InstanceStatus
from meshtrio.supervisor.operations import Operations
from meshtrio.supervisor.process.cleanup.mesh_exit import wait_for_mesh_exit
from meshtrio.supervisor.process.cleanup.mesh_run import (
    PROC_PASS_TIMEOUT,
    PROC_SCAN_TIMED_OUT,
    kill_earlier_runs,
)
from meshtrio.supervisor.shutdown_report import ShutdownReport
from meshtrio.supervisor.statistics import MeshStatistics
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.telemetry.logs.event_logger import log_event
from meshtrio.transport.dial import connect_socket
from meshtrio.transport.unix_connect import WrongServerError
from meshtrio.util.address import ClientTlsConfig
from meshtrio.util.concurrency import open_collapsing_nursery, require_trio

_log = logging.getLogger("meshtrio.mesh")

_ACCEPT_TIMEOUT = 5.0
"""Seconds that a mesh whose backlog is full has to accept a connection."""

__all__ = ["Mesh", "connect", "main", "register"]


class Mesh:
    """A running mesh, in the process that runs it.

    `start`, `stop`, `drain`, `restart`, `scale`, `reload` and `lines` are those of `Operations`,
    `set_log_level` is `LogLevelController.set`.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        registry: MemoryRegistry,
        operations: Operations,
        log_levels: LogLevelController,
    ) -> None:
        """Not for users, who get one from `main`."""
        self.socket = supervisor.mesh_socket
        self._supervisor = supervisor
        self._registry = registry
        self.start = operations.start
        self.stop = operations.stop
        self.drain = operations.drain
        self.restart = operations.restart
        self.scale = operations.scale
        self.reload = operations.reload
        self.log_lines = operations.log_lines
        self.set_log_level = log_levels.set_level

    @asynccontextmanager
    async def connect(
        self,
        service: str,
        *,
        service_config: Mapping[str, Any] | None = None,
        timeouts: Timeouts | None = None,
        interceptors: Sequence[Interceptor] = (),
        metadata: MetadataLike = (),
        max_receive_message_length: int | None = None,
        max_send_message_length: int | None = None,
    ) -> AsyncIterator[Channel]:
        """Open a channel to a service, `plugin.<name>`, for the block.

        Does not wait: a call waits for a ready instance, within its caller's cancel scope.
        `config` is a service config, in gRPC's JSON form, to go by instead of the mesh's;
        `timeouts` say when a silent peer counts as lost; `metadata` goes out with every call, and
        `interceptors` are around each. `max_receive_message_length` and `max_send_message_length`
        limit one message, in bytes before compression and after decompression; -1 is no limit. The
        smaller of them and the service config's maxResponseMessageBytes and maxRequestMessageBytes
        is in force, per method; if neither is set, 4 MiB may be received and any length sent.
        Raises ConfigError, UsageError for a length that is none, and NotFoundError, naming the
        services there are, for one the mesh does not know.
        """
        try:
            known = self._registry.resolve(service)
        except UnknownServiceError as exc:
            raise purerpc.NotFoundError(str(exc)) from None
        feed = partial(watch_service, self._registry, service)
        key = (id(self._registry), service)
        async with open_channel(
            service,
            feed,
            resolver_key=key,
            initial_state=known,
            service_config=_parse_service_config(service_config),
            timeouts=timeouts,
            interceptors=interceptors,
            metadata=metadata,
            max_receive_message_length=max_receive_message_length,
            max_send_message_length=max_send_message_length,
        ) as channel:
            yield channel

    @contextmanager
    def register(
        self,
        service: str,
        address: str,
        *,
        weight: int = 1,
        local: bool | None = None,
        tls: ClientTlsConfig | None = None,
    ) -> Iterator[None]:
        """Have an endpoint that the mesh does not run among those of a service, for the block.

        `address`: `tcp:host:port` or `unix:/path`; the other values are those of a [[service]]
        table. Raises UsageError for an address of another form, and one that is there already.
        """
        try:
            endpoint = make_external_endpoint(address, weight, tls, local=local)
            self._registry.register(service, endpoint)
        except ValueError as exc:
            raise UsageError(str(exc)) from None
        try:
            yield
        finally:
            reason = f"{endpoint.address} was taken out by who had registered it"
            self._registry.deregister(service, ExitInfo(endpoint.id, reason))

    @property
    def config(self) -> MeshConfig:
        """What it goes by now: what `main` was given, and what was reloaded and scaled since."""
        return self._supervisor.config

    def instances(self) -> tuple[InstanceStatus, ...]:
        """Every instance as it is now, in the order of the config."""
        return self._supervisor.statuses()

    def statistics(self) -> MeshStatistics:
        """The mesh, its groups and its plugins in numbers, as they are now."""
        return self._supervisor.statistics()

    @property
    def shutdown_report(self) -> ShutdownReport:
        """What stopped by itself, what was killed, and what could not be; complete after `main`."""
        return self._supervisor.shutdown_report

    def subscribe(self, subscriber: Callable[[events.LifecycleEvent], None]) -> None:
        """Have `subscriber` called, in place, with every lifecycle event from now on.

        What it raises is logged and goes no further, except for SystemExit and KeyboardInterrupt:
        they stop the mesh, and `main` raises them once everything has stopped.
        """
        self._supervisor.subscribe(subscriber)


async def main(
    config: MeshConfig | Path | str,
    *,
    task_status: trio.TaskStatus[Mesh] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a mesh, from a config or the path of a TOML file, until cancelled.

    Reports a `Mesh` as started once the mesh socket answers and the plugins are being started.
    When cancelled, or interrupted by Ctrl-C, every plugin is stopped before this returns: SIGTERM,
    its stop_timeout, SIGKILL; those that others `depends_on` come last. Raises ConfigError before
    anything was started, and MeshFailedError, with everything stopped, when a plugin's failure was
    escalated to the mesh. In a plugin of another mesh it also stops, and returns, when the process
    of that mesh has ended.
    """
    require_trio("mesh.main")
    if not isinstance(config, MeshConfig):
        config = await load_in_thread(config)
    directory.validate(config)
    folder = directory.resolve_runtime_dir(config)
    with directory.claim_runtime_dir(folder) as claim:
        await _kill_leftover_processes(claim)
        registry, chronicle = MemoryRegistry(), EventLog()
        tree = Supervisor(config, registry, folder, [log_event, chronicle.on_event])
        operations = Operations(tree)
        log_levels = LogLevelController(tree, registry, operations)
        tree.subscribe(log_levels.on_event)
        try:
            async with (
                mesh_telemetry(tree, registry) as metrics,
                MeshServer(tree, registry, operations, chronicle, log_levels, metrics).running(
                    claim
                ),
                open_collapsing_nursery() as nursery,
            ):
                await nursery.start(tree.run)
                nursery.start_soon(_stop_with_outer_mesh, nursery.cancel_scope)
                task_status.started(Mesh(tree, registry, operations, log_levels))
        finally:
            _log.info("the mesh has stopped: %s", tree.shutdown_report)


async def _stop_with_outer_mesh(scope: trio.CancelScope) -> None:
    """Stop a mesh that is part of a plugin when the mesh that has started the plugin has ended."""
    if await wait_for_mesh_exit():
        _log.warning("the mesh that has started this program has ended; stopping")
        scope.cancel()


async def _kill_leftover_processes(claim: directory.ClaimedRuntimeDir) -> None:
    """End what meshes that were killed together with their wardens have left in a runtime dir."""
    earlier = claim.recorded_mesh_runs()
    if not earlier:
        return
    try:
        with trio.move_on_after(PROC_PASS_TIMEOUT, shield=True):
            gone = await trio.to_thread.run_sync(kill_earlier_runs, earlier, abandon_on_cancel=True)
            claim.remove_mesh_runs(gone)
            return
        _log.warning("%s", PROC_SCAN_TIMED_OUT)
    except (OSError, RuntimeError) as exc:
        _log.warning("cannot look for what an earlier mesh has left: %s", exc)


@asynccontextmanager
async def connect(
    service: str,
    *,
    mesh_socket: Path | str | None = None,
    service_config: Mapping[str, Any] | None = None,
    timeouts: Timeouts | None = None,
    interceptors: Sequence[Interceptor] = (),
    metadata: MetadataLike = (),
    max_receive_message_length: int | None = None,
    max_send_message_length: int | None = None,
) -> AsyncIterator[Channel]:
    """Open a channel to a service of a mesh that runs in another process, for the block.

    The mesh is found by `mesh_socket_path`, else the environment's MESH_SOCKET, else the default
    runtime dir, in which it has to be a mesh of one's own user or of root. It only tells where the
    instances are: calls go straight to their sockets, and go on when the mesh is gone. The other
    arguments are those of `Mesh.connect`. Raises ConfigError, NoMeshError where no mesh answers,
    UntrustedMeshError where another user could answer in its place, and NotFoundError, naming the
    services there are, for a service it does not know.
    """
    require_trio("mesh.connect")
    async with connect_to_mesh(mesh_socket) as mesh:
        known = await registry_client.resolve_remote_service(mesh, service)
        where = mesh_socket_endpoint(mesh_socket)
    feed = partial(_watch_service, where, service)
    async with open_channel(
        service,
        feed,
        resolver_key=(where, service),
        initial_state=known,
        service_config=_parse_service_config(service_config),
        timeouts=timeouts,
        interceptors=interceptors,
        metadata=metadata,
        max_receive_message_length=max_receive_message_length,
        max_send_message_length=max_send_message_length,
    ) as channel:
        yield channel


async def _watch_service(
    mesh_endpoint: Endpoint, service: str, update: Callable[[ServiceState], None]
) -> None:
    """The feed of all of a process's channels to a service: one watch on the mesh socket."""
    async with connect_to(mesh_endpoint, max_receive_message_length=UNLIMITED) as mesh:
        await registry_client.watch_remote_service(mesh, service, update)


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
    """Have an endpoint among those of a service of a mesh in another process, for the block.

    `socket`: the path of a Unix socket that this program, or another one, serves on, or an address
    as in `Mesh.register`, whose other arguments are the same. The mesh is found as by `connect`;
    whenever it is started again, so is the registration. It ends with the block, or with this
    process. Raises NoMeshError where no mesh answers at first, InvalidArgumentError for what cannot
    be registered, PermissionDeniedError where the mesh does not let us, and, in the block,
    AbortedError when somebody else registers the same address.
    """
    require_trio("mesh.register")
    registration = make_register_request(service, address, weight, tls, local=local)
    async with connect_to_mesh(mesh_socket) as channel, open_collapsing_nursery() as nursery:
        await nursery.start(registry_client.keep_registered, channel, registration)
        yield
        nursery.cancel_scope.cancel()


def _parse_service_config(config: Mapping[str, Any] | None) -> ServiceConfig | None:
    return None if config is None else parse_service_config(config)


def mesh_socket_endpoint(mesh_socket: Path | str | None = None) -> Endpoint:
    """The mesh socket that a client calls, and who has to serve there; see `connect`.

    Raises UntrustedMeshError.
    """
    trusted = directory.trusted_uids(mesh_socket)
    address = f"unix:{os.path.abspath(mesh_socket or directory.find_mesh_socket())}"
    owner = None if trusted is None else os.geteuid()
    return Endpoint(id=address, address=address, server_uid=owner, allow_root=True)


@asynccontextmanager
async def connect_to_mesh(mesh_socket: Path | str | None = None) -> AsyncIterator[Channel]:
    """Open a channel to the mesh's own services.

    Raises NoMeshError where no mesh answers, and UntrustedMeshError, which is one, where another
    user could answer in its place.
    """
    require_trio("mesh.connect_to_mesh")
    where = mesh_socket_endpoint(mesh_socket)
    path = where.address.removeprefix("unix:")
    try:
        (
            await connect_socket(
                where.address, where.allowed_server_uids, backlog_timeout=_ACCEPT_TIMEOUT
            )
        ).close()
    except WrongServerError as exc:
        raise UntrustedMeshError(
            f"{path} is not the socket of a mesh of one's own user or of root: {exc.reason}; if "
            "this mesh is to be called, say so with MESH_SOCKET"
        ) from None
    except BlockingIOError:
        raise NoMeshError(
            f"the mesh at {path} accepted no connection within {_ACCEPT_TIMEOUT:g} s: it is "
            "overloaded or stopped"
        ) from None
    except PermissionError:
        raise NoMeshError(
            f"the mesh at {path} is for other users; whom it lets in is said by [mesh.access] of "
            "its config"
        ) from None
    except OSError as exc:
        if exc.errno in RESOURCE_EXHAUSTED_ERRNOS:
            raise NoMeshError(
                f"cannot connect to the mesh at {path}: {exc.strerror} in this process (see "
                "`ulimit -n`)"
            ) from None
        raise NoMeshError(
            f"no mesh answers at {path} ({exc.strerror or exc}); start one with `meshtrio serve`, "
            "or say where it is with MESH_SOCKET"
        ) from None
    async with connect_to(where, max_receive_message_length=UNLIMITED) as channel:
        yield channel
