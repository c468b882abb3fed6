"""The real effects of a supervisor: processes, their warden, and the kernel's files."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.probe import SocketProbe
from meshtrio.supervisor.process.cleanup.cgroup import Cgroups
from meshtrio.supervisor.process.cleanup.leftover_killer import LeftoverKiller
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.cleanup.reparented import ReparentedProcesses
from meshtrio.supervisor.process.cleanup.warden import Warden
from meshtrio.supervisor.process.cleanup.zombie_reaper import run_zombie_reaper
from meshtrio.supervisor.process.proc.resource_usage import read_rss_by_group
from meshtrio.supervisor.process.spawn.signal_dispositions import default_signals_in_children
from meshtrio.supervisor.process.spawn.start_failures import explain_exec_failure
from meshtrio.supervisor.process_observer import observe
from meshtrio.supervisor.server_identity import is_address_in_use
from meshtrio.util.concurrency import background_service


def make_system_effects(directory: Path, cgroup: Path | None = None) -> Effects:
    """Make the effects of a mesh with its runtime directory, and the cgroup of its plugins, if any.

    Raises:
        ConfigError: The cgroup cannot be used.
    """
    mesh_run = MeshRun(directory)
    warden = Warden(mesh_run, cgroup)
    cgroups = None if cgroup is None else Cgroups(cgroup, mesh_run.id)
    return Effects(
        guard=warden,
        run_guard=partial(_run_guard, mesh_run, warden, cgroups),
        spawn=mesh_run.spawn,
        kill_orphans=LeftoverKiller(mesh_run, cgroups).kill_leftovers,
        probe=SocketProbe(),
        observe=observe,
        read_rss_by_group=read_rss_by_group,
        is_socket_removed=is_socket_removed,
        is_address_in_use=is_address_in_use,
        diagnose_program=explain_exec_failure,
        cgroups=cgroups,
    )


def is_socket_removed(socket: Path) -> bool:
    """Whether a bound socket's path is gone, and not its whole folder, which is restored first."""
    return not os.path.lexists(socket) and os.path.lexists(socket.parent)


@asynccontextmanager
async def _run_guard(run: MeshRun, warden: Warden, cgroups: Cgroups | None) -> AsyncIterator[None]:
    """Run the warden during the block, and reap reparented processes.

    After the block, what remains of this run of the mesh is killed.
    """
    with ExitStack() as stack:
        if cgroups is not None:
            stack.callback(cgroups.close)
        stack.enter_context(default_signals_in_children())
        stack.enter_context(run.hold_pidfd())
        reparented = ReparentedProcesses(run, warden)
        async with (
            background_service(run_zombie_reaper),
            background_service(warden.run),
            background_service(reparented.run),
        ):
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await run.kill_remaining()
