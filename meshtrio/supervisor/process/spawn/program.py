"""Starts programs as children of this process, each in a session and process group of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import outcome
import trio
from trio.lowlevel import start_thread_soon

from meshtrio.supervisor.process.spawn.child_process import CHILD_REGISTRY, ChildProcess
from meshtrio.util.descriptor_limit import DESCRIPTOR_LIMIT
from meshtrio.util.descriptors import closing_descriptor

_CANCELLED_START_TIMEOUT = 5.0
"""Seconds that a start may take after its cancellation."""


@attrs.define(eq=False)
class _ProgramStart:
    """One start of a program, in a thread.

    execve(2) and the lookup of a working directory wait for filesystems; one that does not respond
    (NFS, FUSE) blocks the thread indefinitely. It blocks nothing else: in execve the child has
    already closed its copies of our descriptors, and the lookup precedes the fork (`_resolve_cwd`).
    """

    _command: Sequence[str]
    _on_started: Callable[[int], None]
    _cwd: Path | None
    _options: Mapping[str, Any]
    _token: trio.lowlevel.TrioToken = attrs.field(factory=trio.lowlevel.current_trio_token)
    _done: trio.Event = attrs.field(factory=trio.Event)
    _abandoned: bool = False
    _result: outcome.Outcome[subprocess.Popen[bytes]] | None = None

    async def run(self) -> subprocess.Popen[bytes]:
        CHILD_REGISTRY.begin_start()
        try:
            start_thread_soon(self._start_in_thread, self._deliver, "start of a process")
        except BaseException:
            CHILD_REGISTRY.finish_start()
            raise
        try:
            await self._done.wait()
        except trio.Cancelled:  # If it is caught, the caller's next checkpoint raises it again.
            with trio.move_on_after(_CANCELLED_START_TIMEOUT, shield=True):
                await self._done.wait()
            if self._result is None:
                self._abandoned = True
                raise
        assert self._result is not None
        return self._result.unwrap()

    def _start_in_thread(self) -> subprocess.Popen[bytes]:
        with _resolve_cwd(self._cwd) as cwd:
            options = {**self._options, "bufsize": 0, "start_new_session": True, "cwd": cwd}
            started = subprocess.Popen(list(self._command), **options)
        # Keeps Popen from waiting: `ChildProcess` does that, without blocking.
        started.returncode = 0
        with contextlib.suppress(Exception):  # The process has been started and must be returned.
            self._on_started(started.pid)
            DESCRIPTOR_LIMIT.restore_in_child(started.pid)
        return started

    def _deliver(self, result: outcome.Outcome[subprocess.Popen[bytes]]) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._finish, result)
            return
        self._abandoned = True
        self._finish(result)

    def _finish(self, result: outcome.Outcome[subprocess.Popen[bytes]]) -> None:
        pid = result.value.pid if isinstance(result, outcome.Value) else None
        CHILD_REGISTRY.finish_start(pid)
        if not self._abandoned:
            self._result = result
            self._done.set()
        elif isinstance(result, outcome.Value):
            kill_and_reap_later(result.value)


@contextmanager
def _resolve_cwd(cwd: Path | None) -> Iterator[str | None]:
    """Look up a working directory, and yield a path by which a child enters it without waiting.

    Between fork and exec, when subprocess changes the directory, a child holds copies of all our
    descriptors: sockets, locks, and the pipes of starts in other threads. If it waited for a
    filesystem then, peers would not see closed connections, and other starts would wait as well.

    Raises:
        OSError: The directory does not exist, or no descriptor is left.
    """
    if cwd is None:
        yield None
        return
    with closing_descriptor(os.open(cwd, os.O_PATH | os.O_DIRECTORY)) as found:
        # Descriptors 0 to 2 are the child's standard streams when it changes the directory.
        directory = fcntl.fcntl(found, fcntl.F_DUPFD_CLOEXEC, 3)
    with closing_descriptor(directory):
        # Makes the filesystem check permissions now, so that chdir(2) finds a cached result.
        os.access(".", os.X_OK, dir_fd=directory, effective_ids=True)
        path = f"/proc/self/fd/{directory}"
        yield path if os.path.lexists(path) else str(cwd)  # /proc may not be mounted


async def start_program(
    command: Sequence[str],
    on_started: Callable[[int], None] = lambda pid: None,
    *,
    cwd: Path | None = None,
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start a program in a session and process group of its own.

    `on_started` is called with its pid, in the thread that has started it. The methods of the
    process that is returned must not be used to wait for it.

    Raises:
        OSError: It cannot be started.
        ValueError: An argument or a variable contains a null byte.
        RuntimeError: No thread can be started.

    Cancellation: A process that was started is always returned. A start that takes more than five
        seconds after its cancellation is abandoned: its process is killed as soon as it exists.
    """
    return await _ProgramStart(command, on_started, cwd, options).run()


async def start_child(
    command: Sequence[str], on_started: Callable[[int], None] = lambda pid: None, **options: Any
) -> ChildProcess:
    """Start a program as `start_program` does, and open its pidfd.

    If that raises OSError, most likely for lack of descriptors, the process is killed.
    """
    started = await start_program(command, on_started, **options)
    try:
        return ChildProcess(started.pid, os.pidfd_open(started.pid))
    except OSError:
        await kill_and_reap(started)
        raise


def kill_and_reap_later(started: subprocess.Popen[bytes]) -> ChildProcess:
    """Kill a process that cannot be supervised, and reap it later."""
    for pipe in (started.stdin, started.stdout, started.stderr):
        if pipe is not None:
            pipe.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(started.pid, signal.SIGKILL)
    child = ChildProcess(started.pid, -1)
    child.reap_later()
    return child


async def kill_and_reap(started: subprocess.Popen[bytes]) -> None:
    """Kill a process that cannot be supervised, and reap it, at once if possible."""
    child = kill_and_reap_later(started)
    with trio.CancelScope(shield=True):
        await child.reap()
