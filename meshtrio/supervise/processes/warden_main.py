"""The warden: kills the plugins of a mesh that died without doing so. Standard library only.

Run by `warden` as a script of its own: `warden_main.py PID RUNTIME_DIR [CGROUP]`, with a
SOCK_SEQPACKET socket to the mesh as standard input. Messages are `+PID` with a pidfd beside it,
`-PID`, and `.` when the mesh has stopped in good order.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import sys
import time

_SWEEPS = 20
_SWEEP_PAUSE = 0.05


def main() -> None:
    mesh, runtime_dir, *cgroup = int(sys.argv[1]), *sys.argv[2:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    plugins: dict[int, int] = {}
    with socket.socket(fileno=0) as channel:
        if not _serve(channel, mesh, plugins):
            return
    # Nothing that goes wrong with one process or folder may keep the others from being killed.
    for pid, pidfd in plugins.items():
        _kill_group(pid, pidfd)
    for folder in cgroup:
        with contextlib.suppress(OSError):
            _kill_cgroups(folder)
    sweep(b"PLUGIN_SOCKET=" + os.fsencode(runtime_dir) + b"/")


def _serve(channel: socket.socket, mesh: int, plugins: dict[int, int]) -> bool:
    """Keep the list of plugins; True when the mesh is gone and they are to be killed."""
    try:
        mesh_fd = os.pidfd_open(mesh)
    except ProcessLookupError:
        return True
    # The socket alone would do, were it not for a copy of its other end in a fork of the mesh.
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(mesh_fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if channel.fileno() in ready:
            word = _receive(channel, plugins)
            if word in (b"", b"."):
                # Sent home too early, it still kills what it was given to watch.
                return word == b"" or bool(plugins)
        elif os.getppid() != mesh:
            return True


def _receive(channel: socket.socket, plugins: dict[int, int]) -> bytes:
    descriptors = array.array("i")
    word, ancillary, _, _ = channel.recvmsg(64, socket.CMSG_SPACE(descriptors.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    if word[:1] == b"+" and descriptors:
        plugins[int(word[1:])] = descriptors[0]
    elif word[:1] == b"-":
        pidfd = plugins.pop(int(word[1:]), None)
        if pidfd is not None:
            os.close(pidfd)
    return word


def _kill_group(pid: int, pidfd: int) -> None:
    """Kill a group whose leader still lives, which keeps its number from being another's.

    A leader that has changed its user may be out of our reach while others of its group are not.
    """
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except PermissionError:
        pass
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _kill_cgroups(folder: str) -> None:
    """Kill all that is in the mesh's cgroups; the next mesh removes those."""
    for entry in os.scandir(folder):
        if entry.name.startswith("meshtrio-"):
            with contextlib.suppress(OSError), open(f"{entry.path}/cgroup.kill", "w") as file:
                file.write("1")


def sweep(mark: bytes) -> set[int]:
    """Kill what has a variable that begins with `mark` in its environment; gives their pids.

    Those are children of a plugin that changed their group or lost their leader, and a plugin that
    was started in the instant before its pidfd was handed over.
    """
    killed: set[int] = set()
    for _ in range(_SWEEPS):
        found = [pid for pid in _processes() if _carries(pid, mark)]
        if not found:
            break
        for pid in found:
            with contextlib.suppress(OSError):
                if _kill_carrier(pid, mark):
                    killed.add(pid)
        time.sleep(_SWEEP_PAUSE)
    return killed


def _kill_carrier(pid: int, mark: bytes) -> bool:
    """Kill a process if it is still the one that was found, and say if so. Raises OSError."""
    pidfd = os.pidfd_open(pid)
    try:
        if not _carries(pid, mark):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    finally:
        os.close(pidfd)


def _processes() -> list[int]:
    """All that /proc lists. In bytes, as all of /proc is: its entries need not be UTF-8."""
    return [int(name) for name in os.listdir(b"/proc") if name.isdigit()]


def _carries(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(entry.startswith(mark) for entry in file.read().split(b"\0"))
    except OSError:
        return False


if __name__ == "__main__":
    main()
