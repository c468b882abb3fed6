"""One plugin process and its group: spawn, wait, stop, reap.

The leader is never reaped before its group has been killed: as long as it is a zombie its number,
which is the group's too, cannot go to a stranger, so a signal always meets our own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import trio

from meshtrio.supervise.processes import orphans, procfs
from meshtrio.supervise.processes.descriptors import LIMIT
from meshtrio.supervise.processes.handled import handles

_GROUP_PAUSE = 0.02
_KILL_WITHIN = 5.0
"""Seconds from SIGKILL to the end; only a process that waits for broken hardware takes longer."""
_DUMP_WITHIN = 0.5
"""Seconds a stuck process has to write its stacks; it need not end of it."""


@attrs.define(eq=False)
class Process:
    """A running plugin; `stdout` and `stderr` are pipes that `read_output` takes over."""

    pid: int
    pidfd: int
    stdout: int
    stderr: int
    _popen: subprocess.Popen[bytes]
    returncode: int | None = None
    """As subprocess has it: negative for the number of a signal; None until it was reaped."""
    ended: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the leader has ended, before it is reaped."""

    @classmethod
    async def spawn(
        cls, command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None
    ) -> Process:
        """Start a process in a session and group of its own. Raises OSError.

        Not cancellable: a process that was started is always handed to the caller.
        """

        def start() -> subprocess.Popen[bytes]:
            started = subprocess.Popen(
                list(command),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
            LIMIT.restore(started.pid)
            return started

        with trio.CancelScope(shield=True), orphans.starting() as started:
            popen = await trio.to_thread.run_sync(start)
            started(popen.pid)
        assert popen.stdout is not None
        assert popen.stderr is not None
        opened: list[int] = []
        try:
            with popen.stdout, popen.stderr:
                opened.append(os.pidfd_open(popen.pid))
                opened.append(os.dup(popen.stdout.fileno()))
                opened.append(os.dup(popen.stderr.fileno()))
        except OSError:
            # Out of descriptors, most likely: what cannot be watched may not live.
            os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            orphans.waited_for(popen.pid)
            for descriptor in opened:
                os.close(descriptor)
            raise
        pidfd, stdout, stderr = opened
        return cls(popen.pid, pidfd, stdout, stderr, popen)

    async def wait(self) -> None:
        """Wait for the leader to end, then kill what is left of its group and reap it."""
        if self.returncode is None:
            await trio.lowlevel.wait_readable(self.pidfd)
            self.ended.set()
            self.signal_group(signal.SIGKILL)
            self.returncode = self._popen.wait()
            orphans.waited_for(self.pid)
            os.close(self.pidfd)

    def signal_group(self, number: int) -> None:
        """Signal every process of the group, as long as the leader has not been reaped.

        A process that has changed its user, such as one that runs a set-user-ID program, may be out
        of our reach; then it is left to its own end.
        """
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def dump(self) -> None:
        """Have a stuck group say where it is: SIGQUIT, which meshtrio's plugins, Go and Java
        answer with their stacks on stderr; they may be stopped, and are continued for that.

        Processes that do not handle the signal are not sent it: they could only leave core files.
        The plugin itself need not be the leader, which may be a shell that has started it.
        """
        asked = [pid for pid in _members(self.pid) if handles(pid, signal.SIGQUIT)]
        for pid in asked:
            _signal_member(self.pid, pid, signal.SIGQUIT, signal.SIGCONT)
        with trio.move_on_after(_DUMP_WITHIN if asked else 0):
            await trio.lowlevel.wait_readable(self.pidfd)
            await self._wait_for_group()

    async def stop(self, grace: float) -> bool:
        """End the group: SIGTERM, at most `grace` seconds, SIGKILL. True if it took the latter.

        Before that it is asked for its stacks, unless it was given no time at all.
        The leader's end is not the group's: what it started may still be draining. When cancelled
        all is killed at once. It has been reaped when this returns; but where the kernel does not
        let go of it, `returncode` is still None.
        """
        forced = self.returncode is None
        try:
            self.signal_group(signal.SIGTERM)
            with trio.move_on_after(grace):
                if self.returncode is None:
                    await trio.lowlevel.wait_readable(self.pidfd)
                    await self._wait_for_group()
                forced = False
            if forced and grace > 0:
                await self.dump()
        finally:
            self.signal_group(signal.SIGKILL)
            with trio.move_on_after(_KILL_WITHIN, shield=True):
                await self.wait()
        return forced

    async def _wait_for_group(self) -> None:
        """Wait until the group's other processes have ended; the kernel tells nobody of that."""
        while _has_members(self.pid):  # noqa: ASYNC110 - no event to wait for
            await trio.sleep(_GROUP_PAUSE)


def _members(group: int) -> list[int]:
    """The processes of a group that are not zombies; none where they cannot be looked for."""
    try:
        return [stat.pid for stat in procfs.stats() if stat.group == group and stat.alive]
    except OSError:
        return []


def _signal_member(group: int, pid: int, *numbers: int) -> None:
    """Signal a process if it is still the one that was found in the group."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if os.getpgid(pid) == group:
                for number in numbers:
                    signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def _has_members(group: int) -> bool:
    """Whether a group has a process that is not a zombie."""
    try:
        return any(stat.group == group and stat.alive for stat in procfs.stats())
    except OSError:
        # No descriptor to look with; the time that it is given will pass.
        return True
