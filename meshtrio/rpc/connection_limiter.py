"""How many connections a server has, and of whom."""

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
from meshtrio.rpc.connection_reserve import MESH_SLOT, ConnectionReserve
from meshtrio.transport.peer import Peer, peer_of
from meshtrio.util.token_bucket import TokenBucket

_log = logging.getLogger("meshtrio.rpc")

DESCRIPTORS_FRACTION = 0.4
"""Of those this process may have open: a mesh has two servers, and needs some for itself."""
_OTHER_USERS_FRACTION = 0.5
"""Of all connections, for other users of this machine than ours and root, taken together."""
_MAX_REJECTING = 64
"""Rejected connections that are kept at once until the client has read why."""
_REJECT_TIMEOUT = 1.0
"""Seconds for which one of them is kept."""
_MAX_DISCARDED_SIZE = 64 * 1024
"""Bytes that one of them may send before it is closed anyway."""

LimitKey = tuple[str, str]
"""A kind of peer, and which one of that kind."""
_ALL_CLIENTS: LimitKey = ("all", "clients")
_OTHER_USERS: LimitKey = ("other", "users")
_RESERVE_KIND = "reserve"


class TooManyConnectionsError(Exception):
    """A limit on connections is reached; the text names it, for the client that is rejected."""


class ConnectionLimiter:
    """Counts connections, and limits those of one peer and those of all.

    A peer is a process on a Unix socket, or a user if that is another than this process's and
    root; a client certificate, once the TLS handshake has shown one; and else a host. Until its
    handshake is done a TLS connection counts for its host, so that a host's handshakes are limited
    as well, and no longer than that: a host may have many clients.
    """

    def __init__(self, limits: Limits) -> None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            descriptors = limits.max_connections * 3
        allowed = int(descriptors * DESCRIPTORS_FRACTION)
        self._max_connections = min(limits.max_connections, allowed)
        self._max_connections_setting = "max_connections"
        if allowed < limits.max_connections:
            self._max_connections_setting = f"the limit of {descriptors} file descriptors"
        self._max_per_peer = min(limits.max_connections_per_peer, self._max_connections)
        self._counts: Counter[LimitKey] = Counter()
        self._log_bucket = TokenBucket(1, 1)
        self._rejections_in_progress = 0
        self._reserve = ConnectionReserve()

    def admit(
        self,
        sock: socket.socket,
        *,
        trusted_pid: int | None = None,
        out_of_descriptors: bool = False,
    ) -> list[LimitKey]:
        """Count an accepted connection in; gives what to count it out with.

        `trusted_pid` is the mesh, which is never rejected; see `reserve`. If the process is
        `exhausted`, there are places in the reserve only. Raises TooManyConnectionsError if a limit
        is reached, and OSError if it is gone already.
        """
        peer = peer_of(sock) if sock.family == socket.AF_UNIX else None
        found = _limit_keys(sock, peer)
        if peer is not None and self._reserve.is_mesh(peer, trusted_pid):
            found.append(MESH_SLOT)
        else:
            self._check_limit(found[0])
            try:
                self._check_shared_limits(found[1:], out_of_descriptors)
            except TooManyConnectionsError:
                place = None if peer is None else self._reserve.admit(peer, self._counts[found[0]])
                if place is None:
                    raise
                found.append(place)
        self._counts.update(found)
        return found

    def _check_shared_limits(self, keys: list[LimitKey], out_of_descriptors: bool) -> None:
        if out_of_descriptors:
            text = "too many connections: the server has no file descriptors left"
            raise TooManyConnectionsError(text)
        for who in keys:
            self._check_limit(who)

    def admit_certificate(
        self, tls: ssl.SSLObject, peer: Peer, keys: list[LimitKey]
    ) -> list[LimitKey]:
        """Count a connection for its client certificate instead of its host, if it has one.

        Gives what to count it out with. Raises TooManyConnectionsError; `found` then still counts.
        """
        certificate = tls.getpeercert(binary_form=True)
        if certificate is None:
            return keys
        name = ", ".join(peer.subject_attributes or peer.subject_alt_names) or "without a name"
        who = ("certificate", f"{name} (SHA-256 {hashlib.sha256(certificate).hexdigest()[:16]})")
        self._check_limit(who)
        self.release(keys)
        keys = [who, *(each for each in keys if each[0] != "host")]
        self._counts.update(keys)
        return keys

    def _check_limit(self, key: LimitKey) -> None:
        most, setting = self._limit_for(key)
        if self._counts[key] < most:
            return
        if self._log_bucket.try_acquire(trio.current_time()):
            text = "connection limit reached for %s %s: %d (%s); rejecting further ones"
            _log.warning(text, *key, most, setting)
        kind = "in all" if key == _ALL_CLIENTS else f"of one {key[0]}"
        kind = "of other users" if key == _OTHER_USERS else kind
        raise TooManyConnectionsError(
            f"too many connections: the server accepts {most} {kind} ({setting})"
        )

    def _limit_for(self, key: LimitKey) -> tuple[int, str]:
        if key == _ALL_CLIENTS:
            return self._max_connections, self._max_connections_setting
        if key == _OTHER_USERS:
            return int(
                self._max_connections * _OTHER_USERS_FRACTION
            ), f"half of {self._max_connections_setting}"
        if self._max_per_peer == self._max_connections:
            return self._max_connections, self._max_connections_setting
        return self._max_per_peer, "max_connections_per_peer"

    def release(self, keys: list[LimitKey]) -> None:
        self._counts.subtract(keys)
        for who in keys:
            if who[0] == _RESERVE_KIND:
                self._reserve.release(who)
            if not self._counts[who]:
                del self._counts[who]

    def reject_now(self, sock: socket.socket, reason: str, *, encrypted: bool) -> None:
        """Send why it is rejected, as far as that goes out at once, and close."""
        with sock, contextlib.suppress(OSError):
            if not encrypted:
                sock.setblocking(False)
                sock.send(_rejection_frames(reason))

    async def reject(self, sock: socket.socket, reason: str, *, encrypted: bool) -> None:
        """Tell an accepted client why it is rejected, and close.

        Closing a TCP socket that has unread bytes discards what the client has not read yet, so
        this waits a moment for the client to close. One that is to speak TLS is just closed: its
        client would take what is sent here for a broken handshake.
        """
        if encrypted or self._rejections_in_progress >= _MAX_REJECTING:
            self.reject_now(sock, reason, encrypted=encrypted)
            return
        self._rejections_in_progress += 1
        try:
            with trio.socket.from_stdlib_socket(sock) as peer, contextlib.suppress(OSError):
                with trio.move_on_after(_REJECT_TIMEOUT):
                    await peer.send(_rejection_frames(reason))
                    peer.shutdown(socket.SHUT_WR)
                    ignored = 0
                    while ignored < _MAX_DISCARDED_SIZE and (
                        data := await peer.recv(_MAX_DISCARDED_SIZE)
                    ):
                        ignored += len(data)
        finally:
            self._rejections_in_progress -= 1


def _limit_keys(sock: socket.socket, peer: Peer | None) -> list[LimitKey]:
    """All that a connection counts as, the peer itself first."""
    if peer is None:
        return [("host", sock.getpeername()[0]), _ALL_CLIENTS]
    if peer.uid in (0, os.geteuid()):
        return [("process", str(peer.pid)), _ALL_CLIENTS]
    return [("user", str(peer.uid)), _OTHER_USERS, _ALL_CLIENTS]


def _rejection_frames(reason: str) -> bytes:
    goaway = frames.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, reason.encode())
    return frames.settings({}) + goaway
