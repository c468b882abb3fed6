"""meshtrio.v1.Control: looking at a running mesh, and telling it what to do."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.config import LogLevel, MeshConfig, Source
from meshtrio.config.loading import load_in_thread
from meshtrio.errors import ConfigError, PluginFailedError, UnknownNameError, UsageError
from meshtrio.messages import control
from meshtrio.registry import Registry
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.peer import Peer
from meshtrio.rpc.seam import Request
from meshtrio.services import control_messages as messages
from meshtrio.services.chronicle import Chronicle, Writing
from meshtrio.services.load import interval_of
from meshtrio.services.loads import Loads
from meshtrio.services.log_levels import LogLevels
from meshtrio.services.tapping import tapping
from meshtrio.supervise.operations import Operations
from meshtrio.supervise.processes.output import fields_of
from meshtrio.supervise.processes.usage import Usage, usage_by_group
from meshtrio.supervise.said import said_in
from meshtrio.supervise.tree import Tree
from meshtrio.texts import whole

# The methods have their names from the proto.
# ruff: noqa: N802

_USAGE_HOLDS = 0.5
"""The more processes a machine has, the longer /proc takes."""


class ControlServicer:
    """Answers for one tree."""

    def __init__(
        self,
        tree: Tree,
        registry: Registry,
        operations: Operations,
        chronicle: Chronicle,
        loads: Loads,
        log_levels: LogLevels,
    ) -> None:
        self._tree = tree
        self._registry = registry
        self._operations = operations
        self._chronicle = chronicle
        self._loads = loads
        self._log_levels = log_levels
        self._used: Mapping[int, Usage] = {}
        self._used_until = -math.inf
        self.service = service_of(control.DESCRIPTOR.services_by_name["Control"], self)

    # -- looking -----------------------------------------------------------------------------

    async def ListInstances(self, request: Any) -> Any:
        with _told():
            wanted = self._operations.selected(request.names)
        found = [status for status in self._tree.statuses() if wanted(status.name)]
        return control.ListInstancesResponse(instances=map(messages.instance, found))

    async def GetInstance(self, request: Any) -> Any:
        with _told():
            wanted = self._operations.selected([request.name])
        found = [status for status in self._tree.statuses() if wanted(status.name)]
        for status in found:
            if status.instance == request.instance:
                return messages.instance(status)
        raise purerpc.NotFoundError(
            f"{request.name} has no instance {request.instance}; it has {len(found)} of them"
        )

    async def GetTree(self, request: Any) -> Any:
        tree = self._tree
        return messages.tree(tree.config, str(tree.mesh_socket), tree.statuses())

    async def WatchEvents(self, request: Any) -> AsyncIterator[Any]:
        with _told():
            wanted = self._operations.selected(request.names)
        happenings = self._chronicle.happenings(wanted, request.last, follow=request.follow)
        async with aclosing(happenings) as found:
            async for number, happening, missed in found:
                yield messages.event(number, happening, missed)

    async def ReadLogs(self, request: Any) -> AsyncIterator[Any]:
        with _told():
            wanted = self._operations.selected(request.names)
        epoch = time.time() - trio.current_time()
        with self._chronicle.reading_lines() as position:
            past = self._lines(wanted, request.since - epoch)
            for each in past[-request.last :]:
                yield _log_line(each, epoch)
            if request.follow:
                async with aclosing(self._chronicle.writings(wanted, position)) as to_come:
                    async for each, missed in to_come:
                        yield _log_line(each, epoch, missed)

    def _lines(self, wanted: Callable[[str], bool], since: float) -> list[Writing]:
        """What is kept of the lines that plugins wrote since then, oldest first."""
        found = [
            Writing(plugin, number, line)
            for plugin, number, line in self._operations.all_lines()
            if wanted(plugin) and line.at >= since
        ]
        return sorted(found, key=lambda each: each.line.at)

    # -- numbers -----------------------------------------------------------------------------

    async def GetStatistics(self, request: Any) -> Any:
        with self._loads.wanted():
            await self._loads.complete()
            return await self._statistics()

    async def WatchStatistics(self, request: Any) -> AsyncIterator[Any]:
        interval = interval_of(request)
        with self._loads.wanted():
            await self._loads.complete()
            while True:
                yield await self._statistics()
                await trio.sleep(interval)

    async def WatchCalls(self, request: Any) -> AsyncIterator[Any]:
        with _told():
            wanted = self._operations.selected(request.names)
        services = {plugin.service: plugin.name for plugin in self._tree.config.plugins}

        def is_wanted(service: str) -> bool:
            return service in services and wanted(services[service])

        async with tapping(self._registry, is_wanted, request.calls) as found:
            async for tapped in found:
                for message in messages.watched_calls(services[tapped.service], tapped):
                    yield message

    async def _statistics(self) -> Any:
        usage = await self._usage()
        found = self._tree.statistics()
        instances = []
        for status in self._tree.statuses():
            used = usage.get(status.pid) if status.pid else None
            instances.append(
                control.InstanceStatistics(
                    instance=messages.instance(status),
                    cpu=None if used is None else used.cpu,
                    resident=None if used is None else used.resident,
                    load=self._loads.of(status.name, status.instance),
                )
            )
        return control.Statistics(
            time=time.time(),
            uptime=found.uptime,
            plugins=map(messages.plugin_statistics, found.plugins),
            groups=map(messages.plugin_statistics, found.groups),
            total=messages.plugin_statistics(found.total),
            instances=instances,
        )

    async def _usage(self) -> Mapping[int, Usage]:
        """What process groups use; looked at for all who ask within half a second."""
        if trio.current_time() > self._used_until:
            # Without a descriptor to read /proc with, what was found before is the best answer.
            with suppress(OSError, RuntimeError):
                self._used = await usage_by_group()
                self._used_until = trio.current_time() + _USAGE_HOLDS
        return self._used

    # -- telling it what to do ---------------------------------------------------------------

    async def Start(self, request: Any) -> Any:
        with _told():
            await self._operations.start(request.name)
        return control.StartResponse()

    async def Stop(self, request: Any) -> Any:
        with _told():
            await self._operations.stop(request.name)
        return control.StopResponse()

    async def Drain(self, request: Any) -> Any:
        with _told():
            found = await self._operations.drain(request.name)
        return control.DrainResponse(instances=map(messages.drained, found))

    async def Restart(self, request: Any) -> Any:
        with _told():
            await self._operations.restart(request.name)
        return control.RestartResponse()

    async def Scale(self, request: Any) -> Any:
        with _told():
            await self._operations.scale(request.name, request.instances)
        return control.ScaleResponse()

    async def GetLogLevels(self, request: Any) -> Any:
        with _told():
            wanted = self._operations.selected(request.names)
        names = [plugin.name for plugin in self._tree.config.plugins if wanted(plugin.name)]
        found = await self._log_levels.of(names)
        return control.GetLogLevelsResponse(plugins=map(messages.log_level, found))

    async def SetLogLevel(self, request: Any) -> Any:
        try:
            level = LogLevel.named(request.level)
        except UsageError as exc:
            raise purerpc.InvalidArgumentError(str(exc)) from None
        with _told():
            found = await self._log_levels.set(request.name, level)
        return control.SetLogLevelResponse(plugins=map(messages.log_level, found))

    async def Reload(self, message: Any, request: Request) -> Any:
        self._check_path(message.path, request.peer)
        with _told():
            config = await self._read(message.path)
            return messages.reloaded(await self._operations.reload(config))

    def _check_path(self, path: str, peer: Peer) -> None:
        """Raise PermissionDeniedError where a caller may not have a file read.

        A config runs programs as the mesh's user, and what is wrong with a file tells of it.
        """
        source = self._tree.config.source
        is_own = not path or (source is not None and path == str(source.path))
        if not is_own and peer.uid not in (0, os.geteuid()):
            raise purerpc.PermissionDeniedError(
                f"access.control: {peer} may only reload the file that the mesh was started from; "
                "another one is for the mesh's own user and root"
            )

    async def _read(self, path: str) -> MeshConfig:
        """Read the config file again, or another one. Raises ConfigError and UsageError."""
        source = self._tree.config.source
        if path and not Path(path).is_absolute():
            raise ConfigError([f"{path}: is not an absolute path"])
        if not path and source is None:
            raise UsageError("this mesh was not started from a config file; give the path of one")
        before = Source(Path(path)) if source is None else source
        # Where no file is said, it is the one that the mesh was started from, whatever came since.
        config = await load_in_thread(path or before.path, runtime_dir=before.runtime_dir)
        return attrs.evolve(config, source=source)


def _log_line(writing: Writing, epoch: float, missed: int = 0) -> Any:
    """`epoch`: when trio's clock was 0."""
    line = writing.line
    said = said_in(line.text, fields_of(line.text))
    return control.LogLine(
        time=line.at + epoch,
        plugin=writing.plugin,
        instance=writing.instance,
        pid=line.pid,
        stream=line.stream,
        text=line.text,
        missed=missed + writing.dropped,
        level="" if writing.dropped else logging.getLevelName(said.level),
        message=None if said.fields is None else said.message,
        logger=said.logger,
        trace_id=said.trace_id,
        span_id=said.span_id,
        exception=said.exception,
    )


@contextmanager
def _told() -> Iterator[None]:
    """Tell the caller of what cannot be, as the status for it."""
    try:
        yield
    except UnknownNameError as exc:
        raise purerpc.NotFoundError(whole(str(exc))) from None
    except ConfigError as exc:
        raise purerpc.InvalidArgumentError(whole(str(exc))) from None
    except PluginFailedError as exc:
        raise purerpc.AbortedError(whole(str(exc))) from None
    except UsageError as exc:
        raise purerpc.FailedPreconditionError(whole(str(exc))) from None
