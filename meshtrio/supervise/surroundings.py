"""What the tree uses of the world beside its own decisions: in tests, all of it can be a fake."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol

import attrs

from meshtrio.config import PluginConfig
from meshtrio.registry import Registry
from meshtrio.structured import running
from meshtrio.supervise import events
from meshtrio.supervise.plugin_server import answers
from meshtrio.supervise.probe import Probe, SocketProbe
from meshtrio.supervise.processes.cgroup import PREFIX, Cgroups
from meshtrio.supervise.processes.dispositions import defaults_for_children
from meshtrio.supervise.processes.failed_start import why_not_executed
from meshtrio.supervise.processes.orphans import reap_orphans
from meshtrio.supervise.processes.process import Process
from meshtrio.supervise.processes.remains import Remains, RunIdentity, Sweeper
from meshtrio.supervise.processes.usage import resident_by_group
from meshtrio.supervise.processes.warden import Warden
from meshtrio.supervise.vitals import Observe, observe


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


def is_removed(socket: Path) -> bool:
    """Whether a bound socket's path is gone, and not its whole folder, which comes back first."""
    return not os.path.lexists(socket) and os.path.lexists(socket.parent)


@asynccontextmanager
async def _guarded(warden: Warden, cgroups: Cgroups | None) -> AsyncIterator[None]:
    """Run the warden during the block, and reap what the kernel gives us to reap."""
    with ExitStack() as stack:
        if cgroups is not None:
            stack.callback(cgroups.close)
        stack.enter_context(defaults_for_children())
        async with running(reap_orphans), running(warden.run):
            yield


@attrs.frozen
class World:
    """Processes, questions to them, their guard, and chance."""

    guard: Guard
    guarded: Callable[[], AbstractAsyncContextManager[Any]]
    """Runs the guard for a block."""
    spawn: Spawn = Process.spawn
    probe: Probe = attrs.field(factory=SocketProbe)
    rng: Random = attrs.field(factory=Random)
    resident_by_group: Callable[[], Awaitable[Mapping[int, int]]] = resident_by_group
    sweep: Callable[[RunIdentity], Awaitable[Remains]] = attrs.field(
        factory=lambda: Sweeper().sweep
    )
    is_removed: Callable[[Path], bool] = is_removed
    why_not_executed: Callable[[PluginConfig], Awaitable[str]] = why_not_executed
    answers: Callable[[str], Awaitable[bool]] = answers
    observe: Observe = observe
    cgroups: Cgroups | None = None

    @classmethod
    def real(cls, folder: Path, cgroup: Path | None = None) -> World:
        """Raises ConfigError for a cgroup that cannot be used."""
        warden = Warden(folder, cgroup)
        cgroups = None if cgroup is None else Cgroups(cgroup)
        return cls(
            warden,
            partial(_guarded, warden, cgroups),
            sweep=Sweeper(cgroups).sweep,
            cgroups=cgroups,
        )

    def cgroup_for(self, life: str, memory: int | None) -> Path | None:
        """Make the cgroup of a process, where there are any. Raises OSError."""
        return None if self.cgroups is None else self.cgroups.make(PREFIX + life, memory)

    def was_too_large(self, life: str) -> bool:
        return self.cgroups is not None and self.cgroups.was_too_large(PREFIX + life)


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
