"""The listening sockets that systemd passes, sd_listen_fds(3): by FileDescriptorName=.

`mesh` is the mesh socket, which has to be bound in the runtime dir; `gateway`, `metrics` and
`dashboard` are TCP sockets, with the ports that the config has for them. A socket that the mesh
does not know or cannot use is an error: its clients would wait for ever.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import attrs

from meshtrio.config import MeshConfig
from meshtrio.config.telemetry import parse_host_port
from meshtrio.runtime_dir.directory import resolve_runtime_dir
from meshtrio.runtime_dir.paths import mesh_socket_path
from meshtrio.systemd.variables import ServiceVariables
from meshtrio.transport.listener import PassedListener, is_listening
from meshtrio.util.address import Address
from meshtrio.util.errors import UsageError
from meshtrio.util.text import escape_unprintable

_log = logging.getLogger("meshtrio.mesh")

_FIRST_FD = 3
_NAMES = ("mesh", "gateway", "metrics", "dashboard")
_UNIX, _TCP = (socket.AF_UNIX,), (socket.AF_INET, socket.AF_INET6)
_KINDS = {_UNIX: "a Unix stream socket", _TCP: "a TCP socket"}
_FAMILIES = {name: _UNIX if name == "mesh" else _TCP for name in _NAMES}


@attrs.define
class PassedSockets:
    """Listening sockets that the mesh uses instead of its own; None for those that it binds."""

    mesh: PassedListener | None = None
    """The mesh socket."""
    gateway: PassedListener | None = None
    """The gateway's port."""
    metrics: PassedListener | None = None
    """The port of the metrics."""
    dashboard: PassedListener | None = None
    """The port of the dashboard."""

    @classmethod
    def adopt(cls, descriptors: Mapping[str, int]) -> PassedSockets:
        """Return those that this process has handed over to itself in an upgrade."""
        return cls(**{name: PassedListener(fileno=each) for name, each in descriptors.items()})

    def descriptors(self) -> dict[str, int]:
        """Return the numbers of the descriptors that are open, by name."""
        found = {name: getattr(self, name) for name in _NAMES}
        return {
            name: sock.fileno()
            for name, sock in found.items()
            if sock is not None and sock.fileno() >= 0
        }

    def check(self, config: MeshConfig) -> None:
        """Check that the sockets are those that the config says.

        A mesh socket whose file is gone is closed, since no client reaches it.

        Raises:
            UsageError: One is bound elsewhere, or the config has none.
        """
        if self.mesh is not None:
            path = mesh_socket_path(resolve_runtime_dir(config))
            _check_path(self.mesh, path)
            if not is_listening(path):
                _log.error(LOST_SOCKET_TEXT, path)
                self.mesh.close()
                self.mesh = None
        if self.gateway is not None:
            listen = config.gateway.listen
            address = None if listen is None else Address.parse(listen)
            _check_port("gateway", self.gateway, "listen in [mesh.gateway]", address)
        if self.metrics is not None:
            metrics = config.telemetry.metrics
            address = None if metrics is None else parse_host_port(metrics)
            _check_port("metrics", self.metrics, "metrics in [mesh.telemetry]", address)
        if self.dashboard is not None:
            address = config.dashboard.address
            _check_port("dashboard", self.dashboard, "listen in [mesh.dashboard]", address)


LOST_SOCKET_TEXT = (
    "the file of systemd's socket at %s was removed, so that no client reaches it; making another. "
    "Restart the .socket unit together with the mesh"
)


def take_sockets(variables: ServiceVariables) -> PassedSockets:
    """Take the passed sockets; what the process starts does not inherit them.

    Raises:
        UsageError: A descriptor is not a listening socket of a known name, or the variables are
            malformed.
    """
    try:
        count, names = variables.passed_descriptors()
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    sockets = PassedSockets()
    for fd in range(_FIRST_FD, _FIRST_FD + count):
        _check_descriptor(fd, count)
        os.set_inheritable(fd, False)
    if count and len(names) != count:
        raise UsageError(
            f"systemd has passed {count} sockets with {len(names)} names (LISTEN_FDNAMES); each "
            f"needs one: FileDescriptorName={', '.join(_NAMES[:-1])} or {_NAMES[-1]}"
        )
    for fd, name in enumerate(names[:count], _FIRST_FD):
        found = _check_socket(fd, name)
        if getattr(sockets, name) is not None:
            raise UsageError(
                f"systemd has passed two sockets with FileDescriptorName={name}; the mesh takes "
                "one. One ListenStream= of a port, without a host, is for IPv4 and IPv6"
            )
        setattr(sockets, name, found)
    return sockets


def _check_descriptor(fd: int, count: int) -> None:
    try:
        mode = os.fstat(fd).st_mode
    except (OSError, OverflowError):
        raise UsageError(f"LISTEN_FDS={count}, but descriptor {fd} is not open") from None
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"LISTEN_FDS={count}, but descriptor {fd} is not a socket")


def _check_socket(fd: int, name: str) -> PassedListener:
    """Return the socket of a descriptor. Raises UsageError if it is not one of that name."""
    shown = escape_unprintable(name[:100])
    if name not in _NAMES:
        raise UsageError(
            f"systemd has passed a socket with FileDescriptorName={shown}, which is unknown; in "
            f"the [Socket] section choose from {', '.join(_NAMES)}"
        )
    found = PassedListener(fileno=fd)
    is_stream = found.type == socket.SOCK_STREAM
    if found.family not in _FAMILIES[name] or not is_stream:
        problem = f"is not {_KINDS[_FAMILIES[name]]}; use ListenStream="
    elif not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        problem = "does not listen; Accept= has to be no"
    else:
        found.setblocking(False)
        return found
    raise UsageError(f"the socket with FileDescriptorName={name} {problem}")


def _check_path(listener: socket.socket, expected: Path) -> None:
    bound = listener.getsockname()
    if not isinstance(bound, str) or not bound.startswith("/"):
        bound = "no path"
    elif os.path.realpath(bound) == os.path.realpath(expected):
        return
    raise UsageError(
        f"the socket with FileDescriptorName=mesh is bound to {escape_unprintable(bound)}, and the "
        f"mesh socket is {escape_unprintable(str(expected))}; use that as ListenStream=, or change "
        "runtime_dir"
    )


def _check_port(name: str, listener: socket.socket, key: str, address: Address | None) -> None:
    port = listener.getsockname()[1]
    where = f"the socket with FileDescriptorName={name} is bound to port {port}"
    if address is None:
        raise UsageError(f"{where}, and the config has no {key}; set it, to this port")
    if address.port not in (0, port):
        raise UsageError(f"{where}, and {key} has port {address.port}; they have to be the same")
