"""Which level each plugin logs from, and that the processes are told when it changes.

Supervision says what it is to be, and gives it to processes that it starts; it calls nobody. This
is what calls: those that ran before it was changed, and those that were just starting then.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Container, Iterable
from functools import partial
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import logging as messages
from meshtrio.services.instances import MAX_SMALL_RESPONSE_SIZE, open_instance_channel
from meshtrio.supervisor import events
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.operations import Operations
from meshtrio.supervisor.process_run import ProcessRun
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.log_level import LogLevel

_log = logging.getLogger("meshtrio.mesh")

_SERVICE = messages.DESCRIPTOR.services_by_name["Logging"]
_CALL_TIMEOUT = 5.0
"""Seconds that a process has to answer in."""
_MAX_CONCURRENT_CALLS = 16
_MAX_LEVEL_LENGTH = 64
"""Characters of the name of a level; programs may have their own."""


class LevelNotAppliedError(Exception):
    """A process could not be asked, or told; `level`: how much that matters."""

    def __init__(self, reason: str, severity: int) -> None:
        super().__init__(reason)
        self.severity = severity


@attrs.frozen
class InstanceLevel:
    """From which level on the process of an instance logs; "" where it does not say, see `note`."""

    instance: int
    pid: int | None
    level: str = ""
    note: str = ""


@attrs.frozen
class PluginLevel:
    """From which level on the mesh passes a plugin's lines on; None: as for any other record."""

    plugin: str
    level: LogLevel | None
    instances: tuple[InstanceLevel, ...]


class LogLevelController:
    """Of the plugins of one tree."""

    def __init__(self, supervisor: Supervisor, registry: Registry, operations: Operations) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._operations = operations
        self._pending: set[tuple[str, int]] = set()
        """Instances whose processes may have to be told."""
        self._applying: set[ProcessRun] = set()
        self._concurrency_limit = trio.CapacityLimiter(_MAX_CONCURRENT_CALLS)
        self._changed = trio.lowlevel.ParkingLot()

    def on_event(self, event: events.LifecycleEvent) -> None:
        """A subscriber: one that is ready may have been started before the level was changed."""
        if isinstance(event, (events.Ready, events.LogLevelSet)):
            self._enqueue([(event.plugin, event.instance)])

    async def set_level(self, name: str, level: LogLevel | str) -> tuple[PluginLevel, ...]:
        """Have a plugin, or those of a group, log from a level on, until the next reload.

        Gives what has come of it. Raises UsageError for a level, and UnknownNameError for a name,
        that is none. Cancelling it ends the waiting only.
        """
        names = self._operations.set_log_level(name, level)
        children = [child for child in self._supervisor.instances if child.plugin in names]
        for life in itertools.chain.from_iterable(child.runs() for child in children):
            life.applied_log_level = None  # Its program may have gone to another level since.
        self._enqueue(child.key for child in children)
        while self._is_applying(names):
            await self._changed.park()
        return await self.get_levels(names)

    async def get_levels(self, names: Iterable[str]) -> tuple[PluginLevel, ...]:
        """The levels of plugins, as the mesh has them and as their processes say."""
        wanted = frozenset(names)
        found: dict[tuple[str, int], InstanceLevel] = {}
        async with open_collapsing_nursery() as nursery:
            for child in self._supervisor.instances:
                if child.plugin in wanted:
                    nursery.start_soon(self._query, found, child, child.active_run)
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
        """Tell those that have to be told, until cancelled."""
        try:
            async with open_collapsing_nursery() as nursery:
                task_status.started()
                while True:
                    self._start_pending(nursery)
                    self._changed.unpark_all()
                    await self._changed.park()
        finally:
            self._pending.clear()
            self._changed.unpark_all()

    # -- parts -------------------------------------------------------------------------------

    def _enqueue(self, instances: Iterable[tuple[str, int]]) -> None:
        self._pending.update(instances)
        self._changed.unpark_all()

    def _start_pending(self, nursery: trio.Nursery) -> None:
        """Tell the processes of those that are due; one that is being told is told again then."""
        for child in self._supervisor.instances:
            for life in child.runs() if child.key in self._pending else ():
                if (
                    life not in self._applying
                    and life.applied_log_level is not self._get_desired_level(life)
                ):
                    self._applying.add(life)
                    nursery.start_soon(self._apply, life)
        self._pending.clear()

    def _is_applying(self, names: Container[str]) -> bool:
        due = (plugin for plugin, _ in self._pending)
        return any(name in names for name in (*due, *(each.config.name for each in self._applying)))

    def _get_desired_level(self, run: ProcessRun) -> LogLevel | None:
        for plugin in self._supervisor.config.plugins:
            if plugin.name == run.config.name:
                return plugin.output.log_level
        return run.applied_log_level

    async def _apply(self, run: ProcessRun) -> None:
        """Until it knows what is wanted; one that is not ready yet is told when it is."""
        try:
            failed = False
            while not failed and run.applied_log_level is not (
                wanted := self._get_desired_level(run)
            ):
                name = "" if wanted is None else wanted.value
                try:
                    await self._call_process(run, "SetLevel", messages.SetLevelRequest(level=name))
                    run.applied_log_level = wanted
                except LevelNotAppliedError as exc:
                    failed = wanted is self._get_desired_level(run)
                    text = "%s/%s was not told from which level on it is to log: %s"
                    _log.log(exc.severity, text, run.config.name, run.number, exc)
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
        answer = partial(InstanceLevel, instance.number, run.process.pid)
        try:
            reply = await self._call_process(run, "GetLevel", messages.GetLevelRequest())
            found[instance.key] = answer(reply.level[:_MAX_LEVEL_LENGTH])
        except LevelNotAppliedError as exc:
            found[instance.key] = answer(note=str(exc))

    async def _call_process(self, run: ProcessRun, method: str, request: Any) -> Any:
        """Raises UntoldError."""
        try:
            endpoint = self._find_endpoint(run)
            if endpoint is None:
                raise LevelNotAppliedError("it is not ready", logging.DEBUG)
            async with self._concurrency_limit:
                with trio.fail_after(_CALL_TIMEOUT):
                    async with open_instance_channel(endpoint, MAX_SMALL_RESPONSE_SIZE) as channel:
                        return await getattr(DynamicStub(channel, _SERVICE), method)(request)
        except purerpc.UnimplementedError:
            raise LevelNotAppliedError(
                "it does not serve meshtrio.v1.Logging", logging.DEBUG
            ) from None
        except purerpc.RpcFailedError as exc:
            raise LevelNotAppliedError(exc.status.status_message, logging.WARNING) from None
        except trio.TooSlowError:
            text = f"it did not answer within {_CALL_TIMEOUT:g} s"
            raise LevelNotAppliedError(text, logging.WARNING) from None
        except LevelNotAppliedError:
            raise
        except Exception as exc:
            # Whatever it answers concerns this question alone.
            text = f"{type(exc).__name__}: {exc!s:.200}"
            raise LevelNotAppliedError(text, logging.WARNING) from exc

    def _find_endpoint(self, run: ProcessRun) -> Endpoint | None:
        """Where it serves, once it is ready."""
        pid = None if run.process is None else run.process.pid
        for endpoint in self._registry.resolve(run.config.service).endpoints:
            if pid is not None and (endpoint.pid, endpoint.instance) == (pid, run.number):
                return endpoint
        return None
