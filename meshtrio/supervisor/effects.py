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
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor import events
from meshtrio.supervisor.probe import Probe, SocketProbe
from meshtrio.supervisor.process.cleanup.cgroup import Cgroups
from meshtrio.supervisor.process.cleanup.leftover_killer import (
    LeftoverKiller,
    LeftoverReport,
    RunIdentity,
)
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.cleanup.reparented import ReparentedProcesses
from meshtrio.supervisor.process.cleanup.warden import Warden
from meshtrio.supervisor.process.cleanup.zombie_reaper import run_zombie_reaper
from meshtrio.supervisor.process.proc.resource_usage import read_rss_by_group
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process.spawn.signal_dispositions import (
    default_signals_in_children,
)
from meshtrio.supervisor.process.spawn.start_failures import explain_exec_failure
from meshtrio.supervisor.process_observer import Observe, observe
from meshtrio.supervisor.server_identity import is_address_in_use
from meshtrio.util.concurrency import background_service

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
    ) -> Awaitable[PluginProcess]: ...


class Guard(Protocol):
    """Sees to it that plugins die with the mesh."""

    def watch(self, pid: int, pidfd: int) -> None: ...

    def unwatch(self, pid: int) -> None: ...

    def set_users(self, users: Iterable[int]) -> None: ...


async def _kill_remaining(mesh_run: MeshRun) -> None:
    try:
        await mesh_run.kill_remaining()
    except (OSError, RuntimeError) as exc:
        _log.warning("cannot look for what the mesh has left behind: %s", exc)


def is_socket_removed(socket: Path) -> bool:
    """Whether a bound socket's path is gone, and not its whole folder, which comes back first."""
    return not os.path.lexists(socket) and os.path.lexists(socket.parent)


@asynccontextmanager
async def _run_guard(
    mesh_run: MeshRun, warden: Warden, cgroups: Cgroups | None
) -> AsyncIterator[None]:
    """Run the warden during the block, and reap what the kernel gives us to reap.

    After the block, what is left of the launch is killed.
    """
    with ExitStack() as stack:
        if cgroups is not None:
            stack.callback(cgroups.close)
        stack.enter_context(default_signals_in_children())
        stack.enter_context(mesh_run.hold_pidfd())
        adoption = ReparentedProcesses(mesh_run, warden)
        async with (
            background_service(run_zombie_reaper),
            background_service(warden.run),
            background_service(adoption.run),
        ):
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await _kill_remaining(mesh_run)


@attrs.frozen
class Effects:
    """Processes, questions to them, their guard, and chance."""

    guard: Guard
    run_guard: Callable[[], AbstractAsyncContextManager[Any]]
    """Runs the guard for a block."""
    kill_orphans: Callable[[RunIdentity], Awaitable[LeftoverReport]]
    spawn: Spawn = PluginProcess.spawn
    probe: Probe = attrs.field(factory=SocketProbe)
    rng: Random = attrs.field(factory=Random)
    read_rss_by_group: Callable[[], Awaitable[Mapping[int, int]]] = read_rss_by_group
    is_socket_removed: Callable[[Path], bool] = is_socket_removed
    diagnose_program: Callable[[PluginConfig], Awaitable[str]] = explain_exec_failure
    is_address_in_use: Callable[[str], Awaitable[bool]] = is_address_in_use
    observe: Observe = observe
    cgroups: Cgroups | None = None

    @classmethod
    def for_system(cls, directory: Path, cgroup: Path | None = None) -> Effects:
        """Raises ConfigError for a cgroup that cannot be used."""
        launch = MeshRun(directory)
        warden = Warden(launch, cgroup)
        cgroups = None if cgroup is None else Cgroups(cgroup, launch.id)
        return cls(
            warden,
            partial(_run_guard, launch, warden, cgroups),
            kill_orphans=LeftoverKiller(launch, cgroups).kill_leftovers,
            spawn=launch.spawn,
            cgroups=cgroups,
        )

    def create_cgroup(self, launch_id: str, memory: int | None) -> Path | None:
        """Make the cgroup of a process, where there are any. Raises OSError."""
        return None if self.cgroups is None else self.cgroups.create(launch_id, memory)

    def was_oom_killed(self, launch_id: str) -> bool:
        return self.cgroups is not None and self.cgroups.was_oom_killed(launch_id)


@attrs.frozen
class RunContext:
    """What a life uses of its mesh."""

    registry: Registry
    mesh_socket: Path
    emit: events.Subscriber
    effects: Effects
    telemetry_environment: Callable[[PluginConfig, int, int], Mapping[str, str]] = lambda *_: {}
    """What an instance is told to measure, by its config, its number and its place."""
    _serial_numbers: Iterator[int] = attrs.field(factory=itertools.count)

    def next_serial(self) -> int:
        """A number that no two registrations share."""
        return next(self._serial_numbers)
