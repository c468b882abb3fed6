"""GET /api/NAME: replies of Control as JSON.

Pages ask for the same again and again, and there may be many of them: a reply is used for all who
ask within half a second, and a call that is under way is shared.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import attrs
import purerpc
import trio

from meshtrio.dashboard.control_client import ControlClient, to_refusal
from meshtrio.dashboard.json_messages import message_to_plain, to_json
from meshtrio.dashboard.query import parse_query
from meshtrio.dashboard.requests_check import RefusedError

_REPLY_TIMEOUT = 30.0
_CACHE_TTL = 0.5
_MAX_CACHED_SIZE = 512 * 1024
"""Maximum size in bytes of a reply that is kept for those who ask later."""
_MAX_CACHED = 32
_MAX_CALLS = 8
"""Maximum number of concurrent calls, for all viewers."""


@attrs.frozen
class _Read:
    """What a name stands for."""

    method: str
    fields: tuple[str, ...] = ()
    """Fields of the request that a query may have."""
    items: str = ""
    """For a method that streams replies: the key under which they are listed."""


_READS = {
    "instances": _Read("ListInstances", ("names",)),
    "tree": _Read("GetTree"),
    "statistics": _Read("GetStatistics"),
    "services": _Read("ListServiceStates", ("services",)),
    "nodes": _Read("ListNodes"),
    "execution": _Read("GetExecution"),
    "log-levels": _Read("GetLogLevels", ("names",)),
    "config": _Read("GetConfig", ("defaults",)),
    "history": _Read("GetHistory", ("names", "since", "before")),
    "events": _Read("WatchEvents", ("names", "last"), "events"),
}


class ControlApi:
    """Answers the requests of all viewers."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client
        self._limiter = trio.CapacityLimiter(_MAX_CALLS)
        self._replies: dict[tuple[str, str], _SharedReply] = {}

    async def read(self, name: str, query: str) -> bytes:
        """Return a reply as JSON. Raises RefusedError."""
        read = _READS.get(name)
        if read is None:
            raise RefusedError(404, "NOT_FOUND", f"no such data; choose from {', '.join(_READS)}")
        values = parse_query(query)
        request = self._client.make_request(read.method, dict(values), read.fields)

        async def make() -> bytes:
            with trio.move_on_after(_REPLY_TIMEOUT):
                async with self._limiter:
                    return await self._call(read, request)
            text = f"the mesh did not answer within {_REPLY_TIMEOUT:g} s"
            raise RefusedError(504, "DEADLINE_EXCEEDED", text)

        now = trio.current_time()
        self._replies = {
            key: each for key, each in self._replies.items() if each.is_shared or each.expires > now
        }
        key = name, repr(sorted(values.items()))
        if key not in self._replies and len(self._replies) >= _MAX_CACHED:
            return await make()
        return await self._replies.setdefault(key, _SharedReply()).get(make)

    def forget(self) -> None:
        """Forget all replies, since something has been changed."""
        self._replies = {}

    async def _call(self, read: _Read, request: object) -> bytes:
        if not read.items:
            return to_json(message_to_plain(await self._client.call(read.method, request)))
        try:
            async with self._client.open_stream(read.method, request) as call:
                return to_json({read.items: [message_to_plain(each) async for each in call]})
        except purerpc.RpcFailedError as exc:
            raise to_refusal(exc) from None


class _SharedReply:
    """A reply for those who ask for the same at about the same time."""

    def __init__(self) -> None:
        self.expires = -math.inf
        self._lock = trio.Lock()
        self._data = b""

    @property
    def is_shared(self) -> bool:
        """Whether a call is under way."""
        return self._lock.locked()

    async def get(self, make: Callable[[], Awaitable[bytes]]) -> bytes:
        async with self._lock:
            if self.expires > trio.current_time():
                return self._data
            data = await make()
            is_kept = len(data) <= _MAX_CACHED_SIZE or self._lock.statistics().tasks_waiting
            self._data = data if is_kept else b""
            self.expires = trio.current_time() + _CACHE_TTL if is_kept else -math.inf
            return data
