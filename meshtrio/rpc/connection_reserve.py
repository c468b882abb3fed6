"""Places for connections that are accepted above the limits on connections.

A full server must still answer its mesh, or it would be taken for dead, and operators, who have
come to do something about it. The mesh is known by its pid (SO_PEERCRED). An operator is taken to
be a process of the server's own user or of root that has next to no connections yet; one session
(setsid(2)), such as that of a plugin and all that it starts, gets half of these places.
"""

from __future__ import annotations

import os
from collections import Counter

from meshtrio.transport.peer import Peer

RESERVED_CONNECTIONS = 16
"""Connections above the limits, in addition to those of the mesh."""
MAX_RESERVED_PER_PROCESS = 4
"""Connections of a process that may be in the reserve as long as it has no more than these."""
_FOREIGN_NAMESPACE_PID = 0
"""The pid that the kernel reports for processes of another PID namespace."""

ReservedSlot = tuple[str, str]
MESH_SLOT: ReservedSlot = ("reserve", "mesh")
"""That of the mesh, of which there are as many as it needs."""


class ConnectionReserve:
    """Counts the connections that are accepted above the limits."""

    def __init__(self) -> None:
        self._sessions: Counter[ReservedSlot] = Counter()

    @staticmethod
    def is_mesh(peer: Peer, pid: int | None) -> bool:
        """Whether a peer is the mesh, which may have any number of connections."""
        return bool(pid) and peer.pid == pid and peer.uid in (0, os.geteuid())

    def admit(self, peer: Peer, connections: int) -> ReservedSlot | None:
        """Take a place for a peer that has so many connections; None if it gets none."""
        if peer.pid is None or peer.uid not in (0, os.geteuid()):
            return None
        place = ("reserve", _session_id(peer.pid))
        is_full = (
            self._sessions.total() >= RESERVED_CONNECTIONS
            or self._sessions[place] >= RESERVED_CONNECTIONS // 2
        )
        has_many = peer.pid != _FOREIGN_NAMESPACE_PID and connections >= MAX_RESERVED_PER_PROCESS
        if is_full or has_many:
            return None
        self._sessions[place] += 1
        return place

    def release(self, slot: ReservedSlot) -> None:
        if slot != MESH_SLOT:
            self._sessions[slot] -= 1
            if not self._sessions[slot]:
                del self._sessions[slot]


def _session_id(pid: int) -> str:
    try:
        return "another namespace" if pid == _FOREIGN_NAMESPACE_PID else str(os.getsid(pid))
    except OSError:
        return "ended"
