"""Processes by pid: what /proc says of them, and signals and waiting by pidfd (pidfd_open(2)).

A pid may be reused once its process has been reaped, while a pidfd refers to one process even after
its exit. So a pidfd is opened first, and it is checked afterwards that the pid still belongs to the
process that was meant. Standard library only: the warden uses it, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections.abc import Callable

OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Error numbers that say nothing about a process, but about this one or the system."""


def list_pids() -> list[int]:
    """List the pids of visible processes; with `hidepid`, of the user's own. Raises OSError."""
    return [int(name) for name in os.listdir(b"/proc") if name.isdigit()]


def read_proc_file(name: int | str, file: str) -> bytes:
    """Return the content of `/proc/NAME/FILE`, which need not be UTF-8; b"" if it cannot be read.

    Raises OSError if this process is out of descriptors or memory.
    """
    try:
        with open(f"/proc/{name}/{file}", "rb", buffering=0) as opened:
            return opened.read()
    except OSError as exc:
        if exc.errno in OUT_OF_RESOURCES:
            raise
        return b""


class ProcessInfo:
    """Fields of `/proc/NAME/status`, of a process or of a thread (`PID/task/TID`)."""

    def __init__(self, name: int | str) -> None:
        """Read the fields; see `read_proc_file`. A process that cannot be read is not alive.

        The name of a process cannot add lines, since the kernel escapes newlines in this file.
        """
        self.name = name
        lines = (line.partition(b":") for line in read_proc_file(name, "status").split(b"\n"))
        fields = {key: value.strip() for key, _, value in lines}

        def number(key: bytes, base: int = 10) -> int:
            return int(fields.get(key, b"0"), base)

        self.comm = fields.get(b"Name", b"").decode("utf-8", "replace")
        """Its name for people, in which what is not UTF-8 is replaced; "" if it cannot be read."""
        self._pids = [int(pid) for pid in fields.get(b"NSpid", b"").split()]
        self.uids = [int(uid) for uid in fields.get(b"Uid", b"").split()]
        """Its real, effective, saved and filesystem user ids; empty if it cannot be read."""
        self.ppid = number(b"PPid")
        """The pid of its parent, in the namespace that `/proc` was mounted for."""
        self.tracer_pid = number(b"TracerPid")
        """The pid of the process that traces it by ptrace(2); 0 if none does."""
        self.state = fields.get(b"State", b"X")[:1].decode()
        """Its state as one letter, as in `/proc/PID/stat`; "X" if it cannot be read."""
        self.caught_signals = number(b"SigCgt", 16)
        """Mask of the signals that it handles."""
        self.ignored_signals = number(b"SigIgn", 16)
        """Mask of the signals that it ignores."""
        self.capabilities = number(b"CapEff", 16)
        """Mask of its effective capabilities."""
        self.has_no_new_privileges = bool(number(b"NoNewPrivs"))
        """Whether it can gain no privileges by execve(2) (PR_SET_NO_NEW_PRIVS)."""

    @property
    def is_alive(self) -> bool:
        """Whether it can be read and is neither a zombie nor dead."""
        return self.state not in "ZX"

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped by a signal or by its tracer."""
        return self.state in "Tt"

    @property
    def pid(self) -> int:
        """Its pid in the namespace of this process, which may differ from that in `/proc`."""
        return self._pids[min(self.namespace_depth, ProcessInfo("self").namespace_depth) - 1]

    @property
    def namespace_depth(self) -> int:
        """Number of PID namespaces that it is in, of those that `/proc` shows."""
        return len(self._pids)

    @property
    def is_in_own_namespace(self) -> bool:
        """Whether it is in the PID namespace of this process.

        `/proc` shows the processes of the namespace that it was mounted for and of nested ones. A
        process has one pid in each namespace from that one down to its own. If `/proc` is that of
        our own namespace, the depth is sufficient, also for processes whose links cannot be read.
        """
        if self.namespace_depth != ProcessInfo("self").namespace_depth:
            return False
        with contextlib.suppress(OSError):
            return self.namespace_depth == 1 or (
                os.readlink(f"/proc/{self.name}/ns/pid") == os.readlink("/proc/self/ns/pid")
            )
        return False


def send_signals(pid: int, signals: tuple[int, ...], is_same: Callable[[], bool]) -> bool:
    """Send signals in order if the pid, of which a pidfd is open then, `is_same` as was meant.

    Returns whether they were sent; False if the process has ended. Raises PermissionError, or
    OSError if no descriptor is left.
    """
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if not is_same():
                return False
            for number in signals:
                signal.pidfd_send_signal(pidfd, number)
            return True
        finally:
            os.close(pidfd)
    return False


def has_exited(pidfd: int) -> bool:
    """Whether the process of a pidfd has exited; it may be a zombie."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
