"""What one user may hold of the mesh's own services, over all connections and processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import purerpc

from meshtrio.rpc.peer import Peer
from meshtrio.rpc.seam import Request


def user_of(peer: Peer) -> str:
    """Return what all connections of one user have in common: uid, certificate or host."""
    if peer.uid is not None:
        return f"uid {peer.uid}"
    names = (*peer.attributes, *peer.names)
    return ", ".join(names) if names else peer.address.rpartition(":")[0]


class CallQuota:
    """An interceptor that limits the open calls of each user to each service.

    Each service is counted for itself, so that a flood of watches of the registry leaves room for
    an operator's commands.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        """`most`: how many calls a user may have open to a service at the time."""
        self._most = most
        self._open: Counter[tuple[str, str]] = Counter()

    @asynccontextmanager
    async def __call__(self, request: Request) -> AsyncIterator[None]:
        """Count a call during the block. Raises ResourceExhaustedError."""
        key = (user_of(request.peer), request.service_name)
        most = self._most()
        if self._open[key] >= most:
            raise purerpc.ResourceExhaustedError(
                f"{key[0]} has {most} calls open to {key[1]}, as many as [mesh.limits] "
                "max_calls_per_user allows"
            )
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
