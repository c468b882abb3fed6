"""Limits on the number of connections of a server, in all and per peer, and their rejection."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import resource
import socket
import ssl
from collections import Counter

import trio

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.limits import Limits
from meshtrio.transport.peer import Peer, peer_of
from meshtrio.util.token_bucket import TokenBucket

_log = logging.getLogger("meshtrio.rpc")

DESCRIPTORS_FRACTION = 0.4
"""Fraction of the process's file descriptors that connections may use.

A mesh has two servers, and needs descriptors for itself.
"""
_OTHER_USERS_FRACTION = 0.5
"""Fraction of all connections that other users than the server's own and root may have."""
_MAX_REJECTING = 64
"""Number of rejected connections that are kept open until the client has read the reason."""
_REJECT_TIMEOUT = 1.0
"""Seconds for which a rejected connection is kept open."""
_MAX_DISCARDED = 64 * 1024
"""Size of data, in bytes, after which a rejected connection is closed anyway."""
LimitKey = tuple[str, str]
"""A kind of peer, and its name within that kind."""
_ALL_CLIENTS: LimitKey = ("all", "clients")
_OTHER_USERS: LimitKey = ("other", "users")
_RESERVE_KIND = "reserve"
RESERVED_SLOTS = 16
"""Number of slots above the limit, in addition to those of the mesh."""
_MAX_HELD_BY_PROCESS = 4
"""Number of connections or calls from which on a process gets no reserved slot."""
_FOREIGN_NAMESPACE_PID = 0
"""The pid that the kernel reports for processes of another PID namespace."""

MESH_SLOT: LimitKey = (_RESERVE_KIND, "mesh")
"""The slot of the mesh, which any number of its connections may share."""


class ConnectionRejectedError(Exception):
    """A new connection is rejected; the text, which its client gets, says why."""


class Reserve:
    """Counts the connections or calls that are accepted above a limit.

    A full server must still serve its mesh, whose probes would fail otherwise, and operators, who
    come to fix it. The mesh is known by its pid (SO_PEERCRED). A process of the server's own user
    or of root counts as an operator while it has next to none of them; one session (setsid(2)),
    such as a plugin and all processes that it starts, gets half of these slots.
    """

    def __init__(self) -> None:
        self._sessions: Counter[LimitKey] = Counter()

    @staticmethod
    def is_mesh(peer: Peer, pid: int | None) -> bool:
        """Return whether a peer is the mesh, which may have any number of connections."""
        return bool(pid) and peer.pid == pid and peer.is_own_user_or_root

    def admit(self, peer: Peer, held: int) -> LimitKey | None:
        """Take a slot for a process that has `held` already; return None if it gets none."""
        if peer.pid is None or not peer.is_own_user_or_root:
            return None
        slot = (_RESERVE_KIND, _session_id(peer.pid))
        taken, of_session = self._sessions.total(), self._sessions[slot]
        is_full = taken >= RESERVED_SLOTS or of_session >= RESERVED_SLOTS // 2
        has_many = peer.pid != _FOREIGN_NAMESPACE_PID and held >= _MAX_HELD_BY_PROCESS
        if is_full or has_many:
            return None
        self._sessions[slot] += 1
        return slot

    def release(self, slot: LimitKey) -> None:
        """Free a slot."""
        self._sessions[slot] -= 1
        if self._sessions[slot] <= 0:  # MESH_SLOT is not counted.
            del self._sessions[slot]


def _session_id(pid: int) -> str:
    try:
        return "another namespace" if pid == _FOREIGN_NAMESPACE_PID else str(os.getsid(pid))
    except OSError:
        return "ended"


