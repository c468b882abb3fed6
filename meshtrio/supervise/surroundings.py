"""What the tree uses of the world beside its own decisions: in tests, all of it can be a fake."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol

import attrs
import trio

from meshtrio.config import PluginConfig
from meshtrio.registry import Registry
from meshtrio.structured import running
from meshtrio.supervise import events
from meshtrio.supervise.plugin_server import answers
from meshtrio.supervise.probe import Probe, SocketProbe
from meshtrio.supervise.processes.adoption import Adoption
from meshtrio.supervise.processes.cgroup import Cgroups
from meshtrio.supervise.processes.dispositions import defaults_for_children
from meshtrio.supervise.processes.failed_start import why_not_executed
from meshtrio.supervise.processes.launch import Launch
from meshtrio.supervise.processes.orphans import reap_orphans
from meshtrio.supervise.processes.process import Process
from meshtrio.supervise.processes.remains import Remains, RunIdentity, Sweeper
from meshtrio.supervise.processes.usage import resident_by_group
from meshtrio.supervise.processes.warden import Warden
from meshtrio.supervise.vitals import Observe, observe

_log = logging.getLogger("meshtrio.mesh")


class Spawn(Protocol):
    """Starts a process. Raises OSError or ValueError."""

    def __call__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        cgroup: Path | None = None,
    ) -> Awaitable[Process]: ...


class Guard(Protocol):
    """Sees to it that plugins die with the mesh."""

    def watch(self, pid: int, pidfd: int) -> None: ...

    def forget(self, pid: int) -> None: ...

    def set_users(self, users: Iterable[int]) -> None: ...


async def _end(launch: Launch) -> None:
    try:
        await launch.end()
    except (OSError, RuntimeError) as exc:
        _log.warning("cannot look for what the mesh has left behind: %s", exc)


def is_removed(socket: Path) -> bool:
    """Whether a bound socket's path is gone, and not its whole folder, which comes back first."""
    return not os.path.lexists(socket) and os.path.lexists(socket.parent)


@asynccontextmanager
async def _guarded(launch: Launch, warden: Warden, cgroups: Cgroups | None) -> AsyncIterator[None]:
    """Run the warden during the block, and reap what the kernel gives us to reap.

    After the block, what is left of the launch is killed.
    """
    with ExitStack() as stack:
        if cgroups is not None:
            stack.callback(cgroups.close)
        stack.enter_context(defaults_for_children())
        stack.enter_context(launch.open())
        adoption = Adoption(launch, warden)
        async with running(reap_orphans), running(warden.run), running(adoption.run):
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await _end(launch)


@attrs.frozen
class World:
    """Processes, questions to them, their guard, and chance."""

    guard: Guard
    guarded: Callable[[], AbstractAsyncContextManager[Any]]
    """Runs the guard for a block."""
    sweep: Callable[[RunIdentity], Awaitable[Remains]]
    spawn: Spawn = Process.spawn
    probe: Probe = attrs.field(factory=SocketProbe)
    rng: Random = attrs.field(factory=Random)
    resident_by_group: Callable[[], Awaitable[Mapping[int, int]]] = resident_by_group
    is_removed: Callable[[Path], bool] = is_removed
    why_not_executed: Callable[[PluginConfig], Awaitable[str]] = why_not_executed
    answers: Callable[[str], Awaitable[bool]] = answers
    observe: Observe = observe
    cgroups: Cgroups | None = None

    @classmethod
    def real(cls, folder: Path, cgroup: Path | None = None) -> World:
        """Raises ConfigError for a cgroup that cannot be used."""
        launch = Launch(folder)
        warden = Warden(launch, cgroup)
        cgroups = None if cgroup is None else Cgroups(cgroup, launch.id)
        return cls(
            warden,
            partial(_guarded, launch, warden, cgroups),
            sweep=Sweeper(launch, cgroups).sweep,
            spawn=launch.spawn,
            cgroups=cgroups,
        )

    def cgroup_for(self, life: str, memory: int | None) -> Path | None:
        """Make the cgroup of a process, where there are any. Raises OSError."""
        return None if self.cgroups is None else self.cgroups.make(life, memory)

    def was_too_large(self, life: str) -> bool:
        return self.cgroups is not None and self.cgroups.was_too_large(life)


@attrs.frozen
class Surroundings:
    """What a life uses of its mesh."""

    registry: Registry
    mesh_socket: Path
    emit: events.Subscriber
    world: World
    telemetry: Callable[[PluginConfig, int, int], Mapping[str, str]] = lambda *_: {}
    """What an instance is told to measure, by its config, its number and its place."""
    _serials: Iterator[int] = attrs.field(factory=itertools.count)

    def next_serial(self) -> int:
        """A number that no two registrations share."""
        return next(self._serials)
