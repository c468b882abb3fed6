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

from meshtrio import runtime_dir
from meshtrio.address import TlsFiles
from meshtrio.client import endpoint
from meshtrio.client.channel import Channel, connect_to, open_channel
from meshtrio.client.endpoint import Departure, Endpoint, ServiceState
from meshtrio.client.interceptors import Interceptor
from meshtrio.client.unix import WrongServerError
from meshtrio.config import MeshConfig
from meshtrio.config.loading import load_in_thread
from meshtrio.errors import OUT_OF_RESOURCES, NoMeshError, UntrustedMeshError, UsageError
from meshtrio.gateway.door import Door
from meshtrio.policies.service_config import ServiceConfig, parse
from meshtrio.registry import UnknownServiceError, watch
from meshtrio.registry.memory import MemoryRegistry
from meshtrio.registry.tables import outside_endpoint
from meshtrio.rpc.seam import MetadataLike
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.services import registry_client
from meshtrio.services.chronicle import Chronicle
from meshtrio.services.log_levels import LogLevels
from meshtrio.services.registry_messages import registration_of
from meshtrio.services.telling import telling
from meshtrio.structured import check_in_trio, open_nursery_of_one
from meshtrio.supervise import events
from meshtrio.supervise.child import Status
from meshtrio.supervise.operations import Operations
from meshtrio.supervise.processes.launch import SWEEP_TIMED_OUT, SWEEP_WITHIN, sweep_earlier
from meshtrio.supervise.processes.mesh_end import wait_for_mesh_end
from meshtrio.supervise.report import ShutdownReport
from meshtrio.supervise.statistics import MeshStatistics
from meshtrio.supervise.tree import Tree
from meshtrio.telemetry.logs.mesh import log_event
from meshtrio.wire.frames import UNLIMITED

_log = logging.getLogger("meshtrio.mesh")

_BACKLOG_WAIT = 5.0
"""Seconds that a mesh whose backlog is full has to accept a connection."""

__all__ = ["Mesh", "connect", "main", "register"]


