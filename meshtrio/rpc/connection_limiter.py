"""Limits on the number of connections of a server, in all and per peer."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import socket
import ssl
from collections import Counter

import trio

from meshtrio.http2.limits import Limits
from meshtrio.rpc.reserve import MESH_SLOT, Reserve
from meshtrio.transport.peer import Peer, peer_of
from meshtrio.util.token_bucket import TokenBucket

_log = logging.getLogger("meshtrio.rpc")

DESCRIPTORS_FRACTION = 0.4
"""Fraction of the process's file descriptors that connections may use.

A mesh has two servers, and needs descriptors for itself.
"""
_OTHER_USERS_FRACTION = 0.5
"""Fraction of all connections that other users than the server's own and root may have."""
LimitKey = tuple[str, str]
"""A kind of peer, and its name within that kind."""
_ALL_CLIENTS: LimitKey = ("all", "clients")
_OTHER_USERS: LimitKey = ("other", "users")
_RESERVE_KIND = "reserve"


class TooManyConnectionsError(Exception):
    """A limit on connections is reached; the text, which the rejected client gets, names it."""


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
        self._max_connections = min(limits.max_connections, allowed)
        self._max_connections_setting = "max_connections"
        if allowed < limits.max_connections:
            self._max_connections_setting = f"the limit of {descriptors} file descriptors"
        self._max_per_peer = min(limits.max_connections_per_peer, self._max_connections)
        self._counts: Counter[LimitKey] = Counter()
        self._log_bucket = TokenBucket(1, 1)
        self._reserve = Reserve()

    def admit(
        self,
        sock: socket.socket,
        *,
        trusted_pid: int | None = None,
        out_of_descriptors: bool = False,
    ) -> list[LimitKey]:
        """Count an accepted connection.

        Args:
            sock: The connection's socket.
            trusted_pid: The pid of the mesh, which is never rejected, see `Reserve`.
            out_of_descriptors: Whether only reserved slots are available.

        Returns:
            The keys to pass to `release`.

        Raises:
            TooManyConnectionsError: A limit is reached.
            OSError: The connection is closed already.
        """
        peer = peer_of(sock) if sock.family == socket.AF_UNIX else None
        keys = _limit_keys(sock, peer)
        if peer is not None and self._reserve.is_mesh(peer, trusted_pid):
            keys.append(MESH_SLOT)
        else:
            self._check_limit(keys[0])
            try:
                self._check_shared_limits(keys[1:], out_of_descriptors)
            except TooManyConnectionsError:
                slot = None if peer is None else self._reserve.admit(peer, self._counts[keys[0]])
                if slot is None:
                    raise
                keys.append(slot)
        self._counts.update(keys)
        return keys

    def _check_shared_limits(self, keys: list[LimitKey], out_of_descriptors: bool) -> None:
        if out_of_descriptors:
            text = "too many connections: the server has no file descriptors left"
            raise TooManyConnectionsError(text)
        for key in keys:
            self._check_limit(key)

    def admit_certificate(
        self, tls: ssl.SSLObject, peer: Peer, keys: list[LimitKey]
    ) -> list[LimitKey]:
        """Count a connection for its client certificate, if it has one, instead of its host.

        Returns:
            The keys to pass to `release`.

        Raises:
            TooManyConnectionsError: A limit is reached; `keys` remain valid.
        """
        certificate = tls.getpeercert(binary_form=True)
        if certificate is None:
            return keys
        name = ", ".join(peer.subject_attributes or peer.subject_alt_names) or "without a name"
        key = ("certificate", f"{name} (SHA-256 {hashlib.sha256(certificate).hexdigest()[:16]})")
        self._check_limit(key)
        self.release(keys)
        keys = [key, *(each for each in keys if each[0] != "host")]
        self._counts.update(keys)
        return keys

    def _check_limit(self, key: LimitKey) -> None:
        limit, setting = self._limit_for(key)
        if self._counts[key] < limit:
            return
        if self._log_bucket.try_acquire(trio.current_time()):
            text = "connection limit reached for %s %s: %d (%s); rejecting further ones"
            _log.warning(text, *key, limit, setting)
        kind = "in all" if key == _ALL_CLIENTS else f"of one {key[0]}"
        kind = "of other users" if key == _OTHER_USERS else kind
        raise TooManyConnectionsError(
            f"too many connections: the server accepts {limit} {kind} ({setting})"
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
        """Count the end of a connection."""
        self._counts.subtract(keys)
        for key in keys:
            if key[0] == _RESERVE_KIND:
                self._reserve.release(key)
            if not self._counts[key]:
                del self._counts[key]


def _limit_keys(sock: socket.socket, peer: Peer | None) -> list[LimitKey]:
    """Return the keys that a connection counts for, the peer itself first."""
    if peer is None:
        return [("host", sock.getpeername()[0]), _ALL_CLIENTS]
    if peer.uid in (0, os.geteuid()):
        return [("process", str(peer.pid)), _ALL_CLIENTS]
    return [("user", str(peer.uid)), _OTHER_USERS, _ALL_CLIENTS]
