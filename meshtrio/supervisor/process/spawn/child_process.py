"""A child of this process, waited for without blocking.

wait(2) for a process that has ended can block: as long as another process traces it (gdb, strace),
it stays a zombie for the tracer, and its parent is not given its exit status. So a child is only
ever waited for with WNOHANG. One that its tracer does not let go of counts as ended, and is reaped
later (`ChildRegistry.reap_later`).
"""

from __future__ import annotations

import os
import signal

import attrs
import trio

from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.procfs import Tracer
from meshtrio.supervisor.process.spawn.child_registry import CHILD_REGISTRY

_INITIAL_REAP_PAUSE = 0.005
_TRACER_TIMEOUT = 0.25
"""Seconds that a tracer has to let go of a process which has ended. One that is not stopped itself
does that at once."""
_CAP_SYS_PTRACE = 19


@attrs.define(eq=False)
class ChildProcess:
    """A child by its pid and pidfd. As long as it has not been reaped, the pid is not another's."""

    pid: int
    pidfd: int
    """Closed when the process is reaped; -1 if there was no descriptor for it."""
    has_exited: bool = attrs.field(default=False, kw_only=True)
    """Whether it has ended; its group may still live."""
    returncode: int | None = attrs.field(default=None, kw_only=True)
    """As subprocess has it: negative for the number of a signal. None until it has ended, and if
    its exit status is not known, since other code of this program has waited for it."""
    is_reaped: bool = attrs.field(default=False, kw_only=True)
    tracer: Tracer | None = attrs.field(default=None, kw_only=True)
    """The process that keeps it as a zombie, once it has ended."""

    async def wait_for_exit(self) -> None:
        """Wait until it has ended, and leave it as a zombie."""
        if not self.has_exited:
            await trio.lowlevel.wait_readable(self.pidfd)

    async def reap(self) -> None:
        """Reap it once it has ended, at once or, if it is traced, within a quarter of a second.

        Afterwards `ended` is set, and `reaped` unless its tracer has not let go of it.

        Cancellation: it can be called again.
        """
        pause, end = _INITIAL_REAP_PAUSE, trio.current_time() + _TRACER_TIMEOUT
        while not self.try_reap():
            if trio.current_time() >= end:
                self._record_traced_exit()
                return
            await trio.sleep(pause)
            pause *= 2

    def try_reap(self) -> bool:
        """Reap it if it has ended and is not held by a tracer, and return whether it is reaped.

        Never blocks.
        """
        if self.is_reaped:
            return True
        try:
            by = (os.P_PID, self.pid) if self.pidfd < 0 else (os.P_PIDFD, self.pidfd)
            found = os.waitid(*by, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            # Other code has waited for it, or SIGCHLD is ignored: the kernel keeps no status then.
            self._set_reaped(None)
            return True
        if found is None:
            return False
        exited = found.si_code == os.CLD_EXITED
        self._set_reaped(found.si_status if exited else -found.si_status)
        return True

    def find_tracer(self) -> Tracer | None:
        """The process that traces it now, if any."""
        return None if self.is_reaped else procfs.find_tracer(self.pid)

    def kill(self) -> None:
        """Send it SIGKILL, if it is there and may be signalled."""
        if not self.is_reaped:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return

    def _set_reaped(self, code: int | None) -> None:
        if not self.has_exited:
            self.returncode = code
        self.has_exited = self.is_reaped = True
        CHILD_REGISTRY.unregister(self.pid)
        if self.pidfd >= 0:
            os.close(self.pidfd)

    def _record_traced_exit(self) -> None:
        """Take it for ended though it cannot be reaped yet, with the status that /proc shows."""
        self.has_exited = True
        self.tracer = procfs.find_tracer(self.pid)
        try:
            stat = procfs.read_stat(self.pid)
        except OSError:
            return
        if stat is not None and (stat.exit_code or _can_read_exit_status(self.pid)):
            self.returncode = os.waitstatus_to_exitcode(stat.exit_code)


def _can_read_exit_status(pid: int) -> bool:
    """Whether the kernel shows us the exit status of a zombie, and not 0 in its place."""
    own, its = procfs.read_status("self"), procfs.read_status(pid)
    if own is None or its is None:
        return False
    by_capability = bool(own.effective_capabilities >> _CAP_SYS_PTRACE & 1)
    return by_capability or set(its.uids[:3]) == {own.uids[1]}
