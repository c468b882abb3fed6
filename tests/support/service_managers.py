"""What a service manager gives to a service: a socket for notifications, and listening sockets."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.mesh_processes import MeshProcess, serve_mesh

_TIMEOUT = 60.0
_LAUNCHER = """\
import os, sys
names, fds, command = sys.argv[1], list(map(int, sys.argv[2].split(","))), sys.argv[3:]
kept = [os.dup2(fd, 200 + at) for at, fd in enumerate(fds)]
for at, fd in enumerate(kept):
    os.dup2(fd, 3 + at)
    os.close(fd)
os.environ |= {
    "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names
}
os.execvp(command[0], command)
"""

BLOCKING_MESH = """\
import sys, time
from meshtrio import mesh
from meshtrio.cli import main
from meshtrio.supervisor import events
def block(event):
    if isinstance(event, events.Exited):
        time.sleep(3600)
mesh.log_event = block
sys.argv = ["meshtrio", *sys.argv[sys.argv.index("serve"):]]
main()
"""
"""A program that serves as meshtrio does, and whose loop is stuck once a plugin has exited."""


class NotificationReceiver:
    """The receiving end of NOTIFY_SOCKET, and what has arrived at it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[dict[str, str]] = []
        """The datagrams received so far."""
        self.times: list[float] = []
        """When each was received, in seconds of the monotonic clock."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def receive(self, timeout: float) -> dict[str, str] | None:
        """Return the next datagram; None if none comes in time."""
        self._socket.settimeout(timeout)
        with suppress(TimeoutError):
            lines = self._socket.recv(65536).decode().split("\n")
            self.messages.append(dict(line.split("=", 1) for line in lines))
            self.times.append(time.monotonic())
            return self.messages[-1]
        return None

    def wait_for(self, **assignments: str) -> dict[str, str]:
        """Receive until a datagram has these assignments, the values as prefixes; return it."""
        end = time.monotonic() + _TIMEOUT
        while (left := end - time.monotonic()) > 0:
            found = self.receive(left)
            if found is None:
                break
            if all(found.get(key, "\0").startswith(value) for key, value in assignments.items()):
                return found
        raise AssertionError(f"no {assignments} within {_TIMEOUT} s, but {self.messages}")

    def drain(self) -> None:
        """Receive what is there."""
        while self.receive(0.001) is not None:
            pass

    def states(self) -> list[str]:
        """Return the changes of state that were received, in order."""
        known = ("READY", "RELOADING", "STOPPING")
        return [key for message in self.messages for key in message if key in known]

    def close(self) -> None:
        self._socket.close()


@contextmanager
def notification_receiver(address: str) -> Iterator[NotificationReceiver]:
    receiver = NotificationReceiver(address)
    try:
        yield receiver
    finally:
        receiver.close()


@contextmanager
def serve_mesh_with_sockets(
    folder: Path,
    config: str,
    sockets: Mapping[str, socket.socket] | Sequence[tuple[str, socket.socket]],
    *,
    min_ready: int = 0,
    env: Mapping[str, str] | None = None,
) -> Iterator[MeshProcess]:
    """Serve a config with listening sockets, by name, as systemd passes them."""
    prefix, fds = socket_launcher(sockets)
    with serve_mesh(
        folder, config, min_ready=min_ready, prefix=prefix, env=env, pass_fds=fds
    ) as mesh:
        yield mesh


def socket_launcher(
    sockets: Mapping[str, socket.socket] | Sequence[tuple[str, socket.socket]],
) -> tuple[list[str], list[int]]:
    """Return the start of a command that passes sockets, and the descriptors it has to inherit."""
    pairs = list(sockets.items()) if isinstance(sockets, Mapping) else list(sockets)
    fds = [each.fileno() for _, each in pairs]
    names = ":".join(name for name, _ in pairs)
    return [sys.executable, "-I", "-c", _LAUNCHER, names, ",".join(map(str, fds))], fds


def listen_unix(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(4096)  # Near to the default of systemd.
    return listener


def listen_tcp() -> tuple[socket.socket, int]:
    """Listen on a free port of the loopback interface; return the socket and the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    return listener, listener.getsockname()[1]
