"""What one user may hold of the mesh's own services, over all connections and processes."""

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
    """Return what all connections of one user have in common: uid, certificate or host."""
    if peer.uid is not None:
        return f"uid {peer.uid}"
    names = (*peer.subject_attributes, *peer.subject_alt_names)
    return ", ".join(names) if names else peer.address.rpartition(":")[0]


class CallQuota:
    """An interceptor that limits the open calls of each user to each service.

    Each service is counted for itself, so that a flood of watches of the registry leaves room for
    an operator's commands. In addition there are `RESERVED_CONNECTIONS` places for calls of
    processes of the mesh's own user or root that have fewer than `MAX_RESERVED_PER_PROCESS`, as
    `rpc.reserve` has them for connections: `meshtrio stop` works when a program of the same user
    has used up all others.
    """

    def __init__(self, max_calls: Callable[[], int]) -> None:
        """`most`: how many calls a user may have open to a service at the time."""
        self._max_calls = max_calls
        self._open_calls: Counter[tuple[str | int, str]] = Counter()
        """Calls by user and service, and by process and service."""

    @asynccontextmanager
    async def __call__(self, request: ServerContext) -> AsyncIterator[None]:
        """Count a call during the block. Raises ResourceExhaustedError."""
        peer, service = request.peer, request.service_name
        user, most = get_user_key(peer), self._max_calls()
        reserved = RESERVED_CONNECTIONS if self._is_operator(peer, service) else 0
        if self._open_calls[user, service] >= most + reserved:
            raise purerpc.ResourceExhaustedError(
                f"{user} has {most} calls open to {service}, as many as [mesh.limits] "
                "max_calls_per_user allows"
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
        """Whether a call may take a reserved place."""
        if peer.pid is None or peer.uid not in (0, os.geteuid()):
            return False
        return self._open_calls[peer.pid, service] < MAX_RESERVED_PER_PROCESS
