"""Limits the queries of all names together."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

QUERY_TIMEOUT = 5.0
"""Seconds for the answer to one query, from all name servers together."""
MAX_QUERIES_PER_SECOND = 50.0
"""Queries per second of all names together, about 0.5 ms of a core each."""
_QUERY_BURST = 100
"""Queries that may be sent at once."""
_MAX_CONCURRENT_QUERIES = 32
"""Queries that wait for an answer, each of which has a socket."""


class QueryLimiter:
    """Limits the queries that wait for an answer, and those per second."""

    def __init__(self) -> None:
        self._concurrent = trio.CapacityLimiter(_MAX_CONCURRENT_QUERIES)
        self._next_query = -math.inf

    @asynccontextmanager
    async def query(self) -> AsyncIterator[None]:
        """Wait until a query may be sent; the block is the query."""
        at = max(self._next_query, trio.current_time() - _QUERY_BURST / MAX_QUERIES_PER_SECOND)
        self._next_query = at + 1 / MAX_QUERIES_PER_SECOND
        await trio.sleep_until(at)
        async with self._concurrent:
            yield
