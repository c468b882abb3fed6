"""What the supervisor uses of the system: processes, their warden, and the kernel's files.

It is one object, all of whose parts tests can replace; `make_system_effects` makes the real one.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import attrs
import trio

from meshtrio import contract
from meshtrio.config import ProgramConfig
from meshtrio.supervisor.probe import SocketProbe
from meshtrio.supervisor.process.cleanup import leftover_killer
from meshtrio.supervisor.process.cleanup.cgroup import Cgroups
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.cleanup.reparented import ReparentedProcesses, is_subreaper
from meshtrio.supervisor.process.cleanup.warden import Warden
from meshtrio.supervisor.process.cleanup.zombie_reaper import run_zombie_reaper
from meshtrio.supervisor.process.proc.activity import ActivitySample, sample_activity
from meshtrio.supervisor.process.proc.resource_usage import read_rss_by_group
from meshtrio.supervisor.process.saved_processes import SavedProcesses
from meshtrio.supervisor.process.spawn.child_process import CHILD_REGISTRY, ChildProcess
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process.spawn.signal_dispositions import default_signals_in_children
from meshtrio.supervisor.process.spawn.start_failures import explain_exec_failure
from meshtrio.supervisor.process.template.template import TemplateEffects
from meshtrio.supervisor.process.template.template_pool import TemplatePool
from meshtrio.supervisor.server_identity import is_address_in_use
from meshtrio.util.concurrency import background_service


def _is_socket_removed(socket: Path) -> bool:
    """Whether a bound socket's path is gone, and not its whole folder, which is restored first."""
    return not os.path.lexists(socket) and os.path.lexists(socket.parent)


async def _observe(leader: int, address: str) -> ActivitySample | None:
    """Sample in a thread, since the machine may have thousands of processes."""
    try:
        return await trio.to_thread.run_sync(sample_activity, leader, address)
    except RuntimeError:
        return None  # No thread can be started.


def _cannot_save() -> SavedProcesses:
    raise NotImplementedError


@attrs.frozen(kw_only=True)
class Effects:
    """The system as the supervisor uses it."""

    guard: Warden
    """Kills the plugins' processes should the mesh die without stopping them."""
    run_guard: Callable[[], AbstractAsyncContextManager[Any]]
    """Runs the guard during a block."""
    spawn: Callable[..., Awaitable[PluginProcess]]
    """Starts a process: `MeshRun.spawn`."""
    kill_orphans: Callable[[leftover_killer.RunIdentity], Awaitable[leftover_killer.LeftoverReport]]
    """Kills the processes that a run has left behind."""
    marks: Mapping[str, str] = attrs.field(factory=dict)
    """Variables that all processes of the mesh have, by which they are found."""
    probe: SocketProbe = attrs.field(factory=SocketProbe)
    """Checks the health of a plugin's server."""
    observe: Callable[[int, str], Awaitable[ActivitySample | None]] = _observe
    """Samples the processes of a session or group, and the socket at an address; None if it cannot.
    """
    read_rss_by_group: Callable[[], Awaitable[Mapping[int, int]]] = read_rss_by_group
    """Reads the resident memory of all process groups, in bytes. Raises OSError or RuntimeError."""
    is_socket_removed: Callable[[Path], bool] = _is_socket_removed
    """Whether the file of a socket that is bound there has been removed."""
    is_address_in_use: Callable[[str], Awaitable[bool]] = is_address_in_use
    """Whether a server accepts connections at a TCP address."""
    diagnose_program: Callable[[ProgramConfig], Awaitable[str]] = explain_exec_failure
    """Explains why a program cannot be executed; "" if there is no reason to be found."""
    rng: Random = attrs.field(factory=Random)
    """Randomizes delays and ages."""
    wall_clock: Callable[[], float] = time.time
    """Returns the Unix time, for schedules."""
    cgroups: Cgroups | None = None
    """Makes the cgroups of processes, if the config has a cgroup for them."""
    templates: TemplatePool | None = None
    """Starts processes by fork; None if all are started by exec."""
    find_obstacle: Callable[[], str] = lambda: "its processes are not real"
    """Returns why there can be no upgrade now, as a phrase after "while"; "" if there can."""
    save: Callable[[], SavedProcesses] = _cannot_save
    """Returns what an upgrade hands over, unless there is an obstacle."""
    make_marker_limit: Callable[[], int] = lambda: 0
    """Makes the soft limit that marks a process of the mesh which is none of a plugin."""
    get_marker_limit: Callable[[str], int] = lambda launch_id: 0
    """Returns the soft limit that marks a process run, by its launch id."""
    adopt_marker_limit: Callable[[str, int], None] = lambda launch_id, limit: None
    """Sets that of a process run that was started before an upgrade."""


