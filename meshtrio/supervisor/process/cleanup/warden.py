"""Runs the warden, a small process that kills all plugins if the mesh is killed.

PR_SET_PDEATHSIG cannot replace it: plugins are started in worker threads, and the kernel sends that
signal when the thread exits, not the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import trio

from meshtrio.supervisor.process.cleanup import process_marker
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.saved_processes import SavedWarden
from meshtrio.supervisor.process.spawn.child_process import CHILD_REGISTRY, ChildProcess
from meshtrio.supervisor.process.spawn.program import start_child
from meshtrio.util.concurrency import sleep_until_tick
from meshtrio.util.processes import ProcessInfo, has_exited

_log = logging.getLogger("meshtrio.mesh")

_SCRIPT = Path(__file__).with_name("warden_main.py")
_ENVIRONMENT = ("LD_LIBRARY_PATH",)
"""The variables that the interpreter may need. A warden with the complete environment would carry
the marks of an outer mesh, whose warden would kill it before it has killed its own plugins."""
_RESTART_PAUSE = 0.1
_FAILED_RESTART_PAUSE = 1.0
_CHECK_INTERVAL = 1.0
_STOP_TIMEOUT = 2.0
"""Seconds in which the warden has to exit when the mesh stops."""


class Warden:
    """Keeps one warden process running, and sends it the pidfds of all plugins.

    It keeps the pidfds itself, too, and sends all of them to the next warden if one dies.
    """

    def __init__(
        self, mesh_run: MeshRun, cgroup: Path | None = None, adopted: SavedWarden | None = None
    ) -> None:
        """Start nothing until `run`; `adopted` is a warden that was started before an upgrade."""
        self._mesh_run = mesh_run
        self._adopted = adopted
        self._process: ChildProcess | None = None
        self._cgroup = [] if cgroup is None else [os.path.abspath(cgroup)]
        self.watched: dict[int, int] = {}
        """The pidfds of the plugins and of reparented descendants that are watched, by pid."""
        self.templates: set[int] = set()
        """Pids of those that are templates, which have no descendants that a plugin has started."""
        self._socket: socket.socket | None = None
        self.on_unwatch: Callable[[int], None] = lambda pid: None
        """Called with a pid that is no longer watched, of a plugin before its successor starts."""
        if adopted is not None:
            self.watched.update(adopted.watched)
            self.templates.update(adopted.templates)
            self._socket = socket.socket(fileno=adopted.socket)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a warden running until cancelled, then stop it.

        Raises OSError if the first warden cannot be started.
        """
        await self._run_one(task_status.started)
        while True:
            await trio.sleep(_RESTART_PAUSE)
            try:
                await self._run_one(lambda: None)
            except Exception as exc:  # The mesh runs on without a warden meanwhile.
                _log.error("cannot start the warden: %s; retrying", exc)
                await trio.sleep(_FAILED_RESTART_PAUSE)

    @property
    def is_running(self) -> bool:
        """Whether a warden is running."""
        process = self._process
        return process is not None and self._socket is not None and not has_exited(process.pidfd)

    def save(self) -> SavedWarden:
        """Return what an upgrade hands over, while a warden is running."""
        process, own_socket = self._process, self._socket
        assert process is not None
        assert own_socket is not None
        return SavedWarden(
            pid=process.pid,
            pidfd=process.pidfd,
            socket=own_socket.fileno(),
            watched=dict(self.watched),
            templates=tuple(self.templates),
        )

    async def _run_one(self, started: Callable[[], None]) -> None:
        if self._adopted is not None:
            await self._run_adopted(self._adopted, started)
        else:
            await self._run_new(started)

    async def _run_adopted(self, adopted: SavedWarden, started: Callable[[], None]) -> None:
        """Supervise the warden that was started before an upgrade."""
        own_socket, self._adopted = self._socket, None
        assert own_socket is not None
        own_socket.setblocking(False)
        CHILD_REGISTRY.pids.add(adopted.pid)
        process = ChildProcess(adopted.pid, adopted.pidfd)
        with own_socket:
            self._send_users(self._mesh_run.users)
            started()
            await self._supervise(process, own_socket)
        _log.error("the warden (pid %d) exited unexpectedly; restarting it", process.pid)

    async def _run_new(self, started: Callable[[], None]) -> None:
        own_socket, warden_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own_socket.setblocking(False)
        with own_socket:
            with warden_socket:
                users = ",".join(map(str, sorted(self._mesh_run.users)))
                arguments = [str(os.getpid()), self._mesh_run.id, users, *self._cgroup]
                limit = process_marker.encode_marker_limit(self._mesh_run.id, 0)
                process = await start_child(
                    [sys.executable, "-I", "-S", str(_SCRIPT), *arguments],
                    partial(process_marker.set_marker_limit, limit=limit),
                    stdin=warden_socket,
                    cwd=Path("/"),
                    env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                )
            self._socket = own_socket
            self._send_users(self._mesh_run.users)
            started()
            await self._supervise(process, own_socket)
        _log.error("the warden (pid %d) exited unexpectedly; restarting it", process.pid)

    async def _supervise(self, process: ChildProcess, own_socket: socket.socket) -> None:
        """Wait until the warden has exited; when cancelled, stop it.

        A warden that is stopped (SIGSTOP), and so of no use, is killed.
        """
        is_gone, self._process = False, process
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_kill_if_stopped, process)
                nursery.start_soon(self._send_all_pidfds, own_socket)
                await process.wait_for_exit()
                nursery.cancel_scope.cancel()
            is_gone = True
        finally:
            self._process = None
            with trio.CancelScope(shield=True):
                if is_gone or await self._stop(process):
                    await process.reap()
            if process.tracer is not None:
                _log.warning("the warden (pid %d) is held by %s", process.pid, process.tracer)
            process.reap_later()
            self._socket = None

    async def _stop(self, process: ChildProcess) -> bool:
        """Stop the warden and return whether it has exited.

        If watched processes are left, the end of its socket makes it kill them, for which it may
        outlive this process.
        """
        assert self._socket is not None
        if not self.watched:
            self._send(b".")
        # A fork of this process may have a copy of the socket, so that closing it is not enough.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        with trio.move_on_after(_STOP_TIMEOUT):
            await process.wait_for_exit()
            return True
        if self.watched:
            pids = ", ".join(map(str, self.watched))
            _log.warning("the warden (pid %d) is still killing pids %s", process.pid, pids)
            return False
        process.kill()
        with trio.move_on_after(_STOP_TIMEOUT):
            await process.wait_for_exit()
            return True
        return False

    def watch(self, pid: int, pidfd: int) -> None:
        """Have a plugin, or a descendant of one, killed if the mesh dies. Never blocks."""
        self.watched[pid] = pidfd
        self._send(b"+%d" % pid, pidfd)

    def unwatch(self, pid: int) -> None:
        """Stop watching a process that has exited, so that its pid may be reused."""
        self.watched.pop(pid, None)
        self.templates.discard(pid)
        self._send(b"-%d" % pid)
        self.on_unwatch(pid)

    def set_users(self, users: Iterable[int]) -> None:
        """Record the uids of plugins before one of these runs. Raises OSError."""
        uids = set(users)
        self._mesh_run.record_users(uids)
        self._send_users(uids)

    def _send_users(self, users: Iterable[int]) -> None:
        for user in users:
            self._send(b"u%d" % user)

    async def _send_all_pidfds(self, channel: socket.socket) -> None:
        """Send the pidfds of what was watched before this warden started, as fast as it reads."""
        for pid, pidfd in list(self.watched.items()):
            await trio.lowlevel.wait_writable(channel)
            if self.watched.get(pid) == pidfd:
                self._send(b"+%d" % pid, pidfd)

    def _send(self, message: bytes, *descriptors: int) -> None:
        if self._socket is None:
            return
        try:
            socket.send_fds(self._socket, [message], descriptors)
        except OSError as exc:
            # It has exited or is about to be replaced; its successor is sent everything.
            _log.warning("cannot send %r to the warden: %s", message.decode(), exc.strerror)


async def _kill_if_stopped(process: ChildProcess) -> None:
    """Kill a warden that is found stopped in two consecutive checks, a second apart.

    One check is not sufficient: a process that strace(1) traces is stopped often, for an instant.
    """
    was_stopped = False
    while True:
        await sleep_until_tick(_CHECK_INTERVAL)
        stopped = False
        with contextlib.suppress(OSError):
            stopped = ProcessInfo(process.pid).is_stopped
        if stopped and was_stopped:
            _log.error(
                "the warden (pid %d) is stopped by SIGSTOP or a debugger and could not kill the "
                "plugins if the mesh died; killing it",
                process.pid,
            )
            process.kill()
            return
        was_stopped = stopped
