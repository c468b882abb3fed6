"""The warden process: kills the plugins of a mesh that was killed itself. Standard library only.

`warden` runs it as a script: `warden_main.py PID MESH_ID USERS [CGROUP]`, with a SOCK_SEQPACKET
socket to the mesh as standard input. Messages are `+PID` with a pidfd as SCM_RIGHTS, `-PID`,
`uUID`, and `.` if the mesh has stopped all plugins. USERS are uids separated by commas.

It kills processes whose pidfds the mesh has sent, what these have started, and processes that carry
a mark of the mesh (`process_marker`). No process is killed because of its number, its name or a
path alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from meshtrio.supervisor.process.cleanup import process_marker
    from meshtrio.util import processes
else:
    # The interpreter is isolated (-I): only the standard library and these two can be imported. At
    # the end of the path their directories hide no module of the standard library.
    _directory = os.path.dirname(os.path.abspath(__file__))
    sys.path += [_directory, os.path.join(_directory, *[os.pardir] * 3, "util")]
    import process_marker
    import processes

_SECOND_PASS_DELAY = 0.1
"""Seconds between the two passes; execve(2) takes milliseconds at most."""
_PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2
"""Flag PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2), since Linux 6.9."""


def main() -> None:
    mesh_pid, mesh_id, users, *cgroup = int(sys.argv[1]), *sys.argv[2:]
    # Replaces the mark that this process inherits if the mesh is itself a plugin of an outer mesh,
    # whose warden would kill it otherwise.
    process_marker.set_marker_limit(0, process_marker.encode_marker_limit(mesh_id, 0))
    _raise_descriptor_limit()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    uids = set(map(int, users.split(",")))
    plugins: dict[int, int] = {}  # Pidfds of plugins and their reparented descendants, by pid.
    with socket.socket(fileno=0) as channel:
        if not _wait_for_mesh_exit(channel, mesh_pid, plugins, uids):
            return
    # A failure with one process or directory must not keep the others from being killed.
    descendants: dict[int, int] = {}
    with contextlib.suppress(OSError):
        descendants = _find_descendants(plugins)
    for pid, pidfd in plugins.items():
        _kill_group(pid, pidfd)
    for pidfd in descendants.values():
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for directory in cgroup:
        with contextlib.suppress(OSError):
            _kill_cgroups(directory, mesh_id)
    # Twice: during execve(2) a process shows no environment, and one that was just started may not
    # have its limit yet.
    for pause in (_SECOND_PASS_DELAY, 0):
        with contextlib.suppress(OSError):
            process_marker.kill_marked_processes(process_marker.make_mesh_marker(mesh_id, uids))
        time.sleep(pause)


def _raise_descriptor_limit() -> None:
    """Make room for a pidfd for each plugin and, at the end, for each of their descendants."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _wait_for_mesh_exit(
    channel: socket.socket, mesh_pid: int, plugins: dict[int, int], uids: set[int]
) -> bool:
    """Handle messages until the mesh has exited; return whether processes are to be killed."""
    try:
        mesh_fd = os.pidfd_open(mesh_pid)
    except ProcessLookupError:
        return True
    if os.getppid() != mesh_pid:
        return True  # The mesh has exited, and the pidfd is that of a process with the same pid.
    # The socket alone is not sufficient: a fork of the mesh may hold a copy of its other end.
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(mesh_fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if channel.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(channel, 64, 1)
            if message in (b"", b"."):
                # If plugins are left, they are killed even though the mesh has stopped in order.
                return message == b"" or bool(plugins)
            kind, number = message[:1], int(message[1:])
            if kind == b"u":
                uids.add(number)
                continue
            if (replaced := plugins.pop(number, None)) is not None:
                os.close(replaced)
            if kind == b"+" and descriptors:
                plugins[number] = descriptors[0]
        elif os.getppid() != mesh_pid:
            return True


def _kill_group(pid: int, pidfd: int) -> None:
    """Kill a plugin and its group by its pidfd, since its pid may have been reused.

    A leader that has changed its uid may not be signalled, while others of its group may.
    """
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL, None, _PIDFD_SIGNAL_PROCESS_GROUP)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            _kill_group_by_number(pid, pidfd)
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _kill_group_by_number(pid: int, pidfd: int) -> None:
    """Kill a group on Linux before 6.9, if its leader is alive and so keeps its number in use."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except PermissionError:
        pass
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def _find_descendants(plugins: dict[int, int]) -> dict[int, int]:
    """Open pidfds of all descendants of plugins, at any depth; return them by pid.

    Descendants are recognized by their parents, whatever their marks, uids and PID namespaces are.
    Must be called before the plugins are killed, which changes the parents. Wardens of nested
    meshes are skipped: they have to kill their own plugins.
    """
    if processes.ProcessInfo("self").namespace_depth != 1:
        return {}  # Pids in /proc are not those that the mesh has sent.
    children: dict[int, list[int]] = {}
    for pid in processes.list_pids():
        children.setdefault(processes.ProcessInfo(pid).ppid, []).append(pid)
    found: dict[int, int] = {}
    queue = list(plugins.items())
    for parent, parent_fd in queue:
        for pid in children.get(parent, ()):
            pidfd = _open_child(parent, parent_fd, pid)
            if pidfd is not None:
                found[pid] = pidfd
                queue.append((pid, pidfd))
    return found


def _open_child(parent: int, parent_fd: int, pid: int) -> int | None:
    """Open a process if its parent is the process of `parent_fd`, and it is not a warden."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    # In this order: while the parent is alive its pid is not reused, nor is that of its child.
    if (
        processes.ProcessInfo(pid).ppid == parent
        and not processes.has_exited(parent_fd)
        and not process_marker.is_warden(pid)
    ):
        return pidfd
    os.close(pidfd)
    return None


def _kill_cgroups(directory: str, mesh_id: str) -> None:
    """Kill all processes in the cgroups of this run; the next mesh removes the cgroups."""
    for entry in os.scandir(directory):
        if entry.name.startswith(f"meshtrio-{mesh_id}-"):
            with contextlib.suppress(OSError), open(f"{entry.path}/cgroup.kill", "w") as file:
                file.write("1")


if __name__ == "__main__":
    main()