def make_system_effects(
    directory: Path, cgroup: Path | None = None, adopted: SavedProcesses | None = None
) -> Effects:
    """Make the effects of a mesh with its runtime directory, and the cgroup of its plugins, if any.

    Args:
        directory: The runtime directory.
        cgroup: The cgroup of its plugins.
        adopted: What this process has handed over in an upgrade.

    Raises:
        ConfigError: The cgroup cannot be used.
    """
    mesh_run = MeshRun(directory, None if adopted is None else adopted.mesh_run)
    warden = Warden(mesh_run, cgroup, None if adopted is None else adopted.warden)
    lock = None if adopted is None else adopted.cgroup_lock
    cgroups = None if cgroup is None else Cgroups(cgroup, mesh_run.id, lock)
    kill_orphans = leftover_killer.LeftoverKiller(mesh_run, cgroups).kill_leftovers
    used = TemplateEffects(
        mesh_run=mesh_run, guard=warden, cgroups=cgroups, kill_orphans=kill_orphans
    )
    templates = TemplatePool(used, () if adopted is None else adopted.templates)
    reparented = ReparentedProcesses(
        mesh_run, warden, () if adopted is None else adopted.reparented
    )
    for child in () if adopted is None else adopted.deferred:
        CHILD_REGISTRY.pids.add(child.pid)
        unwatch = partial(warden.unwatch, child.pid)
        ChildProcess(child.pid, child.pidfd).reap_later(unwatch)
    return Effects(
        guard=warden,
        run_guard=partial(_run_guard, mesh_run, warden, cgroups, templates, reparented),
        spawn=mesh_run.spawn,
        kill_orphans=kill_orphans,
        marks={contract.MESH_ID: mesh_run.id},
        cgroups=cgroups,
        templates=templates,
        find_obstacle=partial(_find_obstacle, warden, templates),
        save=partial(_save, mesh_run, warden, cgroups, templates, reparented),
        make_marker_limit=mesh_run.make_marker_limit,
        get_marker_limit=mesh_run.run_limits.__getitem__,
        adopt_marker_limit=mesh_run.run_limits.__setitem__,
    )


def _find_obstacle(warden: Warden, templates: TemplatePool) -> str:
    """See `Effects.find_obstacle`."""
    if CHILD_REGISTRY.pending_starts:
        return "a process is being started"
    if not warden.is_running:
        return "the warden is being restarted"
    return "" if templates.is_steady else "a template starts or ends"


def _save(
    run: MeshRun,
    warden: Warden,
    cgroups: Cgroups | None,
    templates: TemplatePool,
    reparented: ReparentedProcesses,
) -> SavedProcesses:
    """See `Effects.save`."""
    return SavedProcesses(
        mesh_run=run.save(),
        warden=warden.save(),
        is_subreaper=is_subreaper(),
        reparented=reparented.save(),
        deferred=CHILD_REGISTRY.save_deferred(),
        templates=templates.save(),
        cgroup_lock=None if cgroups is None else cgroups.lock,
    )


@asynccontextmanager
async def _run_guard(
    run: MeshRun,
    warden: Warden,
    cgroups: Cgroups | None,
    templates: TemplatePool,
    reparented: ReparentedProcesses,
) -> AsyncIterator[None]:
    """Run the warden and templates during the block, and reap reparented processes.

    After the block, what remains of this run of the mesh is killed.
    """
    with ExitStack() as stack:
        if cgroups is not None:
            stack.callback(cgroups.close)
        stack.enter_context(default_signals_in_children())
        stack.enter_context(run.hold_pidfd())
        async with (
            background_service(run_zombie_reaper),
            background_service(warden.run),
            background_service(reparented.run),
        ):
            try:
                async with background_service(templates.run):
                    yield
            finally:
                with trio.CancelScope(shield=True):
                    await run.kill_remaining()
