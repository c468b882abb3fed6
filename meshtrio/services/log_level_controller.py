"""Applies changes of a plugin's log level to its running processes.

The supervisor has the desired level of each plugin, and passes it to the processes that it starts.
Processes that ran or were starting when the level changed are called by this controller.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import attrs
import trio

from meshtrio.discovery.registry import Registry
from meshtrio.messages import logging as messages
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.services import instances
from meshtrio.services.instances import CallFailure, FailureKind
from meshtrio.supervisor import events
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.operations import Operations
from meshtrio.supervisor.runs.process_run import ProcessRun
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.util.concurrency import open_collapsing_nursery, start_soon_without_context
from meshtrio.util.log_level import LogLevel

_log = logging.getLogger("meshtrio.mesh")

_SERVICE = messages.DESCRIPTOR.services_by_name["Logging"]
_METHODS = {each.name: method_from_descriptor(each) for each in _SERVICE.methods}
CALL_TIMEOUT = 5.0
"""Timeout of a call to a process, in seconds."""
_MAX_CONCURRENT_CALLS = 16
_MAX_LEVEL_LENGTH = 64
"""Maximum characters of the name of a level: programs may define their own."""


_NOT_READY = CallFailure(FailureKind.UNAVAILABLE, "it is not ready")
_NO_SERVICE = CallFailure(FailureKind.UNSUPPORTED, "it has no service")


@attrs.frozen
class InstanceLevel:
    """The log level of an instance's process."""

    instance: int
    """The number of the instance."""
    pid: int | None
    """The process id; None if the instance has no process."""
    level: str = ""
    """The level that the process returned, "" if it returned none."""
    note: str = ""
    """Why there is no level, "" if there is one."""


@attrs.frozen
class PluginLevel:
    """The log level of a plugin."""

    plugin: str
    """The name of the plugin."""
    level: LogLevel | None
    """The level from which the mesh logs the plugin's lines; None for the mesh's own level."""
    instances: tuple[InstanceLevel, ...]
    """The levels of its processes."""


@attrs.define(eq=False)
class LogLevelController:
    """Keeps the log levels of the processes of one supervisor as the config says."""

    _supervisor: Supervisor
    _registry: Registry
    _operations: Operations
    _nursery: trio.Nursery | None = None
    """The nursery of the calls that set levels, while `run` is running."""
    _applying: set[ProcessRun] = attrs.field(factory=set)
    """Processes that are being called."""
    _concurrency_limit: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(_MAX_CONCURRENT_CALLS)
    )
    _changed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    """Unparked when the call of a process is over."""

    def on_event(self, event: events.LifecycleEvent) -> None:
        """Check an instance that is ready, as it may have been started before the level changed."""
        if isinstance(event, (events.Ready, events.LogLevelSet)):
            key = event.plugin, event.instance
            self._start_applying([each for each in self._supervisor.instances if each.key == key])

    async def set_level(self, name: str, level: LogLevel | str) -> tuple[PluginLevel, ...]:
        """Set the log level of a plugin, or of the plugins of a group, until the next reload.

        Returns the levels afterwards. Raises UsageError, and UnknownNameError. Cancellation ends
        only the wait; the level is applied nevertheless.
        """
        names = self._operations.set_log_level(name, level)
        chosen = self._supervisor.instances_of(names)
        for run in [run for instance in chosen for run in instance.runs()]:
            run.applied_log_level = None  # Its program may have set another level since.
        self._start_applying(chosen)
        while any(run.config.name in names for run in self._applying):
            await self._changed.park()
        return await self.get_levels(names)

    async def get_levels(self, names: Iterable[str]) -> tuple[PluginLevel, ...]:
        """Return the desired levels of plugins, and those that their processes return."""
        wanted = frozenset(names)
        found: dict[tuple[str, int], InstanceLevel] = {}
        async with open_collapsing_nursery() as nursery:
            for instance in self._supervisor.instances:
                if instance.plugin in wanted:
                    nursery.start_soon(self._query, found, instance, instance.active_run)
        return tuple(
            PluginLevel(
                plugin.name,
                plugin.output.log_level,
                tuple(found[key] for key in sorted(found) if key[0] == plugin.name),
            )
            for plugin in self._supervisor.config.plugins
            if plugin.name in wanted
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Apply levels as they change, until cancelled."""
        try:
            async with open_collapsing_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def _start_applying(self, chosen: Iterable[Instance]) -> None:
        """Call the processes of instances; `_apply` repeats a call under way by itself."""
        for instance, run in [(each, run) for each in chosen for run in each.runs()]:
            is_wrong = run.applied_log_level is not instance.config.output.log_level
            if is_wrong and run not in self._applying and self._nursery is not None:
                self._applying.add(run)
                start_soon_without_context(self._nursery, self._apply, instance, run)

    async def _apply(self, instance: Instance, run: ProcessRun) -> None:
        """Set the level of a process, and again if the desired level changes meanwhile.

        A process that is not ready yet is called when it is.
        """
        try:
            while run.applied_log_level is not (desired := instance.config.output.log_level):
                request = messages.SetLevelRequest(level="" if desired is None else desired.value)
                result = await self._call_process(run, "SetLevel", request)
                if not isinstance(result, CallFailure):
                    run.applied_log_level = desired
                    continue
                is_expected = result is _NOT_READY or result.kind is FailureKind.UNSUPPORTED
                severity = logging.DEBUG if is_expected else logging.WARNING
                text = "%s/%s: could not set log level: %s"
                _log.log(severity, text, run.config.name, run.number, result.message)
                if desired is instance.config.output.log_level:
                    break
        finally:
            self._applying.discard(run)
            self._changed.unpark_all()

    async def _query(
        self,
        found: dict[tuple[str, int], InstanceLevel],
        instance: Instance,
        run: ProcessRun | None,
    ) -> None:
        if run is None or run.process is None:
            found[instance.key] = InstanceLevel(instance.number, None, note="it does not run")
            return
        pid = run.process.pid
        result = await self._call_process(run, "GetLevel", messages.GetLevelRequest())
        has_failed = isinstance(result, CallFailure)
        answer = ("", result.message) if has_failed else (result.level[:_MAX_LEVEL_LENGTH], "")
        found[instance.key] = InstanceLevel(instance.number, pid, *answer)

    async def _call_process(self, run: ProcessRun, method: str, request: Any) -> Any:
        """Return the response of a process, or a `CallFailure`."""
        key = (None if run.process is None else run.process.pid, run.number)
        if not run.config.has_service:
            return _NO_SERVICE
        service = run.config.service_name
        if not self._registry.has_service(service):
            return _NOT_READY  # A reload has removed its plugin during the call before.
        endpoints = self._registry.resolve(service).endpoints
        endpoint = next((each for each in endpoints if (each.pid, each.instance) == key), None)
        if endpoint is None:
            return _NOT_READY
        async with self._concurrency_limit:
            result = await instances.call_instance(
                endpoint,
                _METHODS[method],
                request,
                timeout_seconds=CALL_TIMEOUT,
                max_response_size=instances.MAX_SMALL_RESPONSE_SIZE,
            )
        if isinstance(result, CallFailure) and result.kind is FailureKind.UNSUPPORTED:
            return attrs.evolve(result, message="it does not serve meshtrio.v1.Logging")
        return result
