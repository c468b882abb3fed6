"""Places above a limit, on connections or on calls, for the mesh and for operators.

A full server must still answer its mesh, or it would be taken for dead, and operators, who have
come to do something about it. The mesh is known by its pid (SO_PEERCRED). An operator is taken to
be a process of the server's own user or of root that has next to none of them yet; one session
(setsid(2)), such as that of a plugin and all that it starts, gets half of these places.
"""

from __future__ import annotations

import os
from collections import Counter

from meshtrio.rpc.peer import Peer

RESERVED = 16
"""Number of places above the limit, in addition to those of the mesh."""
_MAX_OF_PROCESS = 4
"""Number of connections or calls with which a process gets no more of them from the reserve."""
_ANOTHER_NAMESPACE = 0
"""The pid that the kernel reports for processes of another PID namespace."""

Place = tuple[str, str]
MESH: Place = ("reserve", "mesh")
"""That of the mesh, of which there are as many as it needs."""


class Reserve:
    """Counts the connections or calls that are accepted above a limit."""

    def __init__(self) -> None:
        self._sessions: Counter[Place] = Counter()

    @staticmethod
    def is_mesh(peer: Peer, pid: int | None) -> bool:
        """Whether a peer is the mesh, which may have any number of connections."""
        return bool(pid) and peer.pid == pid and peer.uid in (0, os.geteuid())

    def enter(self, peer: Peer, held: int) -> Place | None:
        """Take a place for a process that has `held` of them already; None if it gets none."""
        if peer.pid is None or peer.uid not in (0, os.geteuid()):
            return None
        place = ("reserve", _session_of(peer.pid))
        is_full = self._sessions.total() >= RESERVED or self._sessions[place] >= RESERVED // 2
        has_many = peer.pid != _ANOTHER_NAMESPACE and held >= _MAX_OF_PROCESS
        if is_full or has_many:
            return None
        self._sessions[place] += 1
        return place

    def leave(self, place: Place) -> None:
        if place != MESH:
            self._sessions[place] -= 1
            if not self._sessions[place]:
                del self._sessions[place]


def _session_of(pid: int) -> str:
    try:
        return "another namespace" if pid == _ANOTHER_NAMESPACE else str(os.getsid(pid))
    except OSError:
        return "ended"
