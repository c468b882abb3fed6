"""Who is at the other end of a connection."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any

import attrs

_UCRED = struct.Struct("3i")
_SO_PEERGROUPS = 59
"""Of socket(7); Python has no name for it."""
_SHORT_ATTRIBUTE_NAMES = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
}
_MAX_GROUPS = 256
"""As many as Python takes of a socket option."""


@attrs.frozen
class Peer:
    """As far as the kernel or TLS vouches for it."""

    address: str = ""
    """`host:port` on TCP, "" on a Unix socket."""
    pid: int | None = None
    """Of the process that connected; with `uid` and `gid`, on a Unix socket (unix(7))."""
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    """All that it was in when it connected, `gid` too."""
    subject: tuple[tuple[str, str], ...] = ()
    """Of the client's certificate: ("commonName", "…") and the like; with mutual TLS."""
    subject_alt_names: tuple[str, ...] = ()
    """The subject's alternative names, as "DNS:host" and "URI:spiffe://…"."""

    @property
    def subject_attributes(self) -> tuple[str, ...]:
        """Of the subject, with their short names: "CN=ops", "O=Example"."""
        return tuple(
            f"{_SHORT_ATTRIBUTE_NAMES.get(key, key)}={value}" for key, value in self.subject
        )

    def __str__(self) -> str:
        if self.uid is not None:
            return f"uid {self.uid} (pid {self.pid})"
        return f"{self.address} ({', '.join(self.subject_attributes) or 'without a certificate'})"


def peer_of(sock: socket.socket, certificate: dict[str, Any] | None = None) -> Peer:
    """Look at a connected socket, and at what `SSLObject.getpeercert` gave."""
    if sock.family == socket.AF_UNIX:
        size = _UCRED.size
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, gid = _UCRED.unpack(found)
        return Peer(pid=pid, uid=uid, gid=gid, groups=(gid, *_supplementary_groups(sock)))
    host, port = sock.getpeername()[:2]
    certificate = certificate or {}
    return Peer(
        address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        subject=tuple(pair for part in certificate.get("subject", ()) for pair in part),
        subject_alt_names=tuple(
            f"{kind}:{name}" for kind, name in certificate.get("subjectAltName", ())
        ),
    )


def _supplementary_groups(sock: socket.socket) -> tuple[int, ...]:
    """The supplementary groups; none where the kernel does not tell, or there are too many."""
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"{len(found) // 4}I", found)


def session_parent_pid() -> int:
    """Find the process that has started this one's session: the mesh, in one of its plugins.

    A mesh starts each plugin in a session of its own, whose first process may be a shell that has
    started this one.
    """
    try:
        stat = Path(f"/proc/{os.getsid(0)}/stat").read_bytes()
        # The name, in parentheses, may contain anything.
        return int(stat.rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return os.getppid()
