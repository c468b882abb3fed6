"""The mesh's end of the warden: the small process that outlives it when it is killed.

PR_SET_PDEATHSIG is no way to the same end: trio spawns from a worker thread, and the signal
comes when that thread ends, not the process.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from meshtrio.structured import next_beat
from meshtrio.supervise.processes import marks, orphans
from meshtrio.supervise.processes.launch import Launch

_log = logging.getLogger("meshtrio.mesh")

_SCRIPT = Path(__file__).with_name("warden_main.py")
_ENVIRONMENT = ("LD_LIBRARY_PATH",)
"""All that the interpreter may need. A warden that had the rest, too, would be taken for a process
of an outer mesh's plugin by that mesh's warden, and killed before it has killed its own plugins."""
_RESTART_PAUSE = 0.1
_FAILED_PAUSE = 1.0
_LOOK_EVERY = 1.0
_GOODBYE = 2.0
"""Seconds the warden has to end once it was told that all is well."""
_REAP_WITHIN = 1.0
"""Seconds that a process which traces the warden has to let go of it once it has ended."""
_REAP_PAUSE = 0.02


class Warden:
    """Knows the pidfds of all plugins, and hands them to a new warden should the old one die."""

    def __init__(self, launch: Launch, cgroup: Path | None = None) -> None:
        self._launch = launch
        self._cgroup = [] if cgroup is None else [os.path.abspath(cgroup)]
        self._plugins: dict[int, int] = {}
        self._adopted: dict[int, int] = {}
        self._channel: socket.socket | None = None
        self.plugin_ended: Callable[[], None] = lambda: None
        """Called when a plugin has been reaped, before a successor is started."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a warden running until cancelled, then send it home. Raises OSError at the start."""
        await self._run_one(task_status.started)
        while True:
            await trio.sleep(_RESTART_PAUSE)
            try:
                await self._run_one(lambda: None)
            except (OSError, RuntimeError) as exc:
                reason = getattr(exc, "strerror", None) or exc
                _log.error("cannot start a warden: %s; trying again", reason)
                await trio.sleep(_FAILED_PAUSE)

    async def _run_one(self, started: Callable[[], None]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with theirs:
                process = await _Process.start(self._command(), theirs, self._launch.id)
            self._channel = ours
            self._send_users(self._launch.users)
            started()
            try:
                await self._attend(process, ours)
            finally:
                with trio.CancelScope(shield=True):
                    await self._end(process)
        _log.error("the warden (pid %d) died; starting another", process.pid)

    def _command(self) -> list[str]:
        users = ",".join(map(str, sorted(self._launch.users)))
        told = [str(os.getpid()), self._launch.id, users, *self._cgroup]
        return [sys.executable, "-I", "-S", str(_SCRIPT), *told]

    async def _attend(self, process: _Process, ours: socket.socket) -> None:
        """Wait until a warden has ended. One that is stopped is ended, since it guards nothing."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_if_stopped, process)
            nursery.start_soon(self._hand_over_all, ours)
            await trio.lowlevel.wait_readable(process.pidfd)
            nursery.cancel_scope.cancel()

    async def _end(self, process: _Process) -> None:
        """Send a warden home unless it has ended, or kill it, and reap it. Bounded."""
        if process.has_ended():
            self._channel = None
        else:
            self._send(b".")
            self._channel = None
            with trio.move_on_after(_GOODBYE):
                await trio.lowlevel.wait_readable(process.pidfd)
        await process.end()

    @property
    def plugins(self) -> frozenset[int]:
        """The pids of the plugins that it watches."""
        return frozenset(self._plugins)

    def watch(self, pid: int, pidfd: int) -> None:
        """Have a plugin killed should the mesh die. Never blocks."""
        self._plugins[pid] = pidfd
        self._hand_over(pid, pidfd)

    def forget(self, pid: int) -> None:
        """The plugin has been reaped, and its number may be another's from now on."""
        del self._plugins[pid]
        self._send(b"-%d" % pid)
        self.plugin_ended()

    def watch_adopted(self, pid: int, pidfd: int) -> None:
        """Have a descendant of a plugin killed, too, which has become a child of the mesh."""
        self._adopted[pid] = pidfd
        self._hand_over(pid, pidfd)

    def forget_adopted(self, pid: int) -> None:
        """Such a descendant has ended."""
        del self._adopted[pid]
        self._send(b"-%d" % pid)

    def set_users(self, users: Iterable[int]) -> None:
        """Record the users that plugins are to run as, before one of them does. Raises OSError."""
        told = set(users)
        self._launch.record(told)
        self._send_users(told)

    def _send_users(self, users: Iterable[int]) -> None:
        for user in users:
            self._send(b"u%d" % user)

    async def _hand_over_all(self, channel: socket.socket) -> None:
        """Hand over the plugins that there were before this warden, as fast as it takes them."""
        for pid, pidfd in {**self._plugins, **self._adopted}.items():
            await trio.lowlevel.wait_writable(channel)
            if pidfd in (self._plugins.get(pid), self._adopted.get(pid)):
                self._hand_over(pid, pidfd)

    def _hand_over(self, pid: int, pidfd: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))
        self._send(b"+%d" % pid, [rights])

    def _send(self, word: bytes, ancillary: list[tuple[int, int, array.array[int]]] = []) -> None:  # noqa: B006
        if self._channel is None:
            return
        try:
            self._channel.sendmsg([word], ancillary)
        except OSError as exc:
            # It is dead or about to be replaced, and its successor is told everything.
            _log.warning("the warden was not told %r: %s", word.decode(), exc.strerror)


