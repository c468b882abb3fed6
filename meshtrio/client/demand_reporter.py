"""Reports of a channel to its mesh that a call waits for a plugin that is started on demand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import purerpc
import trio

from meshtrio.discovery.endpoint import RECONNECT_BACKOFF
from meshtrio.util.shared_rng import RNG


class DemandReporter:
    """Sends one report at a time, in a task that exists only while it is needed."""

    def __init__(self, send: Callable[[], Awaitable[None]]) -> None:
        """`send` is called again if it raises RpcFailedError, except for NotFoundError."""
        self._send = send
        self._nursery: trio.Nursery | None = None
        self._on_failure: Callable[[], None] = lambda: None
        self._is_busy = False
        self._is_wanted = False
        """Whether there is a report that was not sent yet."""

    def start(self, nursery: trio.Nursery, on_failure: Callable[[], None]) -> None:
        """Send reports from now on, in this nursery; `on_failure` is called for each that fails."""
        self._nursery, self._on_failure = nursery, on_failure
        if self._is_wanted:
            self.report()

    def report(self) -> None:
        """Report that a call waits."""
        self._is_wanted = True
        if self._nursery is not None and not self._is_busy:
            self._is_busy = True
            self._nursery.start_soon(self._run)

    async def _run(self) -> None:
        try:
            while self._is_wanted:
                self._is_wanted = False
                await self._send_until_success()
        finally:
            self._is_busy = False

    async def _send_until_success(self) -> None:
        failures = 0
        while True:
            try:
                await self._send()
            except purerpc.NotFoundError:
                return  # If the mesh has the service again, there is another report.
            except purerpc.RpcFailedError:
                failures += 1
                self._on_failure()
                await trio.sleep(RECONNECT_BACKOFF.delay(failures, RNG))
            else:
                return
