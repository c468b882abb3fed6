"""The peer of a connection, as the kernel or TLS identifies it."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

from meshtrio.util.record import FrozenRecord

_UCRED = struct.Struct("3i")
_SO_PEERGROUPS = 59
"""Socket option SO_PEERGROUPS of socket(7), for which Python has no name."""
_SHORT_ATTRIBUTE_NAMES = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
}
_MAX_GROUPS = 256
"""Maximum number of groups that fit into a socket option in Python."""


class Peer(FrozenRecord):
    """The identity of a peer, as far as the kernel or TLS vouches for it."""

    address: str = ""
    """The address `host:port` on TCP, "" on a Unix socket."""
    pid: int | None = None
    """The pid of the process that connected, on a Unix socket (SO_PEERCRED, unix(7))."""
    uid: int | None = None
    """The effective uid of that process when it connected."""
    gid: int | None = None
    """The effective gid of that process when it connected."""
    groups: tuple[int, ...] = ()
    """All groups of that process when it connected, including `gid`."""
    subject: tuple[tuple[str, str], ...] = ()
    """The subject of the client's certificate, as ("commonName", "…"), with mutual TLS."""
    subject_alt_names: tuple[str, ...] = ()
    """The subject alternative names, as "DNS:host" and "URI:spiffe://…"."""

    @property
    def is_own_user_or_root(self) -> bool:
        """Whether it is a process of this process's user, or of root."""
        return self.uid in (0, os.geteuid())

    @property
    def subject_attributes(self) -> tuple[str, ...]:
        """The attributes of the subject with short names: "CN=ops", "O=Example"."""
        return tuple(f"{_SHORT_ATTRIBUTE_NAMES.get(k, k)}={value}" for k, value in self.subject)

    def __str__(self) -> str:
        if self.uid is not None:
            return f"uid {self.uid} (pid {self.pid})"
        return f"{self.address} ({', '.join(self.subject_attributes) or 'without a certificate'})"


def peer_of(sock: socket.socket, certificate: dict[str, Any] | None = None) -> Peer:
    """Return the peer of a connected socket.

    Args:
        sock: The socket.
        certificate: The result of `ssl.SSLObject.getpeercert`, with TLS.

    Raises:
        OSError: The connection is closed.
    """
    if sock.family == socket.AF_UNIX:
        size = _UCRED.size
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, gid = _UCRED.unpack(credentials)
        return Peer(pid=pid, uid=uid, gid=gid, groups=(gid, *_supplementary_groups(sock)))
    host, port = sock.getpeername()[:2]
    certificate = certificate or {}
    return Peer(
        address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        subject=tuple(pair for part in certificate.get("subject", ()) for pair in part),
        subject_alt_names=tuple(f"{k}:{name}" for k, name in certificate.get("subjectAltName", ())),
    )


def _supplementary_groups(sock: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups; none if the kernel does not report them."""
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"{len(groups) // 4}I", groups)
