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
from collections.abc import Callable
from pathlib import Path

import trio

from meshtrio.supervise.processes import orphans
from meshtrio.supervise.processes.child_process import ChildProcess
from meshtrio.supervise.processes.spawning import start_child

_log = logging.getLogger("meshtrio.mesh")

_SCRIPT = Path(__file__).with_name("warden_main.py")
_ENVIRONMENT = ("LD_LIBRARY_PATH",)
"""All that the interpreter may need. A warden that had the rest, too, would be taken for a process
of an outer mesh's plugin by that mesh's warden, and killed before it has killed its own plugins."""
_RESTART_PAUSE = 0.1
_FAILED_PAUSE = 1.0
_GOODBYE = 2.0
"""Seconds the warden has to end once it was told that all is well."""


class Warden:
    """Knows the pidfds of all plugins, and hands them to a new warden should the old one die."""

    def __init__(self, runtime_dir: Path, cgroup: Path | None = None) -> None:
        folders = [runtime_dir, *([] if cgroup is None else [cgroup])]
        self._marks = [os.path.abspath(folder) for folder in folders]
        self._plugins: dict[int, int] = {}
        self._channel: socket.socket | None = None

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
        command = [sys.executable, "-I", "-S", str(_SCRIPT), str(os.getpid())]
        with ours:
            with theirs:
                process = await start_child(
                    [*command, *self._marks],
                    stdin=theirs,
                    cwd="/",
                    env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                )
            self._channel = ours
            for pid, pidfd in self._plugins.items():
                self._hand_over(pid, pidfd)
            started()
            await self._attend(process)
        _log.error("the warden (pid %d) died; starting another", process.pid)

    async def _attend(self, process: ChildProcess) -> None:
        """Wait until the warden has ended; when cancelled, have it end."""
        ended = False
        try:
            await process.wait_ended()
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

    async def _dismiss(self, process: ChildProcess) -> bool:
        """Send the warden home if nothing is left to watch, and return whether it has ended.

        Otherwise the end of its socket has it kill what is left, for which it may outlive us.
        """
        assert self._channel is not None
        if not self._plugins:
            self._send(b".")
        # A fork of this process may have a copy of the socket, so that closing it is not enough.
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
        with trio.move_on_after(_GOODBYE):
            await process.wait_ended()
            return True
        if self._plugins:
            pids = ", ".join(map(str, self._plugins))
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

    def _hand_over(self, pid: int, pidfd: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))
        self._send(b"+%d" % pid, [rights])

    def _send(self, word: bytes, ancillary: list[tuple[int, int, array.array[int]]] = []) -> None:  # noqa: B006
        if self._channel is None:
            return
        try:
            self._channel.sendmsg([word], ancillary)
        except OSError as exc:
            # It is dead, and its successor is told everything; or it is stopped, and then it
            # still finds this plugin by its environment.
            _log.warning("the warden was not told %r: %s", word.decode(), exc.strerror)
