"""How many connections a server has, and of whom."""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
from collections import Counter
from collections.abc import Hashable

import trio

from meshtrio.rpc.peer import peer_of
from meshtrio.wire import frames
from meshtrio.wire.budget import Budget
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.limits import Limits

_log = logging.getLogger("meshtrio.rpc")

_PART_OF_DESCRIPTORS = 0.75
"""Of those this process may have open: it needs some for itself."""


class Crowd:
    """Lets so many in, and so many of one process or host."""

    def __init__(self, limits: Limits) -> None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            descriptors = limits.max_connections * 2
        self._most = min(limits.max_connections, int(descriptors * _PART_OF_DESCRIPTORS))
        self._most_of_one = min(limits.max_connections_per_peer, self._most)
        self._here: Counter[Hashable] = Counter()
        self._count = 0
        self._log_budget = Budget(1, 1)

    def enter(self, sock: socket.socket) -> Hashable | None:
        """Count a connection in; gives what to count it out with, None for one too many."""
        try:
            who = _who(sock)
        except OSError:
            return None  # gone already
        full = self._count >= self._most
        if full or self._here[who] >= self._most_of_one:
            if self._log_budget.take(trio.current_time()):
                whose = "" if full else f" of {who[0]} {who[1]}"
                _log.warning("too many connections%s: turning further ones away", whose)
            return None
        self._here[who] += 1
        self._count += 1
        return who

    def leave(self, who: Hashable) -> None:
        self._count -= 1
        self._here[who] -= 1
        if not self._here[who]:
            del self._here[who]


def _who(sock: socket.socket) -> tuple[str, object]:
    if sock.family == socket.AF_UNIX:
        return "process", peer_of(sock).pid
    return "host", sock.getpeername()[0]


_TURNED_AWAY = frames.settings({}) + frames.goaway(
    0, ErrorCode.ENHANCE_YOUR_CALM, b"too many connections"
)


def turn_away(sock: socket.socket) -> None:
    """Say why, as far as that can be said at once, and close."""
    with sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.send(_TURNED_AWAY)
