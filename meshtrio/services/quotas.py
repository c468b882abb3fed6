"""What one user may hold of the mesh's own services, over all connections and processes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

import purerpc

from meshtrio.rpc.peer import Peer
from meshtrio.rpc.reserve import Reserve
from meshtrio.rpc.seam import Request

_Key = tuple[str | int | None, str]
_Counts = Counter[_Key]


def user_of(peer: Peer) -> str:
    """Return what all connections of one user have in common: uid, certificate or host."""
    if peer.uid is not None:
        return f"uid {peer.uid}"
    names = (*peer.attributes, *peer.names)
    return ", ".join(names) if names else peer.address.rpartition(":")[0]


class CallQuota:
    """An interceptor that limits the open calls of each user to each service.

    Each service is counted for itself, so that a flood of watches of the registry leaves room for
    an operator's commands. Calls above the limit may take a place in the service's reserve, so that
    `meshtrio stop` works when another process of the same user has used up all others.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        """`most`: how many calls a user may have open to a service at the time."""
        self._most = most
        self._open: _Counts = Counter()
        """Number of calls by user and service, except for those in the reserves."""
        self._of_process: _Counts = Counter()
        """Number of calls by pid and service."""
        self._reserves: defaultdict[str, Reserve] = defaultdict(Reserve)

    @asynccontextmanager
    async def __call__(self, request: Request) -> AsyncIterator[None]:
        """Count a call during the block. Raises ResourceExhaustedError."""
        with ExitStack() as stack:
            self._enter(stack, request.peer, request.service_name)
            yield

    def _enter(self, stack: ExitStack, peer: Peer, service: str) -> None:
        """Count a call until the stack is closed. Raises ResourceExhaustedError."""
        user, most = user_of(peer), self._most()
        if self._open[user, service] < most:
            _count(stack, self._open, (user, service))
        else:
            reserve = self._reserves[service]
            place = reserve.enter(peer, self._of_process[peer.pid, service])
            if place is None:
                raise purerpc.ResourceExhaustedError(
                    f"{user} has {most} calls open to {service}, as many as [mesh.limits] "
                    "max_calls_per_user allows"
                )
            stack.callback(reserve.leave, place)
        _count(stack, self._of_process, (peer.pid, service))


def _count(stack: ExitStack, counts: _Counts, key: _Key) -> None:
    counts[key] += 1
    stack.callback(_uncount, counts, key)


def _uncount(counts: _Counts, key: _Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
