"""One launch of a mesh: what its processes are known by, and what they are given for that.

A launch has a random id. Its processes inherit it in their environment (`MESH_ID`), and a number
made of it in a limit that nothing enforces; see `marks.Mark`. The id is recorded in the lock
file of the runtime dir, so that the next mesh there can end what a mesh that was killed together
with its warden has left.
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

from meshtrio import contract, runtime_lock
from meshtrio.supervise.processes import marks, orphans
from meshtrio.supervise.processes.process import Process

_log = logging.getLogger("meshtrio.mesh")

SWEEP_WITHIN = 10.0
"""Seconds for a pass over /proc. Reading the environment of a process waits for the filesystem that
its memory is mapped from, which may never answer."""
SWEEP_TIMED_OUT = "cannot look for what is left of a mesh: /proc does not answer for a process"
_WARDENS_WITHIN = 2.0
"""Seconds that the warden of an earlier launch has to end by itself."""
_WARDENS_PAUSE = 0.05


class Launch:
    """Marks the processes of a mesh, and finds them again."""

    def __init__(self, folder: Path) -> None:
        """`folder`: the runtime dir."""
        self.id = secrets.token_hex(16)
        self.users = {os.getuid(), os.geteuid()}
        """The users that processes of the mesh run as."""
        self._lock = folder / runtime_lock.NAME
        self._pidfd: int | None = None
        self._runs = itertools.count(1)
        self._limits: dict[str, int] = {}
        """By the launch id of a process run, the limit that marks it."""

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold a pidfd of this process, which plugins inherit, during the block. Raises OSError."""
        self._pidfd = os.pidfd_open(os.getpid())
        try:
            yield
        finally:
            os.close(self._pidfd)
            self._pidfd = None

    def record(self, users: Iterable[int]) -> None:
        """Record the launch, and further users of its processes, in the lock file.

        To be called before a process runs as one of them. Raises OSError.
        """
        self.users.update(users)
        runtime_lock.add(self._lock, runtime_lock.launch_line(self.id, self.users))

    async def spawn(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        cgroup: Path | None = None,
    ) -> Process:
        """Start a process of this launch; see `Process.spawn`."""
        assert self._pidfd is not None
        run = env[contract.MESH_LIFE]
        limit = self._limits[run] = marks.limit_of(self.id, next(self._runs))
        own = {contract.MESH_ID: self.id, contract.MESH_PIDFD: str(self._pidfd)}
        return await Process.spawn(
            command,
            env={**env, **own},
            cwd=cwd,
            cgroup=cgroup,
            inherited=[self._pidfd],
            on_start=partial(marks.set_limit, limit=limit),
        )

    def limit_of_run(self, run: str) -> int:
        """Return the soft limit that marks a process run; 0 if it was not started."""
        return self._limits.get(run, 0)

    def forget_run(self, run: str) -> None:
        """Nothing of a process run is looked for any more."""
        self._limits.pop(run, None)

    def may_own(self, found: marks.Status) -> bool:
        """Whether a process that carries a mark of this launch is one of it; see `marks.Mark`."""
        return marks.mark_of_mesh(self.id, self.users, parent=os.getpid()).allows(found)

    async def end(self) -> None:
        """Kill all that is left of this launch, and take it out of the lock file.

        It stays there if something is left all the same, for the next mesh. Raises OSError, and
        RuntimeError if there can be no thread.
        """
        mark = marks.mark_of_mesh(self.id, self.users, parent=os.getpid())
        with trio.move_on_after(SWEEP_WITHIN):
            swept = await trio.to_thread.run_sync(_sweep, mark, abandon_on_cancel=True)
            if swept.complete:
                runtime_lock.remove_launch(self._lock, self.id)
            return
        _log.warning("%s", SWEEP_TIMED_OUT)

    @property
    def mark(self) -> marks.Mark:
        """What all processes of this launch carry."""
        return marks.mark_of_mesh(self.id, self.users)


def sweep_earlier(launches: Mapping[str, Iterable[int]]) -> list[str]:
    """Kill what earlier launches of a runtime dir have left, and log it. Blocks.

    Args:
        launches: By their ids, the users of their processes, as recorded in the lock file.

    Returns:
        The launches of which nothing is left.

    Raises:
        OSError: The processes cannot be listed, or this process is out of descriptors.
    """
    done = []
    for mesh_id, users in launches.items():
        allowed = {*users, os.getuid(), os.geteuid()}
        swept = _sweep(marks.mark_of_mesh(mesh_id, allowed))
        _end_wardens(mesh_id, allowed)
        if swept.killed:
            _log.warning(
                "killed %d processes that an earlier mesh in this runtime dir has left",
                len(swept.killed),
            )
        if swept.complete:
            done.append(mesh_id)
    return done


def _end_wardens(mesh_id: str, users: Iterable[int]) -> None:
    """Kill the wardens of a launch: one that is stopped at once, others after time to finish."""
    mark = marks.Mark("", frozenset(users), marks.limit_of(mesh_id, 0))
    end = time.monotonic() + _WARDENS_WITHIN
    while any(not warden.is_stopped for warden in mark.processes()):
        if time.monotonic() > end:
            break
        time.sleep(_WARDENS_PAUSE)
    _sweep(mark)


def _sweep(mark: marks.Mark) -> marks.Swept:
    swept = marks.sweep(mark)
    orphans.reap_killed(swept.killed)
    for pid, reason in swept.left.items():
        _log.warning("pid %d, which a plugin has started, cannot be killed (%s); left", pid, reason)
    return swept
