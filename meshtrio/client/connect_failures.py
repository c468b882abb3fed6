"""Reports of a channel to its mesh that endpoints cannot be connected to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

_MIN_INTERVAL = 1.0
"""Seconds between two reports of a channel; those in between are dropped. A mesh looks a name up no
more often."""
_REPORT_TIMEOUT = 5.0
"""Seconds for a report: a mesh that does not answer is no reason to keep trying."""


class ConnectFailureReporter:
    """Sends one report at a time, in a task that exists only while it is needed."""

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        """`send` is called with the id of an endpoint."""
        self._send = send
        self._nursery: trio.Nursery | None = None
        self._is_busy = False
        self._waiting: str | None = None
        """The id of an endpoint that failed before `start`."""

    def start(self, nursery: trio.Nursery) -> None:
        """Send reports from now on, in this nursery."""
        self._nursery = nursery
        if self._waiting is not None:
            self.report(self._waiting)

    def report(self, endpoint_id: str) -> None:
        """Report an endpoint, unless a report was sent just now."""
        if self._nursery is None:
            self._waiting = endpoint_id
        elif not self._is_busy:
            self._is_busy = True
            self._nursery.start_soon(self._run, endpoint_id)

    async def _run(self, endpoint_id: str) -> None:
        try:
            with trio.move_on_after(_REPORT_TIMEOUT):
                await self._send(endpoint_id)
            await trio.sleep(_MIN_INTERVAL)
        finally:
            self._is_busy = False
