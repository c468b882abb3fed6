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

from meshtrio.rpc.peer import Peer, peer_of
from meshtrio.rpc.reserve import MESH, Reserve
from meshtrio.wire import frames
from meshtrio.wire.budget import Budget
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.limits import Limits

_log = logging.getLogger("meshtrio.rpc")

PART_OF_DESCRIPTORS = 0.4
"""Of those this process may have open: a mesh has two servers, and needs some for itself."""
_PART_FOR_OTHERS = 0.5
"""Of all connections, for other users of this machine than ours and root, taken together."""
_MAX_REJECTING = 64
"""Rejected connections that are kept at once until the client has read why."""
_REJECT_TIMEOUT = 1.0
"""Seconds for which one of them is kept."""
_MAX_IGNORED = 64 * 1024
"""Bytes that one of them may send before it is closed anyway."""

Who = tuple[str, str]
"""A kind of peer, and which one of that kind."""
_ALL: Who = ("all", "clients")
_OTHERS: Who = ("other", "users")
_RESERVE = "reserve"


class TooManyConnectionsError(Exception):
    """A limit on connections is reached; the text names it, for the client that is rejected."""


class Crowd:
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
        allowed = int(descriptors * PART_OF_DESCRIPTORS)
        self._most = min(limits.max_connections, allowed)
        self._most_setting = "max_connections"
        if allowed < limits.max_connections:
            self._most_setting = f"the limit of {descriptors} file descriptors"
        self._most_of_one = min(limits.max_connections_per_peer, self._most)
        self._here: Counter[Who] = Counter()
        self._log_budget = Budget(1, 1)
        self._rejecting = 0
        self._reserve = Reserve()

    def enter(
        self, sock: socket.socket, *, trusted_pid: int | None = None, exhausted: bool = False
    ) -> list[Who]:
        """Count an accepted connection in; gives what to count it out with.

        `trusted_pid` is the mesh, which is never rejected; see `reserve`. If the process is
        `exhausted`, there are places in the reserve only. Raises TooManyConnectionsError if a limit
        is reached, and OSError if it is gone already.
        """
        peer = peer_of(sock) if sock.family == socket.AF_UNIX else None
        found = _who(sock, peer)
        if peer is not None and self._reserve.is_mesh(peer, trusted_pid):
            found.append(MESH)
        else:
            self._check(found[0])
            try:
                self._check_total(found[1:], exhausted)
            except TooManyConnectionsError:
                place = None if peer is None else self._reserve.enter(peer, self._here[found[0]])
                if place is None:
                    raise
                found.append(place)
        self._here.update(found)
        return found

    def _check_total(self, shared: list[Who], exhausted: bool) -> None:
        if exhausted:
            text = "too many connections: the server has no file descriptors left"
            raise TooManyConnectionsError(text)
        for who in shared:
            self._check(who)

    def enter_certificate(self, tls: ssl.SSLObject, peer: Peer, found: list[Who]) -> list[Who]:
        """Count a connection for its client certificate instead of its host, if it has one.

        Gives what to count it out with. Raises TooManyConnectionsError; `found` then still counts.
        """
        certificate = tls.getpeercert(binary_form=True)
        if certificate is None:
            return found
        name = ", ".join(peer.attributes or peer.names) or "without a name"
        who = ("certificate", f"{name} (SHA-256 {hashlib.sha256(certificate).hexdigest()[:16]})")
        self._check(who)
        self.leave(found)
        found = [who, *(each for each in found if each[0] != "host")]
        self._here.update(found)
        return found

    def _check(self, who: Who) -> None:
        most, setting = self._most_for(who)
        if self._here[who] < most:
            return
        if self._log_budget.take(trio.current_time()):
            text = "connection limit reached for %s %s: %d (%s); rejecting further ones"
            _log.warning(text, *who, most, setting)
        kind = "in all" if who == _ALL else f"of one {who[0]}"
        kind = "of other users" if who == _OTHERS else kind
        raise TooManyConnectionsError(
            f"too many connections: the server accepts {most} {kind} ({setting})"
        )

    def _most_for(self, who: Who) -> tuple[int, str]:
        if who == _ALL:
            return self._most, self._most_setting
        if who == _OTHERS:
            return int(self._most * _PART_FOR_OTHERS), f"half of {self._most_setting}"
        if self._most_of_one == self._most:
            return self._most, self._most_setting
        return self._most_of_one, "max_connections_per_peer"

    def leave(self, found: list[Who]) -> None:
        self._here.subtract(found)
        for who in found:
            if who[0] == _RESERVE:
                self._reserve.leave(who)
            if not self._here[who]:
                del self._here[who]

    def reject_now(self, sock: socket.socket, reason: str, *, encrypted: bool) -> None:
        """Send why it is rejected, as far as that goes out at once, and close."""
        with sock, contextlib.suppress(OSError):
            if not encrypted:
                sock.setblocking(False)
                sock.send(_rejection(reason))

    async def reject(self, sock: socket.socket, reason: str, *, encrypted: bool) -> None:
        """Tell an accepted client why it is rejected, and close.

        Closing a TCP socket that has unread bytes discards what the client has not read yet, so
        this waits a moment for the client to close. One that is to speak TLS is just closed: its
        client would take what is sent here for a broken handshake.
        """
        if encrypted or self._rejecting >= _MAX_REJECTING:
            self.reject_now(sock, reason, encrypted=encrypted)
            return
        self._rejecting += 1
        try:
            with trio.socket.from_stdlib_socket(sock) as peer, contextlib.suppress(OSError):
                with trio.move_on_after(_REJECT_TIMEOUT):
                    await peer.send(_rejection(reason))
                    peer.shutdown(socket.SHUT_WR)
                    ignored = 0
                    while ignored < _MAX_IGNORED and (data := await peer.recv(_MAX_IGNORED)):
                        ignored += len(data)
        finally:
            self._rejecting -= 1


def _who(sock: socket.socket, peer: Peer | None) -> list[Who]:
    """All that a connection counts as, the peer itself first."""
    if peer is None:
        return [("host", sock.getpeername()[0]), _ALL]
    if peer.uid in (0, os.geteuid()):
        return [("process", str(peer.pid)), _ALL]
    return [("user", str(peer.uid)), _OTHERS, _ALL]


def _rejection(reason: str) -> bytes:
    goaway = frames.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, reason.encode())
    return frames.settings({}) + goaway
