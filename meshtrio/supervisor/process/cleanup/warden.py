"""The mesh's end of the warden: the small process that outlives it when it is killed.

PR_SET_PDEATHSIG is no way to the same end: trio spawns from a worker thread, and the signal
comes when that thread ends, not the process.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import trio

from meshtrio.supervisor.process.cleanup import process_marker
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.spawn.child_process import ChildProcess
from meshtrio.supervisor.process.spawn.child_registry import CHILD_REGISTRY
from meshtrio.supervisor.process.spawn.program import start_child
from meshtrio.util.concurrency import sleep_until_tick

_log = logging.getLogger("meshtrio.mesh")

_SCRIPT = Path(__file__).with_name("warden_main.py")
_ENVIRONMENT = ("LD_LIBRARY_PATH",)
"""All that the interpreter may need. A warden that had the rest, too, would be taken for a process
of an outer mesh's plugin by that mesh's warden, and killed before it has killed its own plugins."""
_RESTART_PAUSE = 0.1
_FAILED_RESTART_PAUSE = 1.0
_CHECK_INTERVAL = 1.0
_STOP_TIMEOUT = 2.0
"""Seconds the warden has to end once it was told that all is well."""
_REAP_WITHIN = 1.0
"""Seconds that a process which traces the warden has to let go of it once it has ended."""
_REAP_PAUSE = 0.02


class Warden:
    """Knows the pidfds of all plugins, and hands them to a new warden should the old one die."""

    def __init__(self, mesh_run: MeshRun, cgroup: Path | None = None) -> None:
        self._mesh_run = mesh_run
        self._cgroup = [] if cgroup is None else [os.path.abspath(cgroup)]
        self._plugins: dict[int, int] = {}
        self._reparented: dict[int, int] = {}
        self._socket: socket.socket | None = None
        self.on_plugin_reaped: Callable[[], None] = lambda: None
        """Called when a plugin has been reaped, before a successor is started."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a warden running until cancelled, then send it home. Raises OSError at the start."""
        await self._run_one(task_status.started)
        while True:
            await trio.sleep(_RESTART_PAUSE)
            try:
                await self._run_one(lambda: None)
            except Exception as exc:  # Whatever it is, the mesh goes on.
                _log.error("cannot start a warden: %s; trying again", exc)
                await trio.sleep(_FAILED_RESTART_PAUSE)

    async def _run_one(self, started: Callable[[], None]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with theirs:
                process = await start_child(
                    self._command(),
                    partial(
                        process_marker.set_marker_limit,
                        limit=process_marker.encode_marker_limit(self._mesh_run.id, 0),
                    ),
                    stdin=theirs,
                    cwd=Path("/"),
                    env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                )
            self._socket = ours
            self._send_users(self._mesh_run.users)
            started()
            await self._supervise(process, ours)
        _log.error("the warden (pid %d) died; starting another", process.pid)

    def _command(self) -> list[str]:
        users = ",".join(map(str, sorted(self._mesh_run.users)))
        arguments = [str(os.getpid()), self._mesh_run.id, users, *self._cgroup]
        return [sys.executable, "-I", "-S", str(_SCRIPT), *arguments]

    async def _supervise(self, process: ChildProcess, ours: socket.socket) -> None:
        """Wait until the warden has ended; when cancelled, have it end."""
        ended = False
        try:
            await self._wait_for_exit(process, ours)
            ended = True
        finally:
            with trio.CancelScope(shield=True):
                if ended or await self._stop(process):
                    await process.reap()
            if process.tracer is not None:
                _log.warning("the warden (pid %d) is held by %s", process.pid, process.tracer)
            if not process.is_reaped:
                CHILD_REGISTRY.reap_later(process)
            self._socket = None

    async def _wait_for_exit(self, process: ChildProcess, ours: socket.socket) -> None:
        """Wait until a warden has ended. One that is stopped is ended, since it guards nothing."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_if_stopped, process)
            nursery.start_soon(self._send_all_pidfds, ours)
            await process.wait_for_exit()
            nursery.cancel_scope.cancel()

    @property
    def plugin_pids(self) -> frozenset[int]:
        """The pids of the plugins that it watches."""
        return frozenset(self._plugins)

    async def _stop(self, process: ChildProcess) -> bool:
        """Send the warden home if nothing is left to watch, and return whether it has ended.

        Otherwise the end of its socket has it kill what is left, for which it may outlive us.
        """
        assert self._socket is not None
        if not self._plugins and not self._reparented:
            self._send(b".")
        # A fork of this process may have a copy of the socket, so that closing it is not enough.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        with trio.move_on_after(_STOP_TIMEOUT):
            await process.wait_for_exit()
            return True
        if self._plugins or self._reparented:
            pids = ", ".join(map(str, [*self._plugins, *self._reparented]))
            _log.warning("the warden (pid %d) goes on killing pids %s", process.pid, pids)
            return False
        process.kill()
        with trio.move_on_after(_STOP_TIMEOUT):
            await process.wait_for_exit()
            return True
        return False

    def watch(self, pid: int, pidfd: int) -> None:
        """Have a plugin killed should the mesh die. Never blocks."""
        self._plugins[pid] = pidfd
        self._send_pidfd(pid, pidfd)

    def unwatch(self, pid: int) -> None:
        """The plugin has been reaped, and its number may be another's from now on."""
        self._plugins.pop(pid, None)
        self._send(b"-%d" % pid)
        self.on_plugin_reaped()

    def watch_reparented(self, pid: int, pidfd: int) -> None:
        """Have a descendant of a plugin killed, too, which has become a child of the mesh."""
        self._reparented[pid] = pidfd
        self._send_pidfd(pid, pidfd)

    def unwatch_reparented(self, pid: int) -> None:
        """Such a descendant has ended."""
        del self._reparented[pid]
        self._send(b"-%d" % pid)

    def set_users(self, users: Iterable[int]) -> None:
        """Record the users that plugins are to run as, before one of them does. Raises OSError."""
        recorded = set(users)
        self._mesh_run.record_users(recorded)
        self._send_users(recorded)

    def _send_users(self, users: Iterable[int]) -> None:
        for user in users:
            self._send(b"u%d" % user)

    async def _send_all_pidfds(self, channel: socket.socket) -> None:
        """Hand over the plugins that there were before this warden, as fast as it takes them."""
        for pid, pidfd in {**self._plugins, **self._reparented}.items():
            await trio.lowlevel.wait_writable(channel)
            if pidfd in (self._plugins.get(pid), self._reparented.get(pid)):
                self._send_pidfd(pid, pidfd)

    def _send_pidfd(self, pid: int, pidfd: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))
        self._send(b"+%d" % pid, [rights])

    def _send(
        self, message: bytes, ancillary: Sequence[tuple[int, int, array.array[int]]] = ()
    ) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendmsg([message], ancillary)
        except OSError as exc:
            # It is dead or about to be replaced, and its successor is sent everything.
            _log.warning("cannot send %r to the warden: %s", message.decode(), exc.strerror)


async def _kill_if_stopped(process: ChildProcess) -> None:
    """Kill a warden that was found stopped twice in a row, a second apart.

    Once would not do: one that is traced by strace(1) is stopped again and again, for an instant.
    """
    before = False
    while True:
        await sleep_until_tick(_CHECK_INTERVAL)
        stopped = _is_stopped(process.pid)
        if stopped and before:
            _log.error(
                "the warden (pid %d) is stopped, by SIGSTOP or a debugger, and would not end the "
                "plugins of a mesh that is killed; killing it",
                process.pid,
            )
            process.kill()
            return
        before = stopped


def _is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by a signal or by a process that traces it."""
    try:
        return process_marker.ProcessInfo(pid).is_stopped
    except OSError:
        return False
