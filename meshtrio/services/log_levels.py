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
from meshtrio.client.endpoint import Endpoint
from meshtrio.levels import LogLevel
from meshtrio.messages import logging as messages
from meshtrio.registry import Registry
from meshtrio.services.attending import SMALL, channel_to_instance
from meshtrio.structured import open_nursery_of_one
from meshtrio.supervise import events
from meshtrio.supervise.child import Child
from meshtrio.supervise.life import Life
from meshtrio.supervise.operations import Operations
from meshtrio.supervise.tree import Tree

_log = logging.getLogger("meshtrio.mesh")

_SERVICE = messages.DESCRIPTOR.services_by_name["Logging"]
_PATIENCE = 5.0
"""Seconds that a process has to answer in."""
_AT_ONCE = 16
_MAX_LEVEL = 64
"""Characters of the name of a level; programs may have their own."""


class UntoldError(Exception):
    """A process could not be asked, or told; `level`: how much that matters."""

    def __init__(self, reason: str, level: int) -> None:
        super().__init__(reason)
        self.level = level


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


class LogLevels:
    """Of the plugins of one tree."""

    def __init__(self, tree: Tree, registry: Registry, operations: Operations) -> None:
        self._tree = tree
        self._registry = registry
        self._operations = operations
        self._due: set[tuple[str, int]] = set()
        """Instances whose processes may have to be told."""
        self._telling: set[Life] = set()
        self._few = trio.CapacityLimiter(_AT_ONCE)
        self._turned = trio.lowlevel.ParkingLot()

    def take(self, event: events.Event) -> None:
        """A subscriber: one that is ready may have been started before the level was changed."""
        if isinstance(event, (events.Ready, events.LogLevelSet)):
            self._mark([(event.plugin, event.instance)])

    async def set(self, name: str, level: LogLevel | str) -> tuple[PluginLevel, ...]:
        """Have a plugin, or those of a group, log from a level on, until the next reload.

        Gives what has come of it. Raises UsageError for a level, and UnknownNameError for a name,
        that is none. Cancelling it ends the waiting only.
        """
        names = self._operations.set_log_level(name, level)
        children = [child for child in self._tree.children if child.plugin in names]
        for life in itertools.chain.from_iterable(child.lives() for child in children):
            life.told_level = None  # Its program may have gone to another level since.
        self._mark(child.key for child in children)
        while self._is_telling(names):
            await self._turned.park()
        return await self.of(names)

    async def of(self, names: Iterable[str]) -> tuple[PluginLevel, ...]:
        """The levels of plugins, as the mesh has them and as their processes say."""
        wanted = frozenset(names)
        found: dict[tuple[str, int], InstanceLevel] = {}
        async with open_nursery_of_one() as nursery:
            for child in self._tree.children:
                if child.plugin in wanted:
                    nursery.start_soon(self._ask, found, child, child.life)
        return tuple(
            PluginLevel(
                plugin.name,
                plugin.output.log_level,
                tuple(found[key] for key in sorted(found) if key[0] == plugin.name),
            )
            for plugin in self._tree.config.plugins
            if plugin.name in wanted
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell those that have to be told, until cancelled."""
        try:
            async with open_nursery_of_one() as nursery:
                task_status.started()
                while True:
                    self._begin(nursery)
                    self._turned.unpark_all()
                    await self._turned.park()
        finally:
            self._due.clear()
            self._turned.unpark_all()

    # -- parts -------------------------------------------------------------------------------

    def _mark(self, instances: Iterable[tuple[str, int]]) -> None:
        self._due.update(instances)
        self._turned.unpark_all()

    def _begin(self, nursery: trio.Nursery) -> None:
        """Tell the processes of those that are due; one that is being told is told again then."""
        for child in self._tree.children:
            for life in child.lives() if child.key in self._due else ():
                if life not in self._telling and life.told_level is not self._wanted(life):
                    self._telling.add(life)
                    nursery.start_soon(self._tell, life)
        self._due.clear()

    def _is_telling(self, names: Container[str]) -> bool:
        due = (plugin for plugin, _ in self._due)
        return any(name in names for name in (*due, *(each.config.name for each in self._telling)))

    def _wanted(self, life: Life) -> LogLevel | None:
        for plugin in self._tree.config.plugins:
            if plugin.name == life.config.name:
                return plugin.output.log_level
        return life.told_level

    async def _tell(self, life: Life) -> None:
        """Until it knows what is wanted; one that is not ready yet is told when it is."""
        try:
            failed = False
            while not failed and life.told_level is not (wanted := self._wanted(life)):
                name = "" if wanted is None else wanted.value
                try:
                    await self._call(life, "SetLevel", messages.SetLevelRequest(level=name))
                    life.told_level = wanted
                except UntoldError as exc:
                    failed = wanted is self._wanted(life)
                    text = "%s/%s was not told from which level on it is to log: %s"
                    _log.log(exc.level, text, life.config.name, life.number, exc)
        finally:
            self._telling.discard(life)
            self._turned.unpark_all()

    async def _ask(
        self, found: dict[tuple[str, int], InstanceLevel], child: Child, life: Life | None
    ) -> None:
        if life is None or life.process is None:
            found[child.key] = InstanceLevel(child.number, None, note="it does not run")
            return
        answer = partial(InstanceLevel, child.number, life.process.pid)
        try:
            reply = await self._call(life, "GetLevel", messages.GetLevelRequest())
            found[child.key] = answer(reply.level[:_MAX_LEVEL])
        except UntoldError as exc:
            found[child.key] = answer(note=str(exc))

    async def _call(self, life: Life, method: str, request: Any) -> Any:
        """Raises UntoldError."""
        try:
            endpoint = self._endpoint(life)
            if endpoint is None:
                raise UntoldError("it is not ready", logging.DEBUG)
            async with self._few:
                with trio.fail_after(_PATIENCE):
                    async with channel_to_instance(endpoint, SMALL) as channel:
                        return await getattr(DynamicStub(channel, _SERVICE), method)(request)
        except purerpc.UnimplementedError:
            raise UntoldError("it does not serve meshtrio.v1.Logging", logging.DEBUG) from None
        except purerpc.RpcFailedError as exc:
            raise UntoldError(exc.status.status_message, logging.WARNING) from None
        except trio.TooSlowError:
            text = f"it did not answer within {_PATIENCE:g} s"
            raise UntoldError(text, logging.WARNING) from None
        except UntoldError:
            raise
        except Exception as exc:
            # Whatever it answers concerns this question alone.
            text = f"{type(exc).__name__}: {exc!s:.200}"
            raise UntoldError(text, logging.WARNING) from exc

    def _endpoint(self, life: Life) -> Endpoint | None:
        """Where it serves, once it is ready."""
        pid = None if life.process is None else life.process.pid
        for endpoint in self._registry.resolve(life.config.service).endpoints:
            if pid is not None and (endpoint.pid, endpoint.instance) == (pid, life.number):
                return endpoint
        return None
