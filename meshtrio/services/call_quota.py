"""The limit of one user's open calls of the mesh's own services, over all connections."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import purerpc

from meshtrio.rpc.connection_reserve import MAX_RESERVED_PER_PROCESS, RESERVED_CONNECTIONS
from meshtrio.rpc.context import ServerContext
from meshtrio.transport.peer import Peer


def get_user_key(peer: Peer) -> str:
    """Return a key for the user of a peer: its uid, else its certificate's names, else its host."""
    if peer.uid is not None:
        return f"uid {peer.uid}"
    names = (*peer.subject_attributes, *peer.subject_alt_names)
    return ", ".join(names) if names else peer.address.rpartition(":")[0]


class CallQuota:
    """An interceptor that limits the open calls of each user to each service.

    Each service is counted separately, so that a flood of registry watches leaves room for an
    operator's commands. `RESERVED_CONNECTIONS` calls are reserved for processes of the mesh's own
    user or root that have fewer than `MAX_RESERVED_PER_PROCESS` calls open, as in
    `rpc.connection_reserve`: `meshtrio stop` works even if a program of the same user has used up
    the quota.
    """

    def __init__(self, max_calls: Callable[[], int]) -> None:
        """Initialize the quota; `max_calls` returns the current maximum per user and service."""
        self._max_calls = max_calls
        self._open_calls: Counter[tuple[str | int, str]] = Counter()
        """Number of open calls by (user, service), and by (process id, service)."""

    @asynccontextmanager
    async def __call__(self, request: ServerContext) -> AsyncIterator[None]:
        """Count a call during the block. Raises ResourceExhaustedError."""
        peer, service = request.peer, request.service_name
        user, max_calls = get_user_key(peer), self._max_calls()
        reserved = RESERVED_CONNECTIONS if self._is_operator(peer, service) else 0
        if self._open_calls[user, service] >= max_calls + reserved:
            raise purerpc.ResourceExhaustedError(
                f"{user} has {max_calls} calls open to {service}, the maximum of [mesh.limits] "
                "max_calls_per_user"
            )
        keys: list[tuple[str | int, str]] = [(user, service)]
        if peer.pid is not None:
            keys.append((peer.pid, service))
        self._open_calls.update(keys)
        try:
            yield
        finally:
            self._open_calls.subtract(keys)
            for key in keys:
                if not self._open_calls[key]:
                    del self._open_calls[key]

    def _is_operator(self, peer: Peer, service: str) -> bool:
        """Return whether a call may use the reserve."""
        if peer.pid is None or peer.uid not in (0, os.geteuid()):
            return False
        return self._open_calls[peer.pid, service] < MAX_RESERVED_PER_PROCESS
