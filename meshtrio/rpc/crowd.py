"""How many connections a server has, and of whom."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
from collections import Counter

import trio

from meshtrio.rpc.peer import peer_of
from meshtrio.wire import frames
from meshtrio.wire.budget import Budget
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.limits import Limits

_log = logging.getLogger("meshtrio.rpc")

_PART_OF_DESCRIPTORS = 0.4
"""Of those this process may have open: a mesh has two servers, and needs some for itself."""
_PART_FOR_OTHERS = 0.5
"""Of all connections, for other users of this machine than ours and root, taken together."""


class Crowd:
    """Lets so many in, and so many of one process or host, or of one other user."""

    def __init__(self, limits: Limits) -> None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            descriptors = limits.max_connections * 2
        self._most = min(limits.max_connections, int(descriptors * _PART_OF_DESCRIPTORS))
        self._most_of_one = min(limits.max_connections_per_peer, self._most)
        self._here: Counter[Who] = Counter()
        self._log_budget = Budget(1, 1)

    def enter(self, sock: socket.socket) -> list[Who] | None:
        """Count a connection in; gives what to count it out with, None for one too many."""
        try:
            found = _who(sock)
        except OSError:
            return None  # gone already
        for who in found:
            if self._here[who] >= self._most_for(who):
                if self._log_budget.take(trio.current_time()):
                    _log.warning("too many connections of %s %s: turning some away", *who)
                return None
        self._here.update(found)
        return found

    def _most_for(self, who: Who) -> int:
        if who == _ALL:
            return self._most
        return int(self._most * _PART_FOR_OTHERS) if who == _OTHERS else self._most_of_one

    def leave(self, found: list[Who]) -> None:
        self._here.subtract(found)
        for who in found:
            if not self._here[who]:
                del self._here[who]


Who = tuple[str, object]
_ALL: Who = ("all", "clients")
_OTHERS: Who = ("other", "users")


def _who(sock: socket.socket) -> list[Who]:
    """All that a connection counts as."""
    if sock.family != socket.AF_UNIX:
        return [("host", sock.getpeername()[0]), _ALL]
    peer = peer_of(sock)
    if peer.uid in (0, os.geteuid()):
        return [("process", peer.pid), _ALL]
    return [("user", peer.uid), _OTHERS, _ALL]


_TURNED_AWAY = frames.settings({}) + frames.goaway(
    0, ErrorCode.ENHANCE_YOUR_CALM, b"too many connections"
)


def turn_away(sock: socket.socket) -> None:
    """Say why, as far as that can be said at once, and close."""
    with sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.send(_TURNED_AWAY)
