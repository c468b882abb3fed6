"""One plugin process and its group: spawn, wait, stop, reap.

The leader is never reaped before its group has been killed: as long as it is a zombie its number,
which is the group's too, cannot go to a stranger, so a signal always meets our own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import trio

from meshtrio.supervisor.process.proc.proc_scanner import find_group_pids, wait_for_group
from meshtrio.supervisor.process.proc.procfs import handles_signal
from meshtrio.supervisor.process.spawn.child_process import ChildProcess
from meshtrio.supervisor.process.spawn.child_registry import CHILD_REGISTRY
from meshtrio.supervisor.process.spawn.program import kill_and_reap, start_program
from meshtrio.util.pidfd import send_signals

_KILL_TIMEOUT = 5.0
"""Seconds from SIGKILL to the end; only a process that waits for broken hardware takes longer."""
_UNPERMITTED_KILL_TIMEOUT = 0.5
"""Seconds that a process has instead which may not be signalled, and may end all the same."""
_STACK_DUMP_TIMEOUT = 0.5
"""Seconds a stuck process has to write its stacks; it need not end of it."""
_FIND_GROUP_TIMEOUT = 1.0
"""Seconds to find the processes of a stuck group in."""


@attrs.define(eq=False)
class PluginProcess(ChildProcess):
    """A running plugin; `stdout` and `stderr` are pipes that `read_pipe` takes over."""

    stdout: int
    stderr: int
    _cgroup: Path | None = None
    leader_exited: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the leader has ended, before it is reaped."""

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        cgroup: Path | None = None,
        pass_fds: Sequence[int] = (),
        on_started: Callable[[int], None] = lambda pid: None,
    ) -> PluginProcess:
        """Start a process in a session and group of its own.

        Args:
            command: The program and its arguments.
            env: Its environment.
            cwd: Its working directory.
            cgroup: The control group that the command puts itself in, if any.
            inherited: Descriptors that it inherits under the same numbers, besides standard ones.
            on_start: Called with its pid in a worker thread as soon as it was started.

        Raises:
            OSError: It cannot be started.
            ValueError: A word of the command, or a variable, has a zero byte.
            RuntimeError: No thread can be started.

        Cancellation: See `start_program`; a process that was started is always handed to the
            caller.
        """
        started = await start_program(
            command,
            on_started,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
        )
        assert started.stdout is not None
        assert started.stderr is not None
        opened: list[int] = []
        try:
            with started.stdout, started.stderr:
                opened.append(os.pidfd_open(started.pid))
                opened.append(os.dup(started.stdout.fileno()))
                opened.append(os.dup(started.stderr.fileno()))
        except OSError:
            # Out of descriptors, most likely: what cannot be watched may not live.
            await kill_and_reap(started)
            for descriptor in opened:
                os.close(descriptor)
            raise
        pidfd, stdout, stderr = opened
        return cls(started.pid, pidfd, stdout, stderr, cgroup)

    async def wait(self) -> None:
        """Wait for the leader to end, then kill what is left of its group and reap it.

        A process that has ended but is held by its tracer is not reaped yet: see `reap_later`.
        """
        if not self.has_exited:
            await self.wait_for_exit()
            self.leader_exited.set()
            self.signal_group(signal.SIGKILL)
            await self.reap()

    def reap_later(self, on_reaped: Callable[[], None]) -> None:
        """Call `then` once the process has been reaped, if it has not been yet; see `orphans`."""
        if self.is_reaped:
            on_reaped()
        else:
            CHILD_REGISTRY.reap_later(self, on_reaped)

    def signal_group(self, number: int) -> None:
        """Signal every process of the group, as long as the leader has not been reaped.

        A process that has changed its user, such as one that runs a set-user-ID program, may be out
        of our reach; then it is left to its own end.
        """
        # If other code of this program has reaped it, its number may be another's.
        if self._can_signal_leader() is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _can_signal_leader(self) -> bool | None:
        """Whether the leader may be signalled; None if it was reaped."""
        if self.is_reaped:
            return None
        try:
            signal.pidfd_send_signal(self.pidfd, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return False
        return True

    async def dump_stacks(self) -> None:
        """Have a stuck group say where it is: SIGQUIT, which meshtrio's plugins, Go and Java
        answer with their stacks on stderr; they may be stopped, and are continued for that.

        Processes that do not handle the signal are not sent it: they could only leave core files.
        The plugin itself need not be the leader, which may be a shell that has started it.
        """
        found: list[int] = []
        with (
            trio.move_on_after(_FIND_GROUP_TIMEOUT),
            contextlib.suppress(OSError, RuntimeError, ValueError),
        ):
            found = await find_group_pids(self.pid, self._cgroup)
        asked = [pid for pid in found if handles_signal(pid, signal.SIGQUIT)]
        for pid in asked:
            _signal_member(self.pid, pid, signal.SIGQUIT, signal.SIGCONT)
        with trio.move_on_after(_STACK_DUMP_TIMEOUT if asked else 0):
            await self._wait_for_group_exit()

    async def stop(self, grace_period: float) -> bool:
        """End the group: SIGTERM, at most `grace` seconds, SIGKILL. True if it took the latter.

        Before that it is asked for its stacks, unless it was given no time at all.
        The leader's end is not the group's: what it started may still be draining. When cancelled
        all is killed at once. It has ended when this returns; but if the kernel does not let go of
        it, or it may not be signalled, `ended` is still False.
        """
        forced = not self.has_exited
        try:
            self.signal_group(signal.SIGTERM)
            with trio.move_on_after(grace_period):
                if not self.has_exited:
                    await self._wait_for_group_exit()
                forced = False
            if forced and grace_period > 0:
                await self.dump_stacks()
        finally:
            self.signal_group(signal.SIGKILL)
            within = (
                _UNPERMITTED_KILL_TIMEOUT if self._can_signal_leader() is False else _KILL_TIMEOUT
            )
            with trio.move_on_after(within, shield=True):
                await self.wait()
        return forced

    async def _wait_for_group_exit(self) -> None:
        """Wait until the leader and all others of its group have ended."""
        await self.wait_for_exit()
        await wait_for_group(self.pid, self._cgroup)


def _signal_member(group: int, pid: int, *numbers: int) -> None:
    """Signal a process if it is still the one that was found in the group."""
    with contextlib.suppress(OSError):
        send_signals(pid, numbers, lambda: os.getpgid(pid) == group)