class ConnectionLimiter:
    """Counts connections, and limits those of each peer and all of them together.

    On a Unix socket a peer is a process, or a user other than the server's own and root. On TCP it
    is a client certificate once the TLS handshake has shown one, and a host otherwise. A TLS
    connection counts for its host only until its handshake is done, because a host may have many
    clients.
    """

    def __init__(self, limits: Limits) -> None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            descriptors = limits.max_connections * 3
        allowed = int(descriptors * DESCRIPTORS_FRACTION)
        maximum, setting = limits.max_connections, "max_connections"
        if allowed < maximum:
            maximum, setting = allowed, f"the limit of {descriptors} file descriptors"
        max_other = int(maximum * _OTHER_USERS_FRACTION)
        self._common_limits = {
            _ALL_CLIENTS: (maximum, setting, "in all"),
            _OTHER_USERS: (max_other, f"half of {setting}", "of other users"),
        }
        """The limits of all peers together: the number, the setting and what it is a number of."""
        self._peer_limit = maximum, setting
        if limits.max_connections_per_peer < maximum:
            self._peer_limit = limits.max_connections_per_peer, "max_connections_per_peer"
        self._counts: Counter[LimitKey] = Counter()
        self._log_bucket = TokenBucket(1, 1)
        self._reserve = Reserve()
        self._rejections_in_progress = 0

    def admit(
        self,
        sock: socket.socket,
        peer: Peer | None = None,
        *,
        trusted_pid: int | None = None,
        out_of_descriptors: bool = False,
    ) -> list[LimitKey]:
        """Count an accepted connection.

        Args:
            sock: The connection's socket.
            peer: Its peer, if the caller has got it already.
            trusted_pid: The pid of the mesh, which is never rejected, see `Reserve`.
            out_of_descriptors: Whether only reserved slots are available.

        Returns:
            The keys to pass to `release`.

        Raises:
            ConnectionRejectedError: A limit is reached.
            OSError: The connection is closed already.
        """
        peer = peer or peer_of(sock)
        keys = _limit_keys(sock, peer)
        if peer.uid is not None and self._reserve.is_mesh(peer, trusted_pid):
            keys.append(MESH_SLOT)
        else:
            self._check_limit(keys[0])
            try:
                if out_of_descriptors:
                    text = "too many connections: the server has no file descriptors left"
                    raise ConnectionRejectedError(text)
                for key in keys[1:]:
                    self._check_limit(key)
            except ConnectionRejectedError:
                slot = self._reserve.admit(peer, self._counts[keys[0]])
                if slot is None:
                    raise
                keys.append(slot)
        self._count(keys)
        return keys

    def admit_certificate(
        self, tls: ssl.SSLObject, peer: Peer, keys: list[LimitKey]
    ) -> list[LimitKey]:
        """Count a connection for its client certificate, if it has one, instead of its host.

        Returns:
            The keys to pass to `release`.

        Raises:
            ConnectionRejectedError: A limit is reached; `keys` remain valid.
        """
        certificate = tls.getpeercert(binary_form=True)
        if certificate is None:
            return keys
        name = ", ".join(peer.subject_attributes or peer.subject_alt_names) or "without a name"
        key = ("certificate", f"{name} (SHA-256 {hashlib.sha256(certificate).hexdigest()[:16]})")
        self._check_limit(key)
        self.release(keys)
        keys = [key, *(each for each in keys if each[0] != "host")]
        self._count(keys)
        return keys

    def _count(self, keys: list[LimitKey]) -> None:
        for key in keys:
            self._counts[key] += 1

    def _check_limit(self, key: LimitKey) -> None:
        one_peer = *self._peer_limit, f"of one {key[0]}"
        limit, setting, kind = self._common_limits.get(key, one_peer)
        if self._counts[key] < limit:
            return
        if self._log_bucket.try_acquire(trio.current_time()):
            text = "connection limit reached for %s %s: %d (%s); rejecting further ones"
            _log.warning(text, *key, limit, setting)
        text = f"the server accepts {limit} {kind} ({setting})"
        raise ConnectionRejectedError(f"too many connections: {text}")

    def release(self, keys: list[LimitKey]) -> None:
        """Count the end of a connection."""
        for key in keys:
            self._counts[key] -= 1
        for key in keys:
            if key[0] == _RESERVE_KIND:
                self._reserve.release(key)
            if not self._counts[key]:
                del self._counts[key]

    async def reject(self, sock: socket.socket, reason: str, *, encrypted: bool) -> None:
        """Send the reason for a rejection in a GOAWAY, and close.

        Closing a TCP socket with unread bytes discards what the client has not read yet, so this
        waits a moment for the client to close. A socket for TLS is closed without a GOAWAY, which
        its client would take for a broken handshake.
        """
        if encrypted or self._rejections_in_progress >= _MAX_REJECTING:
            reject_now(sock, reason, encrypted=encrypted)
            return
        self._rejections_in_progress += 1
        try:
            with trio.socket.from_stdlib_socket(sock) as peer, contextlib.suppress(OSError):
                with trio.move_on_after(_REJECT_TIMEOUT):
                    await peer.send(_rejection_frames(reason))
                    peer.shutdown(socket.SHUT_WR)
                    discarded = 0
                    while discarded < _MAX_DISCARDED and (data := await peer.recv(_MAX_DISCARDED)):
                        discarded += len(data)
        finally:
            self._rejections_in_progress -= 1


def _limit_keys(sock: socket.socket, peer: Peer) -> list[LimitKey]:
    """Return the keys that a connection counts for, the peer itself first."""
    if peer.uid is None:
        return [("host", sock.getpeername()[0]), _ALL_CLIENTS]
    if peer.is_own_user_or_root:
        return [("process", str(peer.pid)), _ALL_CLIENTS]
    return [("user", str(peer.uid)), _OTHER_USERS, _ALL_CLIENTS]


def reject_now(sock: socket.socket, reason: str, *, encrypted: bool) -> None:
    """Send the reason for a rejection as far as that does not block, and close."""
    with sock, contextlib.suppress(OSError):
        if not encrypted:
            sock.setblocking(False)
            sock.send(_rejection_frames(reason))


def _rejection_frames(reason: str) -> bytes:
    goaway = frames.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, reason.encode())
    return frames.settings({}) + goaway
