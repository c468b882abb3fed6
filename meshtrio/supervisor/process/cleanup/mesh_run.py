"""One run of a mesh: the marks that its processes inherit, and killing all that carry them.

A run has a random id. Its processes inherit the id in their environment (`MESH_ID`), and a number
derived from it in a resource limit that the kernel does not enforce; see `ProcessMarker`. The id is
recorded in the lock file of the runtime dir, so that the next mesh there can kill what a mesh that
was killed together with its warden has left.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from meshtrio import contract
from meshtrio.runtime_dir import lock_file
from meshtrio.runtime_dir.claim import ClaimedRuntimeDir
from meshtrio.supervisor.process.cleanup import process_marker, zombie_reaper
from meshtrio.supervisor.process.saved_processes import SavedMeshRun
from meshtrio.supervisor.process.spawn.launcher_main import FIRST_LISTEN_FD
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.util.descriptors import closing_descriptor
from meshtrio.util.errors import UsageError

_log = logging.getLogger("meshtrio.mesh")

PROC_PASS_TIMEOUT = 10.0
"""Seconds that a pass over /proc may take. Reading the environment of a process waits for the
filesystem that its memory is mapped from, which may never respond."""
_WARDEN_EXIT_TIMEOUT = 2.0
"""Seconds in which the warden of an earlier run may exit by itself, before it is killed."""
_WARDEN_CHECK_INTERVAL = 0.05


class MeshRun:
    """Marks the processes of a mesh run, and finds them again."""

    def __init__(self, runtime_dir: Path, adopted: SavedMeshRun | None = None) -> None:
        """Choose a random id, or continue a run that this process has begun before an upgrade.

        `runtime_dir` has the lock file that records the run.
        """
        self.id = secrets.token_hex(16) if adopted is None else adopted.id
        self.users = {os.getuid(), os.geteuid()}
        """The uids that processes of the mesh run as."""
        self._lock_path = runtime_dir / lock_file.LOCK_FILE_NAME
        self._pidfd: int | None = None
        self._next_run_number = 1
        if adopted is not None:
            self.users.update(adopted.users)
            self._pidfd, self._next_run_number = adopted.pidfd, adopted.next_run_number
        self.run_limits: dict[str, int] = {}
        """The soft limit that marks a process run, by its launch id, until its end is handled."""

    @contextmanager
    def hold_pidfd(self) -> Iterator[None]:
        """Hold open a pidfd of this process, which plugins inherit.

        Raises:
            UsageError: The kernel has no pidfds.
            OSError: There are no descriptors left.
        """
        if self._pidfd is None:
            self._pidfd = _open_own_pidfd()
        try:
            yield
        finally:
            os.close(self._pidfd)
            self._pidfd = None

    def record_users(self, users: Iterable[int]) -> None:
        """Record the run, and additional uids of its processes, in the lock file.

        Must be called before a process runs as one of them. Raises OSError.
        """
        self.users.update(users)
        lock_file.append_line(self._lock_path, lock_file.format_mesh_run(self.id, self.users))

    @property
    def pidfd(self) -> int:
        """The pidfd of this process that plugins inherit, during `hold_pidfd`."""
        assert self._pidfd is not None
        return self._pidfd

    def make_marker_limit(self) -> int:
        """Make the soft limit that marks the next process that is started."""
        limit = process_marker.encode_marker_limit(self.id, self._next_run_number)
        self._next_run_number += 1
        return limit

    def save(self) -> SavedMeshRun:
        """Return what an upgrade hands over."""
        return SavedMeshRun(
            id=self.id,
            pidfd=self.pidfd,
            users=tuple(sorted(self.users)),
            next_run_number=self._next_run_number,
        )

    def make_marks(self, env: Mapping[str, str]) -> tuple[dict[str, str], int]:
        """Make the marks of a process run, which has MESH_LAUNCH_ID in its environment.

        Returns the environment with those of the mesh, and the soft limit.
        """
        limit = self.make_marker_limit()
        self.run_limits[env[contract.MESH_LAUNCH_ID]] = limit
        marks = {contract.MESH_ID: self.id, contract.MESH_PIDFD: str(self.pidfd)}
        return {**env, **marks}, limit

    async def spawn(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        **options: Any,
    ) -> PluginProcess:
        """Start a process of this run by exec; see `PluginProcess.spawn`."""
        env, limit = self.make_marks(env)
        return await PluginProcess.spawn(
            command,
            env=env,
            pass_fds=(self.pidfd, *pass_fds),
            on_started=partial(process_marker.set_marker_limit, limit=limit),
            **options,
        )

    @property
    def marker(self) -> process_marker.ProcessMarker:
        """The mark that all processes of this run carry."""
        return process_marker.make_mesh_marker(self.id, self.users)

    @property
    def marker_of_children(self) -> process_marker.ProcessMarker:
        """The same mark, which children of the mesh carry whatever their user is."""
        return process_marker.make_mesh_marker(self.id, self.users, parent_pid=os.getpid())

    async def kill_remaining(self) -> None:
        """Kill what is left of this run, and remove the run from the lock file.

        It stays recorded, for the next mesh, if something is left all the same.
        """
        with _pass_over_proc("that the mesh has left behind"):
            report = await trio.to_thread.run_sync(
                _kill_marked, self.marker_of_children, abandon_on_cancel=True
            )
            if report.is_complete:
                lock_file.remove_mesh_run(self._lock_path, self.id)


async def kill_earlier_runs(claim: ClaimedRuntimeDir) -> None:
    """Kill what earlier meshes here have left that were killed together with their wardens."""
    if runs := claim.recorded_mesh_runs():
        with _pass_over_proc("of an earlier mesh"):
            killed = await trio.to_thread.run_sync(_kill_runs, runs, abandon_on_cancel=True)
            claim.remove_mesh_runs(killed)


@contextmanager
def _pass_over_proc(which: str) -> Iterator[None]:
    """Limit the time of a pass over /proc, shielded, and log why it fails."""
    try:
        with trio.move_on_after(PROC_PASS_TIMEOUT, shield=True) as scope:
            yield
        if scope.cancelled_caught:
            _log.warning("cannot look for processes %s: reading /proc of a process hangs", which)
    except (OSError, RuntimeError) as exc:
        _log.warning("cannot look for processes %s: %s", which, exc)


def _kill_runs(mesh_runs: Mapping[str, Iterable[int]]) -> list[str]:
    """Kill what is left of mesh runs, and log it. Blocks. Raises OSError.

    The runs are given as in the lock file, by id with the uids of their processes. Returns the ids
    of those of which nothing is left.
    """
    done = []
    for mesh_id, users in mesh_runs.items():
        allowed = {*users, os.getuid(), os.geteuid()}
        report = _kill_marked(process_marker.make_mesh_marker(mesh_id, allowed))
        _stop_wardens(mesh_id, allowed)
        if report.killed:
            _log.warning(
                "killed %d processes that an earlier mesh in this runtime dir had left running",
                len(report.killed),
            )
        if report.is_complete:
            done.append(mesh_id)
    return done


def _stop_wardens(mesh_id: str, users: Iterable[int]) -> None:
    """Kill the wardens of a run: stopped ones at once, others after `_WARDEN_EXIT_TIMEOUT`."""
    limits = [process_marker.encode_marker_limit(mesh_id, 0)]
    marker = process_marker.ProcessMarker("", frozenset(users), limits)
    end = time.monotonic() + _WARDEN_EXIT_TIMEOUT
    while any(not each.is_stopped for each in marker.find_processes()) and time.monotonic() <= end:
        time.sleep(_WARDEN_CHECK_INTERVAL)
    _kill_marked(marker)


def _kill_marked(marker: process_marker.ProcessMarker) -> process_marker.KillReport:
    report = process_marker.kill_marked_processes(marker)
    zombie_reaper.reap_pids(report.killed)
    for pid, reason in report.unkillable.items():
        text = "cannot kill pid %d, which a plugin has started (%s); left running"
        _log.warning(text, pid, reason)
    return report


def _open_own_pidfd() -> int:
    """Open a pidfd of this process. Raises UsageError and OSError; see `MeshRun.hold_pidfd`."""
    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError as exc:
        if exc.errno != errno.ENOSYS:
            raise
        text = f"a mesh needs pidfd_open(2), which Linux {os.uname().release} lacks here"
        raise UsageError(
            f"{text}: use Linux 5.4 or newer, without a sandbox that hides it"
        ) from None
    with closing_descriptor(pidfd):
        # Not 3, the number that an inherited listening socket has in a plugin.
        return fcntl.fcntl(pidfd, fcntl.F_DUPFD_CLOEXEC, FIRST_LISTEN_FD + 1)
