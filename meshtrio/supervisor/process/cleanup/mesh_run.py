"""One launch of a mesh: what its processes are known by, and what they are given for that.

A launch has a random id. Its processes inherit it in their environment (`MESH_ID`), and a number
made of it in a limit that nothing enforces; see `marks.ProcessMarker`. The id is recorded in the
lock file of the runtime dir, so that the next mesh there can end what a mesh that was killed
together with its warden has left.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from meshtrio import contract
from meshtrio.runtime_dir import lock_file
from meshtrio.supervisor.process.cleanup import process_marker, zombie_reaper
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess

_log = logging.getLogger("meshtrio.mesh")

PROC_PASS_TIMEOUT = 10.0
"""Seconds for a pass over /proc. Reading the environment of a process waits for the filesystem that
its memory is mapped from, which may never answer."""
PROC_SCAN_TIMED_OUT = "cannot look for what is left of a mesh: /proc does not answer for a process"
_WARDEN_EXIT_TIMEOUT = 2.0
"""Seconds that the warden of an earlier launch has to end by itself."""
_WARDEN_CHECK_INTERVAL = 0.05


class MeshRun:
    """Marks the processes of a mesh, and finds them again."""

    def __init__(self, runtime_dir: Path) -> None:
        """`folder`: the runtime dir."""
        self.id = secrets.token_hex(16)
        self.users = {os.getuid(), os.geteuid()}
        """The users that processes of the mesh run as."""
        self._lock_path = runtime_dir / lock_file.LOCK_FILE_NAME
        self._pidfd: int | None = None
        self._run_numbers = itertools.count(1)
        self._run_limits: dict[str, int] = {}
        """By the launch id of a process run, the limit that marks it."""

    @contextmanager
    def hold_pidfd(self) -> Iterator[None]:
        """Hold a pidfd of this process, which plugins inherit, during the block. Raises OSError."""
        self._pidfd = os.pidfd_open(os.getpid())
        try:
            yield
        finally:
            os.close(self._pidfd)
            self._pidfd = None

    def record_users(self, users: Iterable[int]) -> None:
        """Record the launch, and further users of its processes, in the lock file.

        To be called before a process runs as one of them. Raises OSError.
        """
        self.users.update(users)
        lock_file.append_line(self._lock_path, lock_file.format_mesh_run(self.id, self.users))

    async def spawn(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        cgroup: Path | None = None,
    ) -> PluginProcess:
        """Start a process of this launch; see `PluginProcess.spawn`."""
        assert self._pidfd is not None
        run = env[contract.MESH_LAUNCH_ID]
        limit = self._run_limits[run] = process_marker.encode_marker_limit(
            self.id, next(self._run_numbers)
        )
        own = {contract.MESH_ID: self.id, contract.MESH_PIDFD: str(self._pidfd)}
        return await PluginProcess.spawn(
            command,
            env={**env, **own},
            cwd=cwd,
            cgroup=cgroup,
            pass_fds=[self._pidfd],
            on_started=partial(process_marker.set_marker_limit, limit=limit),
        )

    def get_run_limit(self, launch_id: str) -> int:
        """Return the soft limit that marks a process run; 0 if it was not started."""
        return self._run_limits.get(launch_id, 0)

    def remove_run(self, launch_id: str) -> None:
        """Nothing of a process run is looked for any more."""
        self._run_limits.pop(launch_id, None)

    def can_own(self, process: process_marker.ProcessInfo) -> bool:
        """Whether a process that carries a mark of this launch is one of it; see
        `marks.ProcessMarker`."""
        return process_marker.make_mesh_marker(
            self.id, self.users, parent_pid=os.getpid()
        ).can_belong(process)

    async def kill_remaining(self) -> None:
        """Kill all that is left of this launch, and take it out of the lock file.

        It stays there if something is left all the same, for the next mesh. Raises OSError, and
        RuntimeError if there can be no thread.
        """
        mark = process_marker.make_mesh_marker(self.id, self.users, parent_pid=os.getpid())
        with trio.move_on_after(PROC_PASS_TIMEOUT):
            swept = await trio.to_thread.run_sync(_kill_marked, mark, abandon_on_cancel=True)
            if swept.is_complete:
                lock_file.remove_mesh_run(self._lock_path, self.id)
            return
        _log.warning("%s", PROC_SCAN_TIMED_OUT)

    @property
    def marker(self) -> process_marker.ProcessMarker:
        """What all processes of this launch carry."""
        return process_marker.make_mesh_marker(self.id, self.users)


def kill_earlier_runs(mesh_runs: Mapping[str, Iterable[int]]) -> list[str]:
    """Kill what earlier launches of a runtime dir have left, and log it. Blocks.

    Args:
        launches: By their ids, the users of their processes, as recorded in the lock file.

    Returns:
        The launches of which nothing is left.

    Raises:
        OSError: The processes cannot be listed, or this process is out of descriptors.
    """
    done = []
    for mesh_id, users in mesh_runs.items():
        allowed = {*users, os.getuid(), os.geteuid()}
        swept = _kill_marked(process_marker.make_mesh_marker(mesh_id, allowed))
        _stop_wardens(mesh_id, allowed)
        if swept.killed:
            _log.warning(
                "killed %d processes that an earlier mesh in this runtime dir has left",
                len(swept.killed),
            )
        if swept.is_complete:
            done.append(mesh_id)
    return done


def _stop_wardens(mesh_id: str, users: Iterable[int]) -> None:
    """Kill the wardens of a launch: one that is stopped at once, others after time to finish."""
    mark = process_marker.ProcessMarker(
        "", frozenset(users), process_marker.encode_marker_limit(mesh_id, 0)
    )
    end = time.monotonic() + _WARDEN_EXIT_TIMEOUT
    while any(not warden.is_stopped for warden in mark.find_processes()):
        if time.monotonic() > end:
            break
        time.sleep(_WARDEN_CHECK_INTERVAL)
    _kill_marked(mark)


def _kill_marked(marker: process_marker.ProcessMarker) -> process_marker.KillReport:
    swept = process_marker.kill_marked_processes(marker)
    zombie_reaper.reap_pids(swept.killed)
    for pid, reason in swept.unkillable.items():
        _log.warning("pid %d, which a plugin has started, cannot be killed (%s); left", pid, reason)
    return swept
