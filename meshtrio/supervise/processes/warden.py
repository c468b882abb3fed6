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
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import trio

from meshtrio.structured import next_beat
from meshtrio.supervise.processes import marks, orphans
from meshtrio.supervise.processes.child_process import ChildProcess
from meshtrio.supervise.processes.launch import Launch
from meshtrio.supervise.processes.spawning import start_child

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
            except Exception as exc:  # Whatever it is, the mesh goes on.
                _log.error("cannot start a warden: %s; trying again", exc)
                await trio.sleep(_FAILED_PAUSE)

    async def _run_one(self, started: Callable[[], None]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with theirs:
                process = await start_child(
                    self._command(),
                    partial(marks.set_limit, limit=marks.limit_of(self._launch.id, 0)),
                    stdin=theirs,
                    cwd=Path("/"),
                    env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                )
            self._channel = ours
            self._send_users(self._launch.users)
            started()
            await self._attend(process, ours)
        _log.error("the warden (pid %d) died; starting another", process.pid)

    def _command(self) -> list[str]:
        users = ",".join(map(str, sorted(self._launch.users)))
        arguments = [str(os.getpid()), self._launch.id, users, *self._cgroup]
        return [sys.executable, "-I", "-S", str(_SCRIPT), *arguments]

    async def _attend(self, process: ChildProcess, ours: socket.socket) -> None:
        """Wait until the warden has ended; when cancelled, have it end."""
        ended = False
        try:
            await self._wait_ended(process, ours)
            ended = True
        finally:
            with trio.CancelScope(shield=True):
                if ended or await self._dismiss(process):
                    await process.reap()
            if process.tracer is not None:
                _log.warning("the warden (pid %d) is held by %s", process.pid, process.tracer)
            if not process.reaped:
                orphans.reap_later(process)
            self._channel = None

    async def _wait_ended(self, process: ChildProcess, ours: socket.socket) -> None:
        """Wait until a warden has ended. One that is stopped is ended, since it guards nothing."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_if_stopped, process)
            nursery.start_soon(self._hand_over_all, ours)
            await process.wait_ended()
            nursery.cancel_scope.cancel()

    @property
    def plugins(self) -> frozenset[int]:
        """The pids of the plugins that it watches."""
        return frozenset(self._plugins)

    async def _dismiss(self, process: ChildProcess) -> bool:
        """Send the warden home if nothing is left to watch, and return whether it has ended.

        Otherwise the end of its socket has it kill what is left, for which it may outlive us.
        """
        assert self._channel is not None
        if not self._plugins and not self._adopted:
            self._send(b".")
        # A fork of this process may have a copy of the socket, so that closing it is not enough.
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
        with trio.move_on_after(_GOODBYE):
            await process.wait_ended()
            return True
        if self._plugins or self._adopted:
            pids = ", ".join(map(str, [*self._plugins, *self._adopted]))
            _log.warning("the warden (pid %d) goes on killing pids %s", process.pid, pids)
            return False
        process.kill()
        with trio.move_on_after(_GOODBYE):
            await process.wait_ended()
            return True
        return False

    def watch(self, pid: int, pidfd: int) -> None:
        """Have a plugin killed should the mesh die. Never blocks."""
        self._plugins[pid] = pidfd
        self._hand_over(pid, pidfd)

    def forget(self, pid: int) -> None:
        """The plugin has been reaped, and its number may be another's from now on."""
        self._plugins.pop(pid, None)
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
        recorded = set(users)
        self._launch.record(recorded)
        self._send_users(recorded)

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
            # It is dead or about to be replaced, and its successor is sent everything.
            _log.warning("cannot send %r to the warden: %s", word.decode(), exc.strerror)


async def _kill_if_stopped(process: ChildProcess) -> None:
    """Kill a warden that was found stopped twice in a row, a second apart.

    Once would not do: one that is traced by strace(1) is stopped again and again, for an instant.
    """
    before = False
    while True:
        await next_beat(_LOOK_EVERY)
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
        return marks.Status(pid).is_stopped
    except OSError:
        return False
