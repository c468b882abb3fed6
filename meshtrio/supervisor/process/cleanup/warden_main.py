"""The warden: kills the plugins of a mesh that died without doing so. Standard library only.

Run by `warden` as a script of its own: `warden_main.py PID MESH_ID USERS [CGROUP]`, with a
SOCK_SEQPACKET socket to the mesh as standard input. Messages are `+PID` with a pidfd beside it,
`-PID`, `uUSER`, and `.` when the mesh has stopped in good order. USERS are numbers with commas.

What it kills are processes that the mesh has handed over by pidfd, what these have started, and
processes that carry a mark of the mesh (`marks`): none is ever killed because of its number, its
name or a path alone.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from meshtrio.supervisor.process.cleanup import process_marker
    from meshtrio.util import pidfd as pidfds
else:
    # The interpreter is isolated (-I): only the standard library and these two can be imported. At
    # the end of the path their directories hide no module of the standard library.
    _directory = os.path.dirname(os.path.abspath(__file__))
    sys.path += [_directory, os.path.join(_directory, *[os.pardir] * 3, "util")]
    import pidfd as pidfds
    import process_marker

_SECOND_PASS_DELAY = 0.1
"""Seconds; execve(2) takes milliseconds at most."""
_PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2
"""PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2), which Linux has since 6.9."""


class _GuardedProcesses:
    """What the mesh has sent to the warden."""

    def __init__(self, users: Iterable[int]) -> None:
        self.users = set(users)
        self.plugins: dict[int, int] = {}
        """The pidfds of plugins, by their pids."""

    def handle_message(self, message: bytes, descriptors: array.array[int]) -> None:
        if message[:1] in (b"+", b"-"):
            before = self.plugins.pop(int(message[1:]), None)
            if before is not None:
                os.close(before)
        if message[:1] == b"+" and descriptors:
            self.plugins[int(message[1:])] = descriptors[0]
        elif message[:1] == b"u":
            self.users.add(int(message[1:]))


def main() -> None:
    mesh, mesh_id, users, *cgroup = int(sys.argv[1]), *sys.argv[2:]
    # Not that of the mesh: if that is a plugin of another one, the latter's warden would kill this.
    process_marker.set_marker_limit(0, process_marker.encode_marker_limit(mesh_id, 0))
    _raise_descriptor_limit()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    charges = _GuardedProcesses(map(int, users.split(",")))
    with socket.socket(fileno=0) as channel:
        if not _wait_for_mesh_exit(channel, mesh, charges):
            return
    # Nothing that goes wrong with one process or folder may keep the others from being killed.
    below: dict[int, int] = {}
    with contextlib.suppress(OSError):
        below = _find_descendants(charges.plugins)
    for pid, pidfd in charges.plugins.items():
        _kill_group(pid, pidfd)
    for pidfd in below.values():
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for folder in cgroup:
        with contextlib.suppress(OSError):
            _kill_cgroups(folder, mesh_id)
    # Twice: a process has no environment in the moment in which it is executed, and one that was
    # just started may not have the other mark yet.
    for pause in (_SECOND_PASS_DELAY, 0):
        with contextlib.suppress(OSError):
            process_marker.kill_marked_processes(
                process_marker.make_mesh_marker(mesh_id, charges.users)
            )
        time.sleep(pause)


def _raise_descriptor_limit() -> None:
    """Allow a pidfd for each plugin and, at the end, for all that they have started."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _wait_for_mesh_exit(channel: socket.socket, mesh_pid: int, guarded: _GuardedProcesses) -> bool:
    """Keep the list of plugins; True when the mesh is gone and they are to be killed."""
    try:
        mesh_fd = os.pidfd_open(mesh_pid)
    except ProcessLookupError:
        return True
    if os.getppid() != mesh_pid:
        return True  # the pidfd is that of a process which has the number now
    # The socket alone would do, were it not for a copy of its other end in a fork of the mesh.
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(mesh_fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if channel.fileno() in ready:
            word, descriptors = _receive_message(channel)
            if word in (b"", b"."):
                # Sent home too early, it still kills what it was given to watch.
                return word == b"" or bool(guarded.plugins)
            guarded.handle_message(word, descriptors)
        elif os.getppid() != mesh_pid:
            return True


def _receive_message(channel: socket.socket) -> tuple[bytes, array.array[int]]:
    descriptors = array.array("i")
    word, ancillary, _, _ = channel.recvmsg(64, socket.CMSG_SPACE(descriptors.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return word, descriptors


def _kill_group(pid: int, pidfd: int) -> None:
    """Kill a plugin and its group, by its pidfd: its number may be that of another process by now.

    A leader that has changed its user may be out of our reach while others of its group are not.
    """
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL, None, _PIDFD_SIGNAL_PROCESS_GROUP)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            _kill_group_by_number(pid, pidfd)
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _kill_group_by_number(pid: int, pidfd: int) -> None:
    """As far as Linux before 6.9 can do it: only while the leader lives, which keeps its number."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except PermissionError:
        pass
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def _find_descendants(plugins: dict[int, int]) -> dict[int, int]:
    """Return the pidfds, by pid, of what plugins have started, at any depth.

    Those are known by their parents alone, so that neither their marks, their users nor their PID
    namespaces matter. To be called while the plugins live, since it is then that they have these
    parents. Wardens of meshes in plugins are left out: they have to kill what is theirs.
    """
    if process_marker.ProcessInfo("self").namespace_depth != 1:
        return {}  # /proc numbers processes otherwise than the mesh does
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(process_marker.ProcessInfo(int(name)).ppid, []).append(int(name))
    found: dict[int, int] = {}
    looked_at = list(plugins.items())
    for parent, parent_fd in looked_at:
        for pid in children.get(parent, ()):
            pidfd = _open_child(parent, parent_fd, pid)
            if pidfd is not None:
                found[pid] = pidfd
                looked_at.append((pid, pidfd))
    return found


def _open_child(parent: int, parent_fd: int, pid: int) -> int | None:
    """Open a process if its parent is the one that a pidfd is of, and it is no warden."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    # In this order: a parent that lives still has its number, and so has the child.
    if (
        process_marker.ProcessInfo(pid).ppid == parent
        and not pidfds.has_exited(parent_fd)
        and not process_marker.is_warden(pid)
    ):
        return pidfd
    os.close(pidfd)
    return None


def _kill_cgroups(folder: str, mesh_id: str) -> None:
    """Kill all that is in the cgroups of this launch; the next mesh removes those."""
    for entry in os.scandir(folder):
        if entry.name.startswith(f"meshtrio-{mesh_id}-"):
            with contextlib.suppress(OSError), open(f"{entry.path}/cgroup.kill", "w") as file:
                file.write("1")


if __name__ == "__main__":
    main()
