"""Run a mesh, and connect to one.

    trio.run(mesh.main, config)                    # a whole program
    m = await nursery.start(mesh.main, config)     # inside one
    async with m.connect("plugin.echo") as channel: ...
    async with mesh.connect("plugin.echo") as channel: ...    # from any other process

`main` puts a mesh together and runs it. It claims the runtime directory, kills what a mesh that was
killed there has left running, and then runs, outermost first: telemetry, the mesh socket with the
gateway (`MeshServer`), and the `Supervisor`, which owns the plugins' processes and writes their
endpoints to the `Registry`. They are stopped in the reverse order. A `Mesh` is a view of a
running `main` and is of no use once that has returned.

Clients in the mesh's process (`Mesh.connect`) watch the registry itself. Those in other processes
(`connect`) watch it through the mesh socket. Calls of both go straight to the plugins' sockets.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Unpack

import attrs
import trio

from meshtrio.client.channel import Channel, ChannelOptions, open_channel
from meshtrio.client.remote_mesh import register
from meshtrio.cluster.connecting import connect
from meshtrio.config import MeshConfig
from meshtrio.config.async_loading import load_in_thread
from meshtrio.discovery.dns.discovery import DnsDiscovery, check_dns_installed
from meshtrio.discovery.endpoint import ExitInfo
from meshtrio.discovery.registry import Registry, watch_service
from meshtrio.discovery.static import make_external_endpoint
from meshtrio.gateway.mesh_server import MeshServer
from meshtrio.runtime_dir import directory
from meshtrio.runtime_dir.claim import ClaimedRuntimeDir, claim_runtime_dir
from meshtrio.runtime_dir.paths import dashboard_url_path
from meshtrio.services.event_log import EventLog
from meshtrio.services.log_level_controller import LogLevelController, PluginLevel
from meshtrio.services.telemetry_setup import mesh_telemetry
from meshtrio.supervisor import events
from meshtrio.supervisor.instance import InstanceStatus
from meshtrio.supervisor.operations import DrainResult, Operations, ReloadResult
from meshtrio.supervisor.process.cleanup.mesh_exit import wait_for_mesh_exit
from meshtrio.supervisor.process.cleanup.mesh_run import kill_earlier_runs
from meshtrio.supervisor.process.cleanup.reparented import receive_orphans
from meshtrio.supervisor.process.output.output_lines import OutputLine
from meshtrio.supervisor.shutdown_report import ShutdownReport
from meshtrio.supervisor.statistics import MeshStatistics
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.supervisor.tasks.task import TaskResult, TaskStatus
from meshtrio.systemd.listen_fds import PassedSockets
from meshtrio.telemetry.logs.event_logger import log_event
from meshtrio.transport.listener import PassedListener
from meshtrio.upgrade.handover import Handover
from meshtrio.upgrade.program import Program
from meshtrio.upgrade.upgrader import Upgrader
from meshtrio.util.background_writer import flush_all
from meshtrio.util.concurrency import background_service, open_collapsing_nursery, require_trio
from meshtrio.util.descriptor_limit import DESCRIPTOR_LIMIT
from meshtrio.util.errors import MeshtrioError, UsageError
from meshtrio.util.log_level import LogLevel
from meshtrio.util.no_public_constructor import NoPublicConstructor, create
from meshtrio.util.tls_config import ClientTlsConfig

if TYPE_CHECKING:
    from meshtrio.cluster.node import Node, SavedNode
    from meshtrio.systemd.service_manager import ServiceManager
    from meshtrio.upgrade.adoption import Adoption
    from meshtrio.upgrade.state import SavedMesh

_log = logging.getLogger("meshtrio.mesh")

__all__ = ["Mesh", "connect", "main", "register"]


@attrs.define(eq=False, repr=False)
class Mesh(metaclass=NoPublicConstructor):
    """A running mesh, in the process that runs it. Made by `main`."""

    _made_by: ClassVar = "use `m = await nursery.start(mesh.main, config)`"
    _supervisor: Supervisor
    _registry: Registry
    _operations: Operations
    _log_levels: LogLevelController
    _handover: Handover

    @property
    def socket(self) -> Path:
        """The path of the mesh socket."""
        return self._supervisor.mesh_socket

    def __repr__(self) -> str:
        return f"<Mesh at {self.socket}>"

    @asynccontextmanager
    async def connect(
        self, service: str, **options: Unpack[ChannelOptions]
    ) -> AsyncIterator[Channel]:
        """Open a channel to a service, for the block.

        Does not wait for the service: each call waits for a ready instance.

        Args:
            service: Name of the service: `plugin.<name>`, or one that is registered.
            options: See `ChannelOptions`.

        Yields:
            A channel, whose calls end with the block.

        Raises:
            NotFoundError: The mesh does not know the service; the text lists those it knows.
            ConfigError: The service config is malformed.
            UsageError: A message length or `max_busy_poll` is out of range, or MESHTRIO_BUSY_POLL
                is invalid.
        """
        async with open_channel(
            service,
            partial(watch_service, self._registry, service),
            resolver_key=(id(self._registry), service),
            initial_state=self._registry.resolve(service),
            report_connect_failure=partial(self._registry.report_connect_failure, service),
            report_demand=partial(self._registry.report_demand, service),
            **options,
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
        """Register an endpoint that the mesh does not run, for the block.

        Args:
            service: Name of the service.
            address: `tcp:host:port` or `unix:/path`.
            weight: Share of the calls, relative to the service's other endpoints.
            local: Whether the endpoint is preferred over remote ones. Defaults to True for Unix
                sockets and False for TCP.
            tls: TLS options of its clients. None for plaintext.

        Raises:
            UsageError: The address is malformed or already registered.
        """
        try:
            endpoint = make_external_endpoint(address, weight, tls, local=local)
            self._registry.register(service, endpoint)
        except ValueError as exc:
            raise UsageError(str(exc)) from None
        try:
            yield
        finally:
            reason = f"{endpoint.address} was deregistered"
            self._registry.deregister(service, ExitInfo(endpoint.id, reason))

    @property
    def config(self) -> MeshConfig:
        """The config in force: that of `main`, as changed by `reload`, `scale`, `set_log_level`."""
        return self._supervisor.config

    @property
    def shutdown_report(self) -> ShutdownReport:
        """How the processes were stopped: by themselves, killed, or not. Final once `main` ends."""
        return self._supervisor.shutdown_report

    def instances(self) -> tuple[InstanceStatus, ...]:
        """Return the status of each instance, in the order of the config."""
        return self._supervisor.statuses()

    def tasks(self) -> tuple[TaskStatus, ...]:
        """Return the status of each task, in the order of the config."""
        return self._supervisor.task_statuses()

    def statistics(self) -> MeshStatistics:
        """Return the current numbers of the mesh, its groups and its plugins."""
        return self._supervisor.statistics()

    def log_lines(self, name: str) -> dict[tuple[str, int], tuple[OutputLine, ...]]:
        """Return the last lines of output of a plugin's or a group's instances, or of a task.

        Returns:
            The lines, oldest first, by plugin and instance number, which is 0 for a task.

        Raises:
            UnknownNameError: The mesh has no such plugin, group or task.
        """
        return self._operations.log_lines(name)

    def subscribe(self, subscriber: Callable[[events.LifecycleEvent], None]) -> None:
        """Call `subscriber` with each lifecycle event from now on, synchronously.

        Exceptions that it raises are logged, except for SystemExit and KeyboardInterrupt: these
        stop the mesh, and `main` raises them once all plugins have stopped.
        """
        self._supervisor.subscribe(subscriber)

    async def start(self, name: str) -> None:
        """Start the stopped or failed instances of a plugin or a group, and wait until all are
        ready.

        Cancellation:
            Ends the wait only.

        Raises:
            PluginFailedError: An instance, or one that it depends on, failed to start. Its restart
                policy still applies.
            UnknownNameError: The mesh has no such plugin or group.
        """
        await self._operations.start(name)

    async def stop(self, name: str) -> None:
        """Stop a plugin or a group, or the run of a task, and wait until its processes have ended.

        A plugin stays stopped until `start`, whatever its restart policy. A task with a schedule
        runs again at its next time.

        Cancellation:
            Ends the wait only.

        Raises:
            UnknownNameError: The mesh has no such plugin, group or task.
        """
        await self._operations.stop(name)

    async def run_task(
        self, name: str, on_data: Callable[[str, bytes], None] | None = None
    ) -> TaskResult:
        """Run a task now, and wait until it has ended; a failure is not repeated.

        Args:
            name: Name of the task.
            on_data: Called synchronously with `stdout` or `stderr` and the bytes that the process
                writes there.

        Returns:
            How it ended, also if it has failed.

        Cancellation:
            Stops the run, and does not wait for its end.

        Raises:
            UnknownNameError: The mesh has no such task.
            UsageError: It runs already, or waits for a task or plugin that has failed; or the name
                is that of a plugin or group.
        """
        return await self._operations.run_task(name, on_data)

    async def drain(self, name: str) -> tuple[DrainResult, ...]:
        """Stop a plugin or a group like `stop`, and report how each instance ended.

        Cancellation:
            Ends the wait only.

        Raises:
            UnknownNameError: The mesh has no such plugin or group.
        """
        return await self._operations.stop(name)

    async def restart(self, name: str) -> None:
        """Restart a plugin or a group, instance by instance, without losing a call.

        Each successor is ready before its predecessor is stopped. Stopped instances are started.

        Cancellation:
            Ends the wait; the instances whose turn has not come are not restarted.

        Raises:
            PluginFailedError: A successor did not become ready; its predecessor stays active.
            UnknownNameError: The mesh has no such plugin or group.
        """
        await self._operations.restart(name)

    async def scale(self, name: str, instances: int) -> None:
        """Set a plugin's number of instances, and wait until they are ready or have ended.

        The instances with the highest numbers are stopped first.

        Cancellation:
            Ends the wait only.

        Raises:
            ConfigError: More than `max_instances`, or more than there are ports for. Nothing has
                changed.
            PluginFailedError: As with `start`.
            UnknownNameError: The mesh has no such plugin.
            UsageError: `instances` is less than 1.
        """
        await self._operations.scale(name, instances)

    async def reload(self, config: MeshConfig) -> ReloadResult:
        """Apply another config, restarting only the plugins whose processes it changes.

        Changes of how a plugin is supervised (restart policy, liveness, groups) apply at once;
        a change of its process leads to a rolling restart.

        Cancellation:
            Ends the wait; the instances whose turn has not come are not restarted.

        Raises:
            ConfigError: The config cannot be applied here. Nothing has changed.
            UsageError: It changes what is fixed while the mesh runs. Nothing has changed.
            PluginFailedError: Plugins did not start, or could not be restarted. The text names all
                of them. The new config is in force, and restart policies apply.
        """
        return await self._operations.reload(config)

    async def reload_file(self) -> ReloadResult:
        """Read the file that the config of `main` was read from again, and apply it like `reload`.

        Cancellation:
            As with `reload`.

        Raises:
            ConfigError: The file cannot be read, or as with `reload`. Nothing has changed.
            UsageError: The config was not read from a file, or as with `reload`.
            PluginFailedError: As with `reload`.
        """
        source = self.config.source
        if source is None:
            raise UsageError("this mesh was not started from a config file; use reload(config)")

        async def load() -> MeshConfig:
            config = await load_in_thread(source.path, runtime_dir=source.runtime_dir)
            return source.override(config)

        return await self._operations.load_and_reload(load)

    async def set_log_level(self, name: str, level: LogLevel | str) -> tuple[PluginLevel, ...]:
        """Set the level from which on a plugin's or a group's programs log, until a reload.

        Returns:
            The level of each plugin, as configured and as its processes report it.

        Cancellation:
            Ends the wait only.

        Raises:
            UnknownNameError: The mesh has no such plugin or group.
            UsageError: There is no such level.
        """
        return await self._log_levels.set_level(name, level)


async def main(
    config: MeshConfig | Path | str,
    *,
    task_status: trio.TaskStatus[Mesh] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a mesh until it is cancelled or fails.

    Args:
        config: The config, or the path of a TOML file.
        task_status: Started with a `Mesh` once the mesh socket answers and the plugins are being
            started.

    Cancellation:
        Stops all plugins before it returns: SIGTERM, `stop_timeout`, SIGKILL, dependents before
        the plugins that they depend on. Ctrl-C does the same. A mesh within a plugin of another
        mesh also stops, and returns, when that mesh's process ends.

    Raises:
        ConfigError: The config is wrong. Nothing was started.
        MeshFailedError: A plugin's failure was escalated to the mesh. All plugins are stopped.
    """
    require_trio("mesh.main")
    await run_service(config, task_status=task_status)