class Mesh:
    """A running mesh, in the process that runs it.

    `start`, `stop`, `drain`, `restart`, `scale`, `reload` and `lines` are those of `Operations`,
    `set_log_level` is `LogLevels.set`.
    """

    def __init__(
        self,
        tree: Tree,
        registry: MemoryRegistry,
        operations: Operations,
        log_levels: LogLevels,
    ) -> None:
        """Not for users, who get one from `main`."""
        self.socket = tree.mesh_socket
        self._tree = tree
        self._registry = registry
        self.start = operations.start
        self.stop = operations.stop
        self.drain = operations.drain
        self.restart = operations.restart
        self.scale = operations.scale
        self.reload = operations.reload
        self.lines = operations.lines
        self.set_log_level = log_levels.set

    @asynccontextmanager
    async def connect(
        self,
        service: str,
        *,
        config: Mapping[str, Any] | None = None,
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
        feed = partial(watch, self._registry, service)
        key = (id(self._registry), service)
        async with open_channel(
            service,
            feed,
            feed_key=key,
            initial=known,
            config=_parsed(config),
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
        tls: TlsFiles | None = None,
    ) -> Iterator[None]:
        """Have an endpoint that the mesh does not run among those of a service, for the block.

        `address`: `tcp:host:port` or `unix:/path`; the other values are those of a [[service]]
        table. Raises UsageError for an address of another form, and one that is there already.
        """
        try:
            endpoint = outside_endpoint(address, weight, tls, local=local)
            self._registry.register(service, endpoint)
        except ValueError as exc:
            raise UsageError(str(exc)) from None
        try:
            yield
        finally:
            reason = f"{endpoint.address} was taken out by who had registered it"
            self._registry.deregister(service, Departure(endpoint.id, reason))

    @property
    def config(self) -> MeshConfig:
        """What it goes by now: what `main` was given, and what was reloaded and scaled since."""
        return self._tree.config

    def instances(self) -> tuple[Status, ...]:
        """Every instance as it is now, in the order of the config."""
        return self._tree.statuses()

    def statistics(self) -> MeshStatistics:
        """The mesh, its groups and its plugins in numbers, as they are now."""
        return self._tree.statistics()

    @property
    def shutdown_report(self) -> ShutdownReport:
        """What stopped by itself, what was killed, and what could not be; complete after `main`."""
        return self._tree.report

    def subscribe(self, subscriber: Callable[[events.Event], None]) -> None:
        """Have `subscriber` called, in place, with every lifecycle event from now on.

        What it raises is logged and goes no further, except for SystemExit and KeyboardInterrupt:
        they stop the mesh, and `main` raises them once everything has stopped.
        """
        self._tree.subscribe(subscriber)


async def main(
    config: MeshConfig | Path | str,
    *,
    task_status: trio.TaskStatus[Mesh] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a mesh, from a config or the path of a TOML file, until cancelled.

    Reports a `Mesh` as started once the mesh socket answers and the plugins are being started.
    When cancelled, or interrupted by Ctrl-C, every plugin is stopped before this returns: SIGTERM,
    its stop_timeout, SIGKILL; those that others came `after` come last. Raises ConfigError before
    anything was started, and MeshFailedError, with everything stopped, when a plugin's failure was
    escalated to the mesh. In a plugin of another mesh it also stops, and returns, when the process
    of that mesh has ended.
    """
    check_in_trio("mesh.main")
    if not isinstance(config, MeshConfig):
        config = await load_in_thread(config)
    runtime_dir.check(config)
    folder = runtime_dir.of(config)
    with runtime_dir.claim(folder) as claim:
        await _sweep_earlier(claim)
        registry, chronicle = MemoryRegistry(), Chronicle()
        tree = Tree(config, registry, folder, [log_event, chronicle.take])
        operations = Operations(tree)
        log_levels = LogLevels(tree, registry, operations)
        tree.subscribe(log_levels.take)
        try:
            async with (
                telling(tree, registry) as metrics,
                Door(tree, registry, operations, chronicle, log_levels, metrics).opened(claim),
                open_nursery_of_one() as nursery,
            ):
                await nursery.start(tree.run)
                nursery.start_soon(_stop_after_outer_mesh, nursery.cancel_scope)
                task_status.started(Mesh(tree, registry, operations, log_levels))
        finally:
            _log.info("the mesh has stopped: %s", tree.report)


async def _stop_after_outer_mesh(scope: trio.CancelScope) -> None:
    """Stop a mesh that is part of a plugin when the mesh that has started the plugin has ended."""
    if await wait_for_mesh_end():
        _log.warning("the mesh that has started this program has ended; stopping")
        scope.cancel()


async def _sweep_earlier(claim: runtime_dir.Claim) -> None:
    """End what meshes that were killed together with their wardens have left in a runtime dir."""
    earlier = claim.launches()
    if not earlier:
        return
    try:
        with trio.move_on_after(SWEEP_WITHIN, shield=True):
            gone = await trio.to_thread.run_sync(sweep_earlier, earlier, abandon_on_cancel=True)
            claim.forget_launches(gone)
            return
        _log.warning("%s", SWEEP_TIMED_OUT)
    except (OSError, RuntimeError) as exc:
        _log.warning("cannot look for what an earlier mesh has left: %s", exc)


@asynccontextmanager
async def connect(
    service: str,
    *,
    mesh_socket: Path | str | None = None,
    config: Mapping[str, Any] | None = None,
    timeouts: Timeouts | None = None,
    interceptors: Sequence[Interceptor] = (),
    metadata: MetadataLike = (),
    max_receive_message_length: int | None = None,
    max_send_message_length: int | None = None,
) -> AsyncIterator[Channel]:
    """Open a channel to a service of a mesh that runs in another process, for the block.

    The mesh is found by `mesh_socket`, else the environment's MESH_SOCKET, else the default
    runtime dir, in which it has to be a mesh of one's own user or of root. It only tells where the
    instances are: calls go straight to their sockets, and go on when the mesh is gone. The other
    arguments are those of `Mesh.connect`. Raises ConfigError, NoMeshError where no mesh answers,
    UntrustedMeshError where another user could answer in its place, and NotFoundError, naming the
    services there are, for a service it does not know.
    """
    check_in_trio("mesh.connect")
    async with connect_to_mesh(mesh_socket) as mesh:
        known = await registry_client.resolve(mesh, service)
        where = endpoint_of_mesh(mesh_socket)
    feed = partial(_follow, where, service)
    async with open_channel(
        service,
        feed,
        feed_key=(where, service),
        initial=known,
        config=_parsed(config),
        timeouts=timeouts,
        interceptors=interceptors,
        metadata=metadata,
        max_receive_message_length=max_receive_message_length,
        max_send_message_length=max_send_message_length,
    ) as channel:
        yield channel


async def _follow(where: Endpoint, service: str, update: Callable[[ServiceState], None]) -> None:
    """The feed of all of a process's channels to a service: one watch on the mesh socket."""
    async with connect_to(where, max_receive_message_length=UNLIMITED) as mesh:
        await registry_client.watch(mesh, service, update)


@asynccontextmanager
async def register(
    service: str,
    socket: Path | str,
    *,
    mesh_socket: Path | str | None = None,
    weight: int = 1,
    local: bool | None = None,
    tls: TlsFiles | None = None,
) -> AsyncIterator[None]:
    """Have an endpoint among those of a service of a mesh in another process, for the block.

    `socket`: the path of a Unix socket that this program, or another one, serves on, or an address
    as in `Mesh.register`, whose other arguments are the same. The mesh is found as by `connect`;
    whenever it is started again, so is the registration. It ends with the block, or with this
    process. Raises NoMeshError where no mesh answers at first, InvalidArgumentError for what cannot
    be registered, PermissionDeniedError where the mesh does not let us, and, in the block,
    AbortedError when somebody else registers the same address.
    """
    check_in_trio("mesh.register")
    registration = registration_of(service, socket, weight, tls, local=local)
    async with connect_to_mesh(mesh_socket) as channel, open_nursery_of_one() as nursery:
        await nursery.start(registry_client.stay_registered, channel, registration)
        yield
        nursery.cancel_scope.cancel()


def _parsed(config: Mapping[str, Any] | None) -> ServiceConfig | None:
    return None if config is None else parse(config)


def endpoint_of_mesh(mesh_socket: Path | str | None = None) -> Endpoint:
    """The mesh socket that a client calls, and who has to serve there; see `connect`.

    Raises UntrustedMeshError.
    """
    trusted = runtime_dir.trusted_users(mesh_socket)
    address = f"unix:{os.path.abspath(mesh_socket or runtime_dir.find_mesh_socket())}"
    owner = None if trusted is None else os.geteuid()
    return Endpoint(id=address, address=address, owner=owner, or_root=True)


@asynccontextmanager
async def connect_to_mesh(mesh_socket: Path | str | None = None) -> AsyncIterator[Channel]:
    """Open a channel to the mesh's own services.

    Raises NoMeshError where no mesh answers, and UntrustedMeshError, which is one, where another
    user could answer in its place.
    """
    check_in_trio("mesh.connect_to_mesh")
    where = endpoint_of_mesh(mesh_socket)
    path = where.address.removeprefix("unix:")
    try:
        (await endpoint.connect(where.address, where.owners, patience=_BACKLOG_WAIT)).close()
    except WrongServerError as exc:
        raise UntrustedMeshError(
            f"{path} is not the socket of a mesh of one's own user or of root: {exc.reason}; if "
            "this mesh is to be called, say so with MESH_SOCKET"
        ) from None
    except BlockingIOError:
        raise NoMeshError(
            f"the mesh at {path} accepted no connection within {_BACKLOG_WAIT:g} s: it is "
            "overloaded or stopped"
        ) from None
    except PermissionError:
        raise NoMeshError(
            f"the mesh at {path} is for other users; whom it lets in is said by [mesh.access] of "
            "its config"
        ) from None
    except OSError as exc:
        if exc.errno in OUT_OF_RESOURCES:
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
