"""The meshtrio.v1.Control servicer: inspects and operates a running mesh."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
import purerpc
import trio

from meshtrio.config import ConfigSource, LogLevel, MeshConfig
from meshtrio.config.async_loading import load_in_thread
from meshtrio.discovery.registry import Registry
from meshtrio.discovery.registry_messages import state_to_message
from meshtrio.errors import PluginFailedError
from meshtrio.messages import control
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.services import by_hand
from meshtrio.services import control_messages as messages
from meshtrio.services.event_log import EventLog, LoggedLine
from meshtrio.services.history import ProcessHistory
from meshtrio.services.load import parse_interval
from meshtrio.services.load_reports import LoadReports
from meshtrio.services.log_level_controller import LogLevelController
from meshtrio.services.method_watch import GatewayState, watch_methods
from meshtrio.services.node_listing import make_node_list, require_node
from meshtrio.services.node_queries import query_nodes
from meshtrio.services.tap_client import tap_instances
from meshtrio.services.task_runs import running_task
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.log_line import parse_line
from meshtrio.supervisor.operations import Operations
from meshtrio.supervisor.process.output.output_lines import parse_json_fields
from meshtrio.supervisor.process.proc.resource_usage import (
    ResourceUsage,
    read_pss_by_group,
    read_usage_by_group,
)
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.supervisor.tasks.task import Task
from meshtrio.transport.peer import Peer
from meshtrio.util.errors import ConfigError, UnknownNameError, UsageError
from meshtrio.util.text import replace_surrogates
from meshtrio.util.version import VERSION

if TYPE_CHECKING:
    from meshtrio.cluster.node import Node

# The methods have their names from the proto.
# ruff: noqa: N802

_STATUS_BY_ERROR: dict[type[Exception], type[purerpc.RpcFailedError]] = {
    UnknownNameError: purerpc.NotFoundError,
    ConfigError: purerpc.InvalidArgumentError,
    PluginFailedError: purerpc.AbortedError,
    UsageError: purerpc.FailedPreconditionError,
}
"""The statuses of operations that fail; the first that matches counts."""
_USAGE_CACHE_TTL = 0.5
"""Seconds for which resource usage is reused: reading /proc takes longer with more processes."""


@attrs.define(eq=False)
class ControlServicer:
    """Serves the control API of one supervisor."""

    _supervisor: Supervisor
    _registry: Registry
    _operations: Operations
    _event_log: EventLog
    _load_reports: LoadReports
    _log_levels: LogLevelController
    _node: Node | None
    """This mesh as one of several; None if it is none."""
    _history: ProcessHistory
    _gateway: GatewayState
    _cached_usage: Mapping[int, ResourceUsage] = {}
    _usage_expires_at: float = -math.inf
    _cached_pss: Mapping[int, int] = {}
    _pss_expires_at: float = -math.inf
    service: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.service = service_from_descriptor(control.DESCRIPTOR.services_by_name["Control"], self)

    # -- inspection --------------------------------------------------------------------------

    async def ListInstances(self, request: Any) -> Any:
        wanted = self._operations.make_filter(request.names)
        found = [status for status in self._supervisor.statuses() if wanted(status.name)]
        usage, pss = await self._get_usage(), await self._get_pss()
        instances = []
        for status in found:
            each = messages.make_instance(status)
            pid = status.pid
            if pid is not None and pid in usage:
                each.resident = usage[pid].rss
            if pid is not None and pid in pss:
                each.proportional = pss[pid]
            instances.append(each)
        tasks = (each for each in self._supervisor.task_statuses() if wanted(each.name))
        instances += map(messages.make_task, tasks)
        return control.ListInstancesResponse(instances=instances)

    async def GetInstance(self, request: Any) -> Any:
        is_wanted = self._operations.make_filter([request.name])
        found = [status for status in self._supervisor.statuses() if is_wanted(status.name)]
        for status in found:
            if status.instance == request.instance:
                return messages.make_instance(status)
        for task in self._supervisor.task_statuses():
            if task.name == request.name and not request.instance:
                return messages.make_task(task)
        text = f"has no instance {request.instance}; it has {len(found)} of them"
        raise purerpc.NotFoundError(f"{request.name} {text}")

    async def GetTree(self, request: Any) -> Any:
        mesh = self._supervisor
        statuses = mesh.statuses(), mesh.task_statuses()
        return messages.make_tree(mesh.config, str(mesh.mesh_socket), *statuses)

    async def WatchEvents(self, request: Any) -> AsyncIterator[Any]:
        is_wanted = self._operations.make_filter(request.names)
        logged_events = self._event_log.read_events(is_wanted, request.last, follow=request.follow)
        async with aclosing(logged_events) as found:
            async for number, logged_event, missed in found:
                yield messages.make_event(number, logged_event, missed)

    async def ReadLogs(self, request: Any) -> AsyncIterator[Any]:
        wanted = self._operations.make_filter(request.names)
        epoch = time.time() - trio.current_time()
        writers: list[Instance | Task] = [*self._supervisor.instances]
        writers += self._supervisor.tasks.tasks.values()
        with self._event_log.capture_lines() as position:
            past = [
                LoggedLine(each.plugin, each.number, line)
                for each in writers
                if wanted(each.plugin)
                for line in each.line_buffer.lines()
                if line.time >= request.since - epoch
            ]
            past.sort(key=lambda each: each.line.time)
            for each in past[-request.last :]:
                yield _make_log_line(each, epoch)
            if request.follow:
                async with aclosing(self._event_log.read_lines(wanted, position)) as new_lines:
                    async for _, each, missed in new_lines:
                        yield _make_log_line(each, epoch, missed)

    # -- history -----------------------------------------------------------------------------

    async def GetHistory(self, request: Any) -> Any:
        is_wanted = self._history.make_filter(request.names, self._operations)
        return await self._history.read(is_wanted, request.since, request.before)

    async def WatchHistory(self, request: Any) -> AsyncIterator[Any]:
        is_wanted = self._history.make_filter(request.names, self._operations)
        updates = self._history.watch(is_wanted, request.since, follow=request.follow)
        async with aclosing(updates) as found:
            async for update in found:
                yield update

    # -- statistics --------------------------------------------------------------------------

    async def GetStatistics(self, request: Any) -> Any:
        with self._load_reports.subscribe():
            await self._load_reports.wait_complete()
            return await self._collect_statistics()

    async def WatchStatistics(self, request: Any) -> AsyncIterator[Any]:
        interval = parse_interval(request)
        with ExitStack() as stack:
            calls = None
            if request.by_method:
                calls = stack.enter_context(watch_methods(self._load_reports, self._gateway))
            else:
                stack.enter_context(self._load_reports.subscribe(interval=interval))
            await self._load_reports.wait_complete()
            while True:
                statistics = await self._collect_statistics()
                if calls is not None:
                    calls.add_to(statistics)
                yield statistics
                await trio.sleep(interval)

    async def WatchCalls(self, request: Any) -> AsyncIterator[Any]:
        wanted = self._operations.make_filter(request.names, accept_tasks=False)
        found = [each for each in self._supervisor.config.plugins if wanted(each.name)]
        plugins = {plugin.service_name: plugin.name for plugin in found if plugin.has_service}
        async with tap_instances(self._registry, plugins, request.calls) as batches:
            async for batch in batches:
                for message in batch:
                    yield message

    async def _collect_statistics(self) -> Any:
        usage = await self._get_usage()
        found = self._supervisor.statistics()
        reports = self._load_reports.get_all()
        instances = []
        for status in self._supervisor.statuses():
            used = usage.get(status.pid) if status.pid else None
            each = control.InstanceStatistics(
                instance=messages.make_instance(status),
                cpu=None if used is None else used.cpu_time,
                resident=None if used is None else used.rss,
                load=reports.get((f"plugin.{status.name}", status.instance)),
            )
            instances.append(each)
        return control.Statistics(
            time=time.time(),
            uptime=found.uptime,
            plugins=map(messages.make_plugin_statistics, found.plugins),
            groups=map(messages.make_plugin_statistics, found.groups),
            total=messages.make_plugin_statistics(found.total),
            instances=instances,
        )

    async def _get_usage(self) -> Mapping[int, ResourceUsage]:
        """Return the resource usage of process groups, read at most every half second."""
        if trio.current_time() > self._usage_expires_at:
            # Without a free descriptor to read /proc, the previous result is the best there is.
            with suppress(OSError, RuntimeError):
                self._cached_usage = await read_usage_by_group()
                self._usage_expires_at = trio.current_time() + _USAGE_CACHE_TTL
        return self._cached_usage

    async def _get_pss(self) -> Mapping[int, int]:
        """Return the proportional set size of instances, read at most every half second."""
        if trio.current_time() > self._pss_expires_at:
            pids = {each.pid for each in self._supervisor.statuses() if each.pid is not None}
            with suppress(OSError, RuntimeError):
                self._cached_pss = await read_pss_by_group(pids)
                self._pss_expires_at = trio.current_time() + _USAGE_CACHE_TTL
        return self._cached_pss

    async def ListServiceStates(self, request: Any) -> Any:
        states = []
        for name in request.services or self._registry.services():
            if request.services or self._registry.has_service(name):
                states.append(state_to_message(name, self._registry.resolve(name)))
            await trio.lowlevel.checkpoint()  # There may be thousands.
        balancing = self._gateway.list_balancing([state.service for state in states])
        return control.ListServiceStatesResponse(states=states, balancing=balancing)

    async def GetConfig(self, request: Any) -> Any:
        from meshtrio.config.toml_writer import write_config  # Seldom needed.

        config = self._supervisor.config
        written = write_config(config, with_defaults=request.defaults)
        source = "" if config.source is None else replace_surrogates(str(config.source.path))
        return control.GetConfigResponse(toml=written.toml, source=source, masked=written.masked)

    # -- nodes -------------------------------------------------------------------------------

    async def ListNodes(self, _request: Any) -> Any:
        return make_node_list(require_node(self._node))

    async def QueryNodes(self, request: Any) -> Any:
        return await query_nodes(require_node(self._node), request)

    # -- by hand -----------------------------------------------------------------------------

    async def GetEnvironment(self, message: Any, request: ServerContext) -> Any:
        return by_hand.get_environment(self._operations, message, request.peer)

    async def Attach(self, message: Any, request: ServerContext) -> AsyncIterator[Any]:
        updates = by_hand.attach(self._operations, message, request.peer)
        async with aclosing(updates) as found:
            async for update in found:
                yield update

    # -- operations --------------------------------------------------------------------------

    async def Start(self, request: Any) -> Any:
        await self._operations.start(request.name)
        return control.StartResponse()

    async def Stop(self, request: Any) -> Any:
        await self._operations.stop(request.name)
        return control.StopResponse()

    async def Drain(self, request: Any) -> Any:
        found = await self._operations.stop(request.name)
        return control.DrainResponse(instances=map(messages.make_drained, found))

    async def Restart(self, request: Any) -> Any:
        await self._operations.restart(request.name)
        return control.RestartResponse()

    async def Scale(self, request: Any) -> Any:
        await self._operations.scale(request.name, request.instances)
        return control.ScaleResponse()

    async def RunTask(self, request: Any) -> AsyncIterator[Any]:
        async with running_task(self._operations, request.name) as output:
            while True:
                message = await output.next_message()
                yield message
                if message.HasField("result"):
                    return

    async def GetLogLevels(self, request: Any) -> Any:
        wanted = self._operations.make_filter(request.names, accept_tasks=False)
        names = [plugin.name for plugin in self._supervisor.config.plugins if wanted(plugin.name)]
        found = await self._log_levels.get_levels(names)
        return control.GetLogLevelsResponse(plugins=map(messages.make_log_level, found))

    async def SetLogLevel(self, request: Any) -> Any:
        try:
            level = LogLevel.parse(request.level)
        except UsageError as exc:
            raise purerpc.InvalidArgumentError(str(exc)) from None
        found = await self._log_levels.set_level(request.name, level)
        return control.SetLogLevelResponse(plugins=map(messages.make_log_level, found))

    async def Reload(self, message: Any, request: ServerContext) -> Any:
        path, source = message.path, self._supervisor.config.source
        self._check_path(path, request.peer)
        if path and not Path(path).is_absolute():
            raise ConfigError([f"{path}: is not an absolute path"])
        if not path and source is None:
            raise UsageError("this mesh was not started from a config file; give the path of one")
        before = ConfigSource(Path(path)) if source is None else source
        # Without a path it is the file that the mesh was started from, even after other reloads.

        async def load() -> MeshConfig:
            config = await load_in_thread(path or before.path, runtime_dir=before.runtime_dir)
            return attrs.evolve(before.override(config), source=source)

        found = await self._operations.load_and_reload(load)
        return control.ReloadResponse(**attrs.asdict(found))

    async def Upgrade(self, message: Any, request: ServerContext) -> Any:
        if not request.peer.is_own_user_or_root:
            text = "may not upgrade the mesh; that is for the mesh's own user and root"
            raise purerpc.PermissionDeniedError(f"access.control: {request.peer} {text}")
        handler = self._operations.upgrade_handler
        if handler is None:
            raise UsageError(
                "this mesh is embedded in another program, or cannot execute itself again; only a "
                "mesh that `meshtrio serve` runs can be upgraded"
            )
        await handler.request()
        return control.UpgradeResponse(execution=self._make_execution())

    async def GetExecution(self, request: Any) -> Any:
        return self._make_execution()

    def _make_execution(self) -> Any:
        return control.Execution(version=VERSION, **attrs.asdict(self._operations.execution))

    def _check_path(self, path: str, peer: Peer) -> None:
        """Raise PermissionDeniedError if a peer may not load a file as the config.

        A config runs programs as the mesh's user, and errors in a file reveal its content.
        """
        source = self._supervisor.config.source
        is_own = not path or (source is not None and path == str(source.path))
        if not is_own and not peer.is_own_user_or_root:
            raise purerpc.PermissionDeniedError(
                f"access.control: {peer} may only reload the file that the mesh was started from; "
                "another one is for the mesh's own user and root"
            )


def _make_log_line(logged_line: LoggedLine, epoch: float, missed: int = 0) -> Any:
    """Make the message of a line; `epoch` is the Unix time at which trio's clock was 0."""
    line = logged_line.line
    parsed = parse_line(line.text, parse_json_fields(line.text))
    return control.LogLine(
        time=line.time + epoch,
        plugin=logged_line.plugin,
        instance=logged_line.instance,
        pid=line.pid,
        stream=line.stream,
        text=line.text,
        missed=missed + logged_line.dropped,
        level="" if logged_line.dropped else logging.getLevelName(parsed.level),
        message=None if parsed.fields is None else parsed.message,
        logger=parsed.logger,
        trace_id=parsed.trace_id,
        span_id=parsed.span_id,
        exception=parsed.exception,
    )


class ErrorTranslator(AbstractAsyncContextManager[object]):
    """An interceptor that translates errors of an operation to the gRPC status for the client.

    It is its own context manager, since one for each call would take memory for each open watch.
    """

    def __call__(self, context: ServerContext) -> Self:
        return self

    async def __aexit__(self, _: object, exc: BaseException | None, __: object) -> None:
        for kind, status in _STATUS_BY_ERROR.items():
            if isinstance(exc, kind):
                raise status(replace_surrogates(str(exc))) from None
