"""meshtrio.v1.Tap: the calls that a server serves, as they end, for who wants to watch."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import purerpc
import trio

from meshtrio.contract import MESH_FORWARDED
from meshtrio.messages import tap
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.meter import Meter
from meshtrio.rpc.observe import (
    UNKNOWN,
    Outcome,
    ServerObserver,
    ServerWatch,
)
from meshtrio.rpc.seam import Method, Request
from meshtrio.rpc.server import Server
from meshtrio.rpc.stream import Stream
from meshtrio.services.journal import Journal
from meshtrio.telemetry.logs.trace_ids import current_ids
from meshtrio.texts import whole
from meshtrio.wire.heads import RequestHead

_KEPT = 1000
"""Calls that wait to be told: who reads more slowly is told how many he missed."""
_REST = 0.05
"""Seconds between two lots of calls."""
_LONGEST_MESSAGE = 500


class TapServicer:
    """Tells of the calls of one server, until it is about to stop."""

    def __init__(self, server: Server, stopped: trio.Event) -> None:
        self._server = server
        self._stopped = stopped
        self.service = service_of(tap.DESCRIPTOR.services_by_name["Tap"], self)

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802 - the method's name
        tapped = _Tapped(request.method, failed=request.failed, at_least=request.at_least)
        with self._server.observed_by(tapped):
            # That it is being watched now.
            yield tap.EndedCalls()
            position = 0
            while not self._stopped.is_set():
                with trio.move_on_after(1.0):
                    await tapped.journal.wait(position)
                found, missed = tapped.journal.after(position)
                if found:
                    position = tapped.journal.end
                    yield tap.EndedCalls(calls=[call for _, call in found], missed=missed)
                    await trio.sleep(_REST)
        raise purerpc.UnavailableError("the server is shutting down")


class _Tapped(ServerObserver):
    """Keeps the calls that one watcher wants to see."""

    def __init__(self, method: str, *, failed: bool, at_least: float) -> None:
        self.journal: Journal[Any] = Journal(_KEPT)
        self._method = method
        self._failed = failed
        self._at_least = at_least

    def begin(self, request: Request, method: Method, stream: Stream) -> ServerWatch:
        if not Meter.counts(method.service) or not method.path[1:].startswith(self._method):
            return _UNWATCHED
        return _Watched(self, request, method, stream)

    def refused(self, head: RequestHead, outcome: Outcome) -> None:
        """No handler had it: there is no latency to tell, and anybody may send anything."""

    def keep(
        self,
        request: Request,
        method: Method,
        stream: Stream,
        seconds: float,
        outcome: Outcome,
    ) -> None:
        code, message = outcome
        if (self._failed and not code) or seconds < self._at_least:
            return
        metadata = dict(request.custom_metadata)
        trace_id, _ = current_ids()
        self.journal.append(
            tap.EndedCall(
                time=time.time(),
                method=method.path[1:],
                seconds=seconds,
                status=code if 0 <= code < 2**31 else UNKNOWN,
                message=whole(message[:_LONGEST_MESSAGE]),
                peer=str(request.peer),
                forwarded_for=str(metadata.get(MESH_FORWARDED, "")),
                received=stream.received_size,
                sent=stream.sent_size,
                trace_id=trace_id,
            )
        )


class _Watched(ServerWatch):
    __slots__ = ("_began", "_method", "_request", "_stream", "_tapped")

    def __init__(self, tapped: _Tapped, request: Request, method: Method, stream: Stream) -> None:
        self._tapped = tapped
        self._request = request
        self._method = method
        self._stream = stream
        self._began = perf_counter()

    def ended(self, outcome: Outcome) -> None:
        seconds = perf_counter() - self._began
        self._tapped.keep(self._request, self._method, self._stream, seconds, outcome)


_UNWATCHED = ServerWatch()
