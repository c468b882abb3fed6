"""Slots above a limit, on connections or on calls, for the mesh and for operators.

A full server must still serve its mesh, whose probes would fail otherwise, and operators, who come
to fix it. The mesh is known by its pid (SO_PEERCRED). A process of the server's own user or of root
counts as an operator while it has next to none of them; one session (setsid(2)), such as a plugin
and all processes that it starts, gets half of these slots.
"""

from __future__ import annotations

import os
from collections import Counter

from meshtrio.transport.peer import Peer

RESERVED_SLOTS = 16
"""Number of slots above the limit, in addition to those of the mesh."""
_MAX_HELD_BY_PROCESS = 4
"""Number of connections or calls from which on a process gets no reserved slot."""
_FOREIGN_NAMESPACE_PID = 0
"""The pid that the kernel reports for processes of another PID namespace."""

ReservedSlot = tuple[str, str]
MESH_SLOT: ReservedSlot = ("reserve", "mesh")
"""The slot of the mesh, which any number of its connections may share."""


class Reserve:
    """Counts the connections or calls that are accepted above a limit."""

    def __init__(self) -> None:
        self._sessions: Counter[ReservedSlot] = Counter()

    @staticmethod
    def is_mesh(peer: Peer, pid: int | None) -> bool:
        """Return whether a peer is the mesh, which may have any number of connections."""
        return bool(pid) and peer.pid == pid and peer.is_own_user_or_root

    def admit(self, peer: Peer, held: int) -> ReservedSlot | None:
        """Take a slot for a process that has `held` already; return None if it gets none."""
        if peer.pid is None or not peer.is_own_user_or_root:
            return None
        slot = ("reserve", _session_id(peer.pid))
        taken, of_session = self._sessions.total(), self._sessions[slot]
        is_full = taken >= RESERVED_SLOTS or of_session >= RESERVED_SLOTS // 2
        has_many = peer.pid != _FOREIGN_NAMESPACE_PID and held >= _MAX_HELD_BY_PROCESS
        if is_full or has_many:
            return None
        self._sessions[slot] += 1
        return slot

    def release(self, slot: ReservedSlot) -> None:
        """Free a slot."""
        self._sessions -= Counter([slot])


def _session_id(pid: int) -> str:
    try:
        return "another namespace" if pid == _FOREIGN_NAMESPACE_PID else str(os.getsid(pid))
    except OSError:
        return "ended"
