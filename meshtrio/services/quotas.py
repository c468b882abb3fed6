"""What one user may hold of the mesh's own services, over all connections and processes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import purerpc

from meshtrio.rpc.peer import Peer
from meshtrio.rpc.reserve import Place, Reserve
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

    def __call__(self, request: Request) -> _CountedCall:
        """Return a context manager that counts a call. Entering raises ResourceExhaustedError."""
        return _CountedCall(self, request.peer, request.service_name)

    def enter(self, peer: Peer, service: str) -> Place | None:
        """Count a call; returns its place if it is in the reserve.

        Raises ResourceExhaustedError.
        """
        user, most = user_of(peer), self._most()
        place = None
        if self._open[user, service] < most:
            self._open[user, service] += 1
        else:
            place = self._reserves[service].enter(peer, self._of_process[peer.pid, service])
            if place is None:
                raise purerpc.ResourceExhaustedError(
                    f"{user} has {most} calls open to {service}, as many as [mesh.limits] "
                    "max_calls_per_user allows"
                )
        self._of_process[peer.pid, service] += 1
        return place

    def leave(self, peer: Peer, service: str, place: Place | None) -> None:
        """End what `enter` counted, with what it returned."""
        if place is None:
            _decrement(self._open, (user_of(peer), service))
        else:
            self._reserves[service].leave(place)
        _decrement(self._of_process, (peer.pid, service))


class _CountedCall:
    """Counts a call during the block. A class, since a generator takes 2 KB for each open call."""

    __slots__ = ("_peer", "_place", "_quota", "_service")

    def __init__(self, quota: CallQuota, peer: Peer, service: str) -> None:
        self._quota = quota
        self._peer = peer
        self._service = service
        self._place: Place | None = None

    async def __aenter__(self) -> None:
        self._place = self._quota.enter(self._peer, self._service)

    async def __aexit__(self, *_: object) -> None:
        self._quota.leave(self._peer, self._service, self._place)


def _decrement(counts: _Counts, key: _Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
