"""The limit of one user's open calls of the mesh's own services, over all connections."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TypeVar

import attrs
import purerpc

from meshtrio.rpc.connection_limiter import LimitKey, Reserve
from meshtrio.rpc.context import ServerContext
from meshtrio.transport.peer import Peer

K = TypeVar("K")


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
        self.max_calls = max_calls
        self.user_calls: Counter[tuple[str, str]] = Counter()
        """Number of open calls by user and service, except for those in the reserves."""
        self.process_calls: Counter[tuple[int | None, str]] = Counter()
        """Number of open calls by pid and service."""
        self.reserves: defaultdict[str, Reserve] = defaultdict(Reserve)

    def __call__(self, context: ServerContext) -> _CountedCall:
        """Return a context manager that counts a call; entering raises ResourceExhaustedError."""
        return _CountedCall(self, context.peer, context.service_name)


@attrs.define(eq=False)
class _CountedCall:
    """Counts a call during the block. A class, since a generator takes 2 KiB for each open call."""

    _quota: CallQuota
    _peer: Peer
    _service: str
    _slot: LimitKey | None = None
    """The slot of a call that is in the reserve."""

    async def __aenter__(self) -> None:
        quota, service, process = self._quota, self._service, (self._peer.pid, self._service)
        user, max_calls = get_user_key(self._peer), quota.max_calls()
        if quota.user_calls[user, service] < max_calls:
            quota.user_calls[user, service] += 1
        else:
            self._slot = quota.reserves[service].admit(self._peer, quota.process_calls[process])
            if self._slot is None:
                raise purerpc.ResourceExhaustedError(
                    f"{user} has {max_calls} calls open to {service}, the maximum of [mesh.limits] "
                    "max_calls_per_user"
                )
        quota.process_calls[process] += 1

    async def __aexit__(self, *_: object) -> None:
        if self._slot is None:
            _decrement(self._quota.user_calls, (get_user_key(self._peer), self._service))
        else:
            self._quota.reserves[self._service].release(self._slot)
        _decrement(self._quota.process_calls, (self._peer.pid, self._service))


def _decrement(counts: Counter[K], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
