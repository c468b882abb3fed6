"""Kills descendants of plugins that have become children of the mesh and carry no mark.

When a process exits, its children become those of the nearest ancestor that is a subreaper
(prctl(2)). If the mesh is one, any child that it has not started descends from a plugin, whatever
group, session, environment and limits it has. Those that carry a mark are found by it. Of the
others it is only known that their plugin was running when they were first seen.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable

import trio

from meshtrio.supervisor.process.cleanup import process_marker
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.cleanup.warden import Warden
from meshtrio.supervisor.process.saved_processes import SavedReparented
from meshtrio.supervisor.process.spawn.child_process import CHILD_REGISTRY
from meshtrio.util.concurrency import sleep_until_tick
from meshtrio.util.log_once import ReasonChangeLogger
from meshtrio.util.processes import ProcessInfo, has_exited, read_proc_file

_log = logging.getLogger("meshtrio.mesh")

_CHECK_INTERVAL = 1.0
_MAX_KILL_ROUNDS = 120
_KILL_ROUND_PAUSE = 0.025
_WARDEN_EXIT_TIMEOUT = 2.0
"""Seconds in which the wardens of nested meshes have to exit."""
_PR_SET_CHILD_SUBREAPER = 36

_is_subreaper = False
"""Whether every child that this process has not started descends from a plugin."""
_failure_log = ReasonChangeLogger(_log)


class ReparentedProcesses:
    """Watches unmarked children of the mesh, and kills each when its plugin has exited."""

    def __init__(
        self, mesh_run: MeshRun, warden: Warden, adopted: Iterable[SavedReparented] = ()
    ) -> None:
        """Watch nothing until `run`; `adopted` are those that were watched before an upgrade."""
        self._mesh_run = mesh_run
        self._warden = warden
        self._processes: dict[int, tuple[int, frozenset[int]]] = {}
        """By pid, the pidfd and the plugins that were running when the process was found, of which
        one has started it."""
        self._processes.update((x.pid, (x.pidfd, frozenset(x.plugins))) for x in adopted)
        self._unkillable: set[int] = set()
        """Pids of processes that cannot be killed, which was logged."""

    def save(self) -> tuple[SavedReparented, ...]:
        """Return what an upgrade hands over."""
        return tuple(
            SavedReparented(pid=pid, pidfd=pidfd, plugins=tuple(plugins))
            for pid, (pidfd, plugins) in self._processes.items()
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check once a second until cancelled; then kill all of them, within seconds."""
        task_status.started()
        if not _is_subreaper:
            return
        # What a plugin has left must not be attributed to its successor.
        self._warden.on_unwatch = self._on_unwatch
        try:
            while True:
                await sleep_until_tick(_CHECK_INTERVAL)
                self._update()
                running = self._plugin_pids()
                for pid, (_, plugin_pids) in self._processes.items():
                    if not plugin_pids & running:
                        self._kill(pid)
        finally:
            self._warden.on_unwatch = lambda pid: None
            with trio.CancelScope(shield=True):
                await self._kill_all()

    async def _kill_all(self) -> None:
        """Kill all of them, and what becomes a child of this process when they exit."""
        wardens_end = trio.current_time() + _WARDEN_EXIT_TIMEOUT
        for _ in range(_MAX_KILL_ROUNDS):
            self._update()
            for pid in list(self._processes):
                self._kill(pid)
            wardens = [pid for pid in self._find_new() if process_marker.is_warden(pid)]
            if wardens and trio.current_time() >= wardens_end:
                self._add_all(wardens)
            elif not wardens and not self._processes:
                return
            await trio.sleep(_KILL_ROUND_PAUSE)

    def _plugin_pids(self) -> frozenset[int]:
        """Return the pids of the plugins that are running."""
        watched = self._warden.watched.keys() - self._warden.templates
        return frozenset(watched - self._processes.keys())

    def _on_unwatch(self, pid: int) -> None:
        if pid not in self._processes:
            self._update()

    def _update(self) -> None:
        """Remove processes that have exited, and add new ones."""
        for pid, (pidfd, _) in list(self._processes.items()):
            if has_exited(pidfd):
                if self._warden.watched.get(pid) == pidfd:  # Its pid may be that of a plugin now.
                    self._warden.unwatch(pid)
                del self._processes[pid]
                os.close(pidfd)
        # The warden of a nested mesh has plugins to kill, and exits by itself.
        self._add_all(pid for pid in self._find_new() if not process_marker.is_warden(pid))

    def _find_new(self) -> list[int]:
        """Find unmarked children that this process has not started and that are not watched."""
        if CHILD_REGISTRY.pending_starts:
            return []  # One of them may be a child that is being started.
        try:
            # Marked ones each time: a process may get rid of its mark after it was seen.
            return [
                pid
                for pid in set(_list_child_pids()) - self._processes.keys()
                if pid not in CHILD_REGISTRY.pids and self._is_unmarked(pid)
            ]
        except OSError:
            return []  # No descriptor is left; the next check tries again.

    def _is_unmarked(self, pid: int) -> bool:
        """Whether a child lives and carries no mark, by which `leftover_killer` would find it."""
        return self._mesh_run.marker.match_process(pid) is None and ProcessInfo(pid).is_alive

    def _add_all(self, pids: Iterable[int]) -> None:
        for pid in pids:
            try:
                opened = os.pidfd_open(pid)
            except OSError:
                continue
            self._processes[pid] = (opened, self._plugin_pids())
            self._warden.watch(pid, opened)
            text = "watching reparented pid %d, which a plugin has left without a mark of the mesh"
            _log.info(text, pid)

    def _kill(self, pid: int) -> None:
        try:
            signal.pidfd_send_signal(self._processes[pid][0], signal.SIGKILL)
        except ProcessLookupError:
            return
        except OSError as exc:
            if pid not in self._unkillable:
                self._unkillable.add(pid)
                _log.warning("cannot kill pid %d, which a plugin has left: %s", pid, exc.strerror)
            return
        _log.info("killed pid %d, which a plugin has left", pid)


