"""The children that meshes of this process start, each waited for without blocking.

wait(2) can block for a process that has exited: while another process traces it (gdb, strace), it
stays a zombie for the tracer, and its parent does not get the exit status. So a child is only
waited for with WNOHANG. A child that its tracer holds counts as exited, and is reaped later
(`ChildRegistry.reap_later`).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import attrs
import trio

from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.procfs import Tracer
from meshtrio.supervisor.process.saved_processes import SavedChild
from meshtrio.util.processes import ProcessInfo

_INITIAL_REAP_PAUSE = 0.005
_TRACER_TIMEOUT = 0.25
"""Seconds in which a tracer has to wait for a process that has exited. A tracer that is not stopped
itself does so at once."""
_CAP_SYS_PTRACE = 19


class ChildRegistry:
    """Tells our own children from other children of this process, and reaps late ones.

    Other children are those that the rest of the program starts, and orphans that the kernel has
    made children of this process.
    """

    def __init__(self) -> None:
        self.pids: set[int] = set()
        """Pids of the children that have been started and not reaped."""
        self.pending_starts = 0
        """Number of children that are being started, whose pids are not known yet."""
        self.start_count = 0
        """Number of starts so far; a change shows that a child was started meanwhile."""
        self.is_exclusive = False
        """Whether this program starts no processes except for those of its meshes."""
        self._deferred: list[tuple[ChildProcess, Callable[[], None]]] = []

    def begin_start(self) -> None:
        """Note that a child is being started; `finish_start` has to follow."""
        self.pending_starts += 1
        self.start_count += 1

    def finish_start(self, pid: int | None = None) -> None:
        """Register the child that was started; None if that failed."""
        self.pending_starts -= 1
        if pid is not None:
            self.pids.add(pid)

    def reap_later(self, child: ChildProcess, on_reaped: Callable[[], None]) -> None:
        """Reap a child when that becomes possible, then call `on_reaped`.

        This is for children that cannot be killed, and for those that have exited and are held as
        zombies by their tracers. `zombie_reaper` tries once a second while a mesh runs.
        """
        self._deferred.append((child, on_reaped))

    def save_deferred(self) -> tuple[SavedChild, ...]:
        """Return the children of `reap_later`, for an upgrade."""
        children = (child for child, _ in self._deferred)
        return tuple(SavedChild(pid=each.pid, pidfd=each.pidfd) for each in children)

    def reap_deferred(self) -> None:
        """Try to reap the children of `reap_later`."""
        children, self._deferred = self._deferred, []
        for child, on_reaped in children:
            if child.try_reap():
                on_reaped()
            else:
                self._deferred.append((child, on_reaped))


CHILD_REGISTRY = ChildRegistry()
"""The registry of this process, which all of its meshes share."""


@attrs.define(eq=False)
class ChildProcess:
    """A child by its pid and pidfd. Until it has been reaped its pid is not reused."""

    pid: int
    pidfd: int
    """Its pidfd, closed when the process is reaped; -1 if no descriptor was left for it."""
    has_exited: bool = attrs.field(default=False, kw_only=True)
    """Whether it has exited; others of its group may still be alive."""
    returncode: int | None = attrs.field(default=None, kw_only=True)
    """Its exit status as in subprocess: the negative number of the signal that has killed it. None
    until it has exited, or if other code of this program has waited for it."""
    is_reaped: bool = attrs.field(default=False, kw_only=True)
    """Whether it has been waited for, so that its pid may be reused."""
    tracer: Tracer | None = attrs.field(default=None, kw_only=True)
    """The process that traces it, if that keeps it a zombie after its exit."""

    async def wait_for_exit(self) -> None:
        """Wait until it has exited, and leave it a zombie."""
        if not self.has_exited:
            await trio.lowlevel.wait_readable(self.pidfd)

    async def reap(self) -> None:
        """Reap the process, which has exited; if it is traced, wait up to a quarter of a second.

        Sets `has_exited`, and `is_reaped` unless its tracer still holds it.

        Cancellation: It can be called again.
        """
        pause, end = _INITIAL_REAP_PAUSE, trio.current_time() + _TRACER_TIMEOUT
        while not self.try_reap():
            if trio.current_time() >= end:
                self._record_traced_exit()
                return
            await trio.sleep(pause)
            pause *= 2

    def try_reap(self) -> bool:
        """Reap it if it has exited and no tracer holds it; return whether it is reaped.

        Never blocks.
        """
        if self.is_reaped:
            return True
        try:
            by = (os.P_PID, self.pid) if self.pidfd < 0 else (os.P_PIDFD, self.pidfd)
            found = os.waitid(*by, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            # Other code has waited for it, or SIGCHLD is ignored, so that no status is kept.
            self._set_reaped(None)
            return True
        if found is None:
            return False
        exited = found.si_code == os.CLD_EXITED
        self._set_reaped(found.si_status if exited else -found.si_status)
        return True

    def reap_later(self, on_reaped: Callable[[], None] = lambda: None) -> None:
        """Call `on_reaped` when it has been reaped, at once if it has been already."""
        if self.is_reaped:
            on_reaped()
        else:
            CHILD_REGISTRY.reap_later(self, on_reaped)

    def find_tracer(self) -> Tracer | None:
        """Find the process that traces it now, if any."""
        return None if self.is_reaped else procfs.find_tracer(self.pid)

    def kill(self) -> None:
        """Send it SIGKILL, unless it has been reaped or may not be signalled."""
        if not self.is_reaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def _set_reaped(self, code: int | None) -> None:
        if not self.has_exited:
            self.returncode = code
        self.has_exited = self.is_reaped = True
        CHILD_REGISTRY.pids.discard(self.pid)  # It may be reused from now on.
        if self.pidfd >= 0:
            os.close(self.pidfd)

    def _record_traced_exit(self) -> None:
        """Mark it as exited though it cannot be reaped yet, with the status from /proc."""
        self.has_exited = True
        self.tracer = procfs.find_tracer(self.pid)
        with contextlib.suppress(OSError):
            stat = procfs.read_stat(self.pid)
            if stat is not None and (stat.exit_code or _can_read_exit_status(self.pid)):
                self.returncode = os.waitstatus_to_exitcode(stat.exit_code)


def _can_read_exit_status(pid: int) -> bool:
    """Whether the kernel shows us the exit status of a zombie, instead of 0."""
    uids = ProcessInfo(pid).uids
    by_capability = ProcessInfo("self").capabilities >> _CAP_SYS_PTRACE & 1
    return bool(uids) and (bool(by_capability) or set(uids[:3]) == {os.geteuid()})