class _Process:
    """The process of a warden."""

    def __init__(self, popen: subprocess.Popen[bytes], pidfd: int) -> None:
        self.pid = popen.pid
        self.pidfd = pidfd
        self._popen = popen

    @classmethod
    async def start(cls, command: list[str], stdin: socket.socket, mesh_id: str) -> _Process:
        """Start a warden. Raises OSError, and RuntimeError if there can be no thread for that."""

        def start() -> subprocess.Popen[bytes]:
            made = subprocess.Popen(
                command,
                stdin=stdin.fileno(),
                start_new_session=True,
                cwd="/",
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
            marks.set_limit(made.pid, marks.limit_of(mesh_id, 0))
            return made

        with trio.CancelScope(shield=True), orphans.starting() as begun:
            popen = await trio.to_thread.run_sync(start)
            begun(popen.pid)
        try:
            return cls(popen, os.pidfd_open(popen.pid))
        except OSError:
            popen.kill()
            popen.wait()
            orphans.waited_for(popen.pid)
            raise

    def is_stopped(self) -> bool:
        """Whether it is stopped, by a signal or by a process that traces it."""
        try:
            return marks.Status(self.pid).is_stopped
        except OSError:
            return False

    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        with contextlib.suppress(OSError):  # it has ended
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it and reap it. Never blocks: a process that traces it may keep it a zombie."""
        try:
            self.kill()
            with trio.move_on_after(_REAP_WITHIN):
                while self._popen.poll() is None:  # noqa: ASYNC110 - no event to wait for
                    await trio.sleep(_REAP_PAUSE)
        finally:
            if self._popen.returncode is None:
                _log.warning("the warden (pid %d) is traced, and cannot be reaped", self.pid)
                self._popen.returncode = -signal.SIGKILL
            orphans.waited_for(self.pid)
            os.close(self.pidfd)


async def _kill_if_stopped(process: _Process) -> None:
    """Kill a warden that was found stopped twice in a row, a second apart.

    Once would not do: one that is traced by strace(1) is stopped again and again, for an instant.
    """
    before = False
    while True:
        await next_beat(_LOOK_EVERY)
        stopped = process.is_stopped()
        if stopped and before:
            _log.error(
                "the warden (pid %d) is stopped, by SIGSTOP or a debugger, and would not end the "
                "plugins of a mesh that is killed; killing it",
                process.pid,
            )
            process.kill()
            return
        before = stopped