def become_subreaper() -> None:
    """Become a subreaper. Must be called before this program starts any process.

    Does nothing as PID 1, which also becomes the parent of processes that were started in its
    container from outside, nor in a program that was executed with children: their descendants
    would be attributed to plugins.
    """
    global _is_subreaper
    if os.getpid() == 1 or ProcessInfo("self").namespace_depth != 1 or _list_child_pids():
        return
    _is_subreaper = _set_subreaper()


def receive_orphans() -> None:
    """Have orphans among the descendants of this process become its children, if not as PID 1.

    They are reaped when they exit (`zombie_reaper`), and not killed: not all of them descend from
    plugins.
    """
    if os.getpid() != 1 and not _set_subreaper():
        _log.warning("cannot become the parent of orphans (prctl(2)); reap_orphans has no effect")


def _set_subreaper() -> bool:
    import ctypes  # only programs that run a mesh need it

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def is_subreaper() -> bool:
    """Whether `become_subreaper` has had effect."""
    return _is_subreaper


def adopt_subreaper(*, is_one: bool) -> None:
    """Set whether this process is a subreaper since before an upgrade, which execve(2) keeps."""
    global _is_subreaper
    _is_subreaper = is_one


def _list_child_pids() -> list[int]:
    """List the pids of all children of this process.

    The list is empty if /proc is that of another PID namespace, or cannot be read.
    """
    found: list[int] = []
    try:
        if ProcessInfo("self").namespace_depth != 1:
            return found
        for task in os.listdir("/proc/self/task"):
            children = read_proc_file(f"self/task/{task}", "children")
            found += map(int, children.split())
    except OSError as exc:
        _failure_log.log(exc.errno, "cannot list children of this process: %s", exc.strerror)
    else:
        _failure_log.reset()
    return found
