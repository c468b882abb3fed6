"""One start of a plugin by fork: the mesh's side of the steps in the package's docstring."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import trio

from meshtrio.config import StartMethod
from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.spawn.child_process import CHILD_REGISTRY, ChildProcess
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess

START_TIMEOUT = 5.0
"""Seconds from the request to the begin of the program. A fork and the set-up of a child take
milliseconds; a working directory on a filesystem that does not respond may take for ever."""
_CANCELLED_TIMEOUT = 0.2
"""Seconds that a template has to report a fork if the start is cancelled."""
_MAX_MESSAGE_LENGTH = 4096


class TemplateError(Exception):
    """A process could not be forked; the text says why."""


class TemplateFailedError(TemplateError):
    """The template has exited at the fork, or does not respond."""


class StaleTemplateError(TemplateError):
    """The code that the template has imported has changed since."""


@attrs.frozen(kw_only=True)
class ForkStart:
    """A start of one process by a template."""

    template: PluginProcess
    control: socket.socket
    """The mesh's end of the template's control socket."""
    send_lock: trio.Lock
    """Held while it is written to."""
    content: Mapping[str, Any]
    """What the child is to become, as `forked_child` and `program_runner` read it."""
    cgroup: Path | None
    """The cgroup to put the child in."""
    listener: int | None = None
    """The descriptor of the listening socket that it inherits, if it does."""

    async def run(self) -> PluginProcess:
        """Have a process forked, and return it when its program is about to begin.

        Raises:
            TemplateError: That failed; a child that was forked is killed. `TemplateFailedError` and
                `StaleTemplateError` report that another template is needed.
            OSError: No descriptors are left.

        Cancellation: A template that has not forked a process within `_CANCELLED_TIMEOUT` is
            killed. A process that was forked is set up and returned.
        """
        deadline = trio.current_time() + START_TIMEOUT
        with ExitStack() as stack, trio.CancelScope(deadline=deadline) as scope:
            process, gate = await self._fork(stack)
            scope.shield = True
            try:
                await self._let_pass(process, gate)
            except BaseException:
                _discard(process)
                raise
            return process
        raise TemplateFailedError(f"it did not start within {START_TIMEOUT:g} s")

    async def _fork(self, stack: ExitStack) -> tuple[PluginProcess, socket.socket]:
        """Have a child forked, which waits at the gate that is returned; `stack` closes it."""
        pid, is_sent = None, False
        CHILD_REGISTRY.begin_start()
        try:
            with ExitStack() as pipes, ExitStack() as sent:
                gate, child_gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.enter_context(gate)
                sent.enter_context(child_gate)
                gate.setblocking(False)
                stdout, stdout_end = _open_pipe(pipes, sent)
                stderr, stderr_end = _open_pipe(pipes, sent)
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                sent.callback(os.close, null)
                content = _write_memfd(sent, self.content)
                streams = [null, stdout_end, stderr_end]
                inherited = streams if self.listener is None else [*streams, self.listener]
                await self._send(child_gate.fileno(), content, *inherited)
                is_sent = True
                sent.close()
                pid = await self._receive_pid(gate)
                pidfd = _open_pidfd(pid)
                pipes.pop_all()
                process = PluginProcess(pid, pidfd, stdout, stderr, self.cgroup, StartMethod.FORK)
                return process, gate
        except trio.Cancelled:
            if is_sent:  # Its child, if it forks one after all, is reaped when it has ended.
                self.template.kill()
            raise
        finally:
            CHILD_REGISTRY.finish_start(pid)

    async def _send(self, *descriptors: int) -> None:
        async with self.send_lock:
            # Writable means that there is room for any message as short as this one.
            await trio.lowlevel.wait_writable(self.control)
            try:
                socket.send_fds(self.control, [b"fork"], descriptors)
            except ConnectionError:
                raise TemplateFailedError("the template has exited") from None

    async def _receive_pid(self, gate: socket.socket) -> int:
        """Receive the pid of the child, and verify that it is one of this template's.

        Until the child is reaped, which only this process can do, the pid is not reused.
        """
        try:
            reply = await _receive(gate)
        except trio.Cancelled:
            # Nearly always it is forking just now.
            with trio.move_on_after(_CANCELLED_TIMEOUT, shield=True) as scope:
                reply = await _receive(gate)
            if scope.cancelled_caught:
                raise
        kind, _, text = reply.partition(" ")
        if kind == "stale":
            raise StaleTemplateError("the code of a module has changed")
        if not kind:
            raise TemplateFailedError("the template has exited at a fork")
        if kind != "pid":
            raise TemplateError(text)
        pid = int(text)
        stat = procfs.read_stat(pid)
        expected = (os.getpid(), self.template.pid)
        if stat is None or (stat.ppid, stat.session) != expected or pid in CHILD_REGISTRY.pids:
            raise TemplateError(f"pid {pid} is not a child that the template has forked")
        return pid

    async def _let_pass(self, process: PluginProcess, gate: socket.socket) -> None:
        """Let the child become the plugin, and wait until it has."""
        try:
            if self.cgroup is not None:
                (self.cgroup / "cgroup.procs").write_text(str(process.pid))
            gate.send(b"pass")
        except OSError as exc:
            raise TemplateError(f"the child cannot be set up: {exc.strerror}") from None
        kind, _, text = (await _receive(gate)).partition(" ")
        if kind != "started":
            raise TemplateError(f"the child failed: {text or 'it has exited'}")


def _open_pipe(reading: ExitStack, writing: ExitStack) -> tuple[int, int]:
    """Open a pipe; each of its ends is closed by one of the stacks."""
    ends = os.pipe()
    reading.callback(os.close, ends[0])
    writing.callback(os.close, ends[1])
    return ends


def _open_pidfd(pid: int) -> int:
    """Open the pidfd of a child at the gate. Raises OSError; the child exits, and is reaped."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        ChildProcess(pid, -1).reap_later()
        raise


def _write_memfd(stack: ExitStack, content: Mapping[str, Any]) -> int:
    """Write JSON to memory: an environment may be longer than a message."""
    descriptor = os.memfd_create("meshtrio-fork", os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    with open(descriptor, "w", closefd=False) as file:
        file.write(json.dumps(content))  # Not json.dump, which encodes in Python.
    return descriptor


async def _receive(gate: socket.socket) -> str:
    """Receive a message; "" if the other end is closed."""
    await trio.lowlevel.wait_readable(gate)
    try:
        return gate.recv(_MAX_MESSAGE_LENGTH).decode(errors="replace")
    except ConnectionError:
        return ""


def _discard(process: PluginProcess) -> None:
    """Kill a child that has not become the plugin, and reap it later."""
    process.signal_group(signal.SIGKILL)  # if it has one of its own already
    process.kill()
    os.close(process.stdout)
    os.close(process.stderr)
    process.reap_later()