def make_upgrader(mesh: Mesh, program: Program) -> Upgrader:
    """Make what upgrades a mesh, for `meshtrio serve`; requests reach it from now on."""
    upgrader = Upgrader(
        mesh._handover,
        program,
        descriptor_limit=DESCRIPTOR_LIMIT.original,
        flush_log=flush_all,
    )
    mesh._operations.upgrade_handler = upgrader
    return upgrader


async def run_service(
    config: MeshConfig | Path | str,
    manager: ServiceManager | None = None,
    adoption: Adoption | None = None,
    *,
    task_status: trio.TaskStatus[Mesh] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a mesh like `main`, as the service of a service manager, and after an upgrade.

    Args:
        config: As for `main`.
        manager: What systemd has given to this process. A mesh that is a part of another program
            must not use it.
        adoption: What this process has handed over to itself before it has executed this program,
            if it has.
        task_status: As for `main`.

    Raises what `main` does, and:
        UsageError: A socket that the manager has passed cannot be used.
    """
    if not isinstance(config, MeshConfig):
        config = await load_in_thread(config)
    directory.validate(config)
    check_dns_installed(config)
    folder = directory.resolve_runtime_dir(config)
    if config.reap_orphans:
        receive_orphans()
    saved = None if adoption is None else adoption.saved
    initial = config if saved is None else saved.initial_config(config)
    sockets = PassedSockets() if manager is None else manager.sockets
    if saved is not None:
        sockets = PassedSockets.adopt(saved.passed_sockets)
    sockets.check(config)
    with claim_runtime_dir(
        folder,
        None if saved is None else saved.claim,
        keep_mesh_socket=sockets.mesh is not None,
    ) as claim:
        if saved is None:
            await kill_earlier_runs(claim)
        registry, event_log = Registry(), EventLog()
        if saved is not None:
            event_log.adopt(saved.events)
        supervisor = Supervisor(
            initial,
            registry,
            folder,
            [log_event, event_log.on_event],
            adopted=None if saved is None else saved.supervisor,
        )
        dns = DnsDiscovery(registry)
        dns.apply_config(initial)
        supervisor.config_watchers.append(dns.apply_config)
        operations = Operations(supervisor)
        if manager is not None:
            manager.watch(supervisor, operations)
        if saved is not None:
            operations.execution = saved.execution
        log_levels = LogLevelController(supervisor, registry, operations)
        supervisor.subscribe(log_levels.on_event)
        node = _make_node(initial, registry, None if saved is None else saved.node)
        try:
            async with (
                mesh_telemetry(
                    supervisor, registry, dns, node, listener=sockets.metrics
                ) as metrics,
                background_service(dns.run),
                _serving(
                    MeshServer(
                        supervisor, registry, operations, event_log, log_levels, metrics, node
                    ),
                    claim,
                    sockets,
                    saved,
                ) as server,
                _dashboard(supervisor, sockets.dashboard),
                _joined_to_others(node),
                open_collapsing_nursery() as nursery,
            ):
                await nursery.start(supervisor.run)
                if adoption is not None:
                    adoption.commit()
                    nursery.start_soon(server.registry_servicer.kept.expire)
                    nursery.start_soon(_apply_config, operations, config, initial)
                nursery.start_soon(_stop_with_outer_mesh, nursery.cancel_scope)
                handover = Handover(claim, supervisor, operations, server, event_log, sockets, node)
                parts = supervisor, registry, operations, log_levels, handover
                task_status.started(create(Mesh, *parts))
        finally:
            _log.info("mesh stopped: %s", supervisor.shutdown_report)


@asynccontextmanager
async def _serving(
    server: MeshServer, claim: ClaimedRuntimeDir, sockets: PassedSockets, saved: SavedMesh | None
) -> AsyncIterator[MeshServer]:
    """Serve during the block, with the registrations and the history that were handed over."""
    if saved is not None:
        server.registry_servicer.next_serial = saved.next_registration
        server.registry_servicer.kept.adopt(saved.registrations)
        server.history.adopt(saved.history)
    async with server.running(claim, sockets.mesh, sockets.gateway):
        yield server


@asynccontextmanager
async def _dashboard(supervisor: Supervisor, passed: PassedListener | None) -> AsyncIterator[None]:
    """Serve the dashboard during the block, if the config has one."""
    if supervisor.config.dashboard.listen is None:
        # Of a mesh that was killed, or before an upgrade.
        with suppress(OSError):
            dashboard_url_path(supervisor.mesh_socket.parent).unlink()
        yield
        return
    from meshtrio.dashboard.service import serve_dashboard

    async with background_service(serve_dashboard, supervisor, passed):
        yield


async def _apply_config(operations: Operations, config: MeshConfig, initial: MeshConfig) -> None:
    """Apply what has changed in the config since before an upgrade, as a reload does."""
    if config == initial:
        return
    try:
        await operations.reload(config)
    except MeshtrioError as exc:
        _log.error("applying the config after the upgrade: %s", exc)


def _make_node(
    config: MeshConfig, registry: Registry, adopted: SavedNode | None = None
) -> Node | None:
    """Make this mesh a node if the config says so."""
    if not config.discovery.etcd:
        return None
    # Most meshes need neither it nor the client of etcd.
    from meshtrio.cluster.node import Node

    return Node(config.discovery.with_peer_tls(config.gateway), registry, adopted)


@asynccontextmanager
async def _joined_to_others(node: Node | None) -> AsyncIterator[None]:
    """Be a node during the block, if this mesh is one, and until all plugins have stopped."""
    if node is None:
        yield
        return
    async with background_service(node.run):
        yield


async def _stop_with_outer_mesh(scope: trio.CancelScope) -> None:
    """Cancel `scope` when the mesh that started this process, if any, ends."""
    if await wait_for_mesh_exit():
        _log.warning("the mesh that started this process has ended; stopping")
        scope.cancel()
