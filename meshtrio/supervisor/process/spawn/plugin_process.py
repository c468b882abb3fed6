"""One plugin process and its group: spawn, wait, stop, reap.

The leader is never reaped before its group has been killed: while it is a zombie its pid, which is
the group's id too, is not reused, so that a signal reaches only our own processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from meshtrio.config import StartMethod
from meshtrio.supervisor.process.proc.proc_scanner import find_group_pids, wait_for_group
from meshtrio.supervisor.process.proc.procfs import has_signal
from meshtrio.supervisor.process.saved_processes import SavedPipe, SavedProcess
from meshtrio.supervisor.process.spawn.child_process import CHILD_REGISTRY, ChildProcess
from meshtrio.supervisor.process.spawn.program import kill_and_reap, start_program
from meshtrio.util.processes import ProcessInfo, send_signals

_KILL_TIMEOUT = 5.0
"""Seconds from SIGKILL to exit; only processes that wait for broken hardware take longer."""
_UNPERMITTED_KILL_TIMEOUT = 0.5
"""Seconds in which a process that may not be signalled has to exit by itself."""
_STACK_DUMP_TIMEOUT = 0.5
"""Seconds in which a stuck process has to write its stacks; it need not exit afterwards."""
_FIND_GROUP_TIMEOUT = 1.0
"""Seconds in which the processes of a stuck group have to be found."""


@attrs.define(eq=False)
class PluginProcess(ChildProcess):
    """A running plugin, its process group, and the pipes of its output."""

    stdout: int
    """The read end of its stdout, which `read_pipe` takes over; `CLOSED` if it has ended."""
    stderr: int
    """The read end of its stderr, which `read_pipe` takes over; `CLOSED` if it has ended."""
    _cgroup: Path | None = None
    start_method: StartMethod = StartMethod.EXEC
    """How it was started."""
    leader_exited: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the leader has exited, before it is reaped."""

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        *,
        cgroup: Path | None = None,
        on_started: Callable[[int], None] = lambda pid: None,
        **options: Any,
    ) -> PluginProcess:
        """Start a process in a session and process group of its own; see `start_program`.

        The command puts itself in the cgroup, if there is one. `on_started` is called with its pid
        in a worker thread as soon as it was started. The options are those of `subprocess.Popen`.
        """
        options |= {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        started = await start_program(command, on_started, stderr=subprocess.PIPE, **options)
        assert started.stdout is not None
        assert started.stderr is not None
        opened: list[int] = []
        try:
            with started.stdout, started.stderr:
                opened.append(os.pidfd_open(started.pid))
                opened.append(os.dup(started.stdout.fileno()))
                opened.append(os.dup(started.stderr.fileno()))
        except OSError:
            # Out of descriptors, most likely: a process that cannot be watched must not run.
            await kill_and_reap(started)
            for descriptor in opened:
                os.close(descriptor)
            raise
        pidfd, stdout, stderr = opened
        return cls(started.pid, pidfd, stdout, stderr, cgroup)

    @classmethod
    def adopt(cls, saved: SavedProcess) -> PluginProcess:
        """Make the object of a process that this one has started before an upgrade."""
        CHILD_REGISTRY.pids.add(saved.pid)
        pipes = saved.stdout.descriptor, saved.stderr.descriptor
        return cls(saved.pid, saved.pidfd, *pipes, saved.cgroup, saved.start_method)

    def save(self, stdout: SavedPipe, stderr: SavedPipe) -> SavedProcess:
        """Return what an upgrade hands over."""
        return SavedProcess(
            pid=self.pid,
            pidfd=self.pidfd,
            stdout=stdout,
            stderr=stderr,
            cgroup=self._cgroup,
            start_method=self.start_method,
        )

    async def wait(self) -> None:
        """Wait until the leader has exited, then kill the rest of its group and reap the leader.

        A leader that is held by its tracer is not reaped yet; see `reap_later`.
        """
        if not self.has_exited:
            await self.wait_for_exit()
            self.leader_exited.set()
            self.signal_group(signal.SIGKILL)
            await self.reap()

    def signal_group(self, number: int) -> bool:
        """Signal every process of the group, unless the leader has been reaped.

        A process that may not be signalled, as of a set-user-ID program, is skipped. Returns
        whether the leader may be signalled, if there is one.
        """
        is_permitted = True
        if not self.is_reaped:
            try:
                # If other code of this program has reaped it, its pid may have been reused.
                signal.pidfd_send_signal(self.pidfd, 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                is_permitted = False
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
        return is_permitted

    async def dump_stacks(self) -> None:
        """Send SIGQUIT to a stuck group, upon which meshtrio, Go and Java dump stacks to stderr.

        Processes that do not handle the signal are skipped, since it would only make them dump
        core. SIGCONT follows, for processes that are stopped. The plugin need not be the leader,
        which may be a shell that has started it.
        """
        handling: list[int] = []
        with trio.move_on_after(_FIND_GROUP_TIMEOUT), suppress(OSError, RuntimeError, ValueError):
            masks = {
                pid: ProcessInfo(pid).caught_signals
                for pid in await find_group_pids(self.pid, self._cgroup)
            }
            handling = [pid for pid, mask in masks.items() if has_signal(mask, signal.SIGQUIT)]
        for pid in handling:
            with suppress(OSError):
                # If it is still in the group in which it was found.
                is_member = partial(self._is_member, pid)
                send_signals(pid, (signal.SIGQUIT, signal.SIGCONT), is_member)
        with trio.move_on_after(_STACK_DUMP_TIMEOUT if handling else 0):
            await self._wait_for_group_exit()

    async def stop(
        self,
        grace_period: float,
        extending: Callable[[trio.CancelScope], AbstractContextManager[object]] = nullcontext,
    ) -> bool:
        """Stop the group: SIGTERM, SIGKILL after the grace period; return whether that expired.

        All processes of the group have the grace period, since a child of the leader may still be
        draining. If it expires and is not zero, the group dumps its stacks before SIGKILL.
        `extending` may extend the deadline of the scope that is the grace period, during its block.

        Afterwards `has_exited` is true, unless the process is blocked in the kernel or may not be
        signalled.

        Cancellation: The group is killed at once.
        """
        forced = not self.has_exited
        try:
            self.signal_group(signal.SIGTERM)
            with trio.move_on_after(grace_period) as scope, extending(scope):
                if not self.has_exited:
                    await self._wait_for_group_exit()
                forced = False
            if forced and grace_period > 0:
                await self.dump_stacks()
        finally:
            is_permitted = self.signal_group(signal.SIGKILL)
            timeout = _KILL_TIMEOUT if is_permitted else _UNPERMITTED_KILL_TIMEOUT
            with trio.move_on_after(timeout, shield=True):
                await self.wait()
        return forced

    async def _wait_for_group_exit(self) -> None:
        """Wait until all processes of the group have exited."""
        await self.wait_for_exit()
        await wait_for_group(self.pid, self._cgroup)

    def _is_member(self, pid: int) -> bool:
        return os.getpgid(pid) == self.pid
