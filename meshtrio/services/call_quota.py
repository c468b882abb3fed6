"""The limit of one user's open calls of the mesh's own services, over all connections."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import purerpc

from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.reserve import Reserve, ReservedSlot
from meshtrio.transport.peer import Peer

_Key = tuple[str | int | None, str]
_Counts = Counter[_Key]


def get_user_key(peer: Peer) -> str:
    """Return a key for the user of a peer: its uid, else its certificate's names, else its host."""
    if peer.uid is not None:
        return f"uid {peer.uid}"
    names = (*peer.subject_attributes, *peer.subject_alt_names)
    return ", ".join(names) if names else peer.address.rpartition(":")[0]


class CallQuota:
    """An interceptor that limits the open calls of each user to each service.

    Each service is counted separately, so that a flood of registry watches leaves room for an
    operator's commands. Calls above the limit may take a slot of the service's reserve: `meshtrio
    stop` works even if another process of the same user has used up the quota.
    """

    def __init__(self, max_calls: Callable[[], int]) -> None:
        """Initialize the quota; `max_calls` returns the current maximum per user and service."""
        self._max_calls = max_calls
        self._user_calls: _Counts = Counter()
        """Number of open calls by user and service, except for those in the reserves."""
        self._process_calls: _Counts = Counter()
        """Number of open calls by pid and service."""
        self._reserves: defaultdict[str, Reserve] = defaultdict(Reserve)

    def __call__(self, context: ServerContext) -> _CountedCall:
        """Return a context manager that counts a call; entering raises ResourceExhaustedError."""
        return _CountedCall(self, context.peer, context.service_name)

    def admit(self, peer: Peer, service: str) -> ReservedSlot | None:
        """Count a call; return its slot if it is in the reserve.

        Raises:
            ResourceExhaustedError: The user has too many calls open.
        """
        user, max_calls = get_user_key(peer), self._max_calls()
        slot = None
        if self._user_calls[user, service] < max_calls:
            self._user_calls[user, service] += 1
        else:
            slot = self._reserves[service].admit(peer, self._process_calls[peer.pid, service])
            if slot is None:
                raise purerpc.ResourceExhaustedError(
                    f"{user} has {max_calls} calls open to {service}, the maximum of [mesh.limits] "
                    "max_calls_per_user"
                )
        self._process_calls[peer.pid, service] += 1
        return slot

    def release(self, peer: Peer, service: str, slot: ReservedSlot | None) -> None:
        """Stop counting a call, for which `admit` has returned `slot`."""
        if slot is None:
            _decrement(self._user_calls, (get_user_key(peer), service))
        else:
            self._reserves[service].release(slot)
        _decrement(self._process_calls, (peer.pid, service))


class _CountedCall:
    """Counts a call during the block. A class, since a generator takes 2 KiB for each open call."""

    __slots__ = ("_peer", "_quota", "_service", "_slot")

    def __init__(self, quota: CallQuota, peer: Peer, service: str) -> None:
        self._quota = quota
        self._peer = peer
        self._service = service
        self._slot: ReservedSlot | None = None

    async def __aenter__(self) -> None:
        self._slot = self._quota.admit(self._peer, self._service)

    async def __aexit__(self, *_: object) -> None:
        self._quota.release(self._peer, self._service, self._slot)


def _decrement(counts: _Counts, key: _Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
