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


@attrs.define(eq=False)
class Process:
    """A running plugin; `stdout` and `stderr` are pipes that `read_lines` takes over."""

    pid: int
    pidfd: int
    stdout: int
    stderr: int
    _popen: subprocess.Popen[bytes]
    returncode: int | None = None
    """As subprocess has it: negative for the number of a signal; None until it was reaped."""

    @classmethod
    async def spawn(
        cls, command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None
    ) -> Process:
        """Start a process in a session and group of its own. Raises OSError.

        Not cancellable: a process that was started is always handed to the caller.
        """

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                list(command),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )

        with trio.CancelScope(shield=True):
            popen = await trio.to_thread.run_sync(start)
        assert popen.stdout is not None
        assert popen.stderr is not None
        pidfd = os.pidfd_open(popen.pid)
        stdout, stderr = os.dup(popen.stdout.fileno()), os.dup(popen.stderr.fileno())
        popen.stdout.close()
        popen.stderr.close()
        return cls(popen.pid, pidfd, stdout, stderr, popen)

    async def wait(self) -> None:
        """Wait for the leader to end, then kill what is left of its group and reap it."""
        if self.returncode is None:
            await trio.lowlevel.wait_readable(self.pidfd)
            self._reap()

    def _reap(self) -> None:
        self.signal_group(signal.SIGKILL)
        self.returncode = self._popen.wait()
        os.close(self.pidfd)

    def signal_group(self, number: int) -> None:
        """Signal every process of the group, as long as the leader has not been reaped."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def stop(self, grace: float) -> bool:
        """End the group: SIGTERM, at most `grace` seconds, SIGKILL. True if it took the latter.

        When cancelled it is killed at once. It has been reaped when this returns.
        """
        try:
            self.signal_group(signal.SIGTERM)
            with trio.move_on_after(grace):
                await self.wait()
        finally:
            forced = self.returncode is None
            self.signal_group(signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await self.wait()
        return forced
