"""The meshtrio.v1.Tap servicer: streams the calls of its own server as they end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.contract import FORWARDED_METADATA_KEY
from meshtrio.grpc.status import UNKNOWN, CallStatus
from meshtrio.messages import tap
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.method import Method
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server import Server
from meshtrio.rpc.stats import LoadRecorder
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import NO_SERVER_CALL_TRACER, ServerCallTracer, ServerTracer
from meshtrio.services.broadcast_log import BroadcastLog
from meshtrio.telemetry.logs.formatters import current_trace_ids
from meshtrio.util.text import replace_surrogates

_MAX_BUFFERED_CALLS = 1000
"""Maximum number of calls that wait for a reader, who gets the number of missed ones."""
_BATCH_INTERVAL = 0.05
"""Seconds between two batches of calls."""
_MAX_MESSAGE_LENGTH = 500
"""Maximum characters of a status message."""


class TapServicer:
    """Streams the calls of one server until its graceful shutdown begins."""

    def __init__(self, server: Server, shutdown_started: trio.Event) -> None:
        self._server = server
        self._shutdown_started = shutdown_started
        self.service = service_from_descriptor(tap.DESCRIPTOR.services_by_name["Tap"], self)

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802 - the method's name
        tracer = _TapTracer(request.method, request.failed, request.at_least)
        with self._server.add_tracer(tracer):
            # Confirms that calls are recorded from now on.
            yield tap.EndedCalls()
            position = 0
            while not self._shutdown_started.is_set():
                with trio.move_on_after(1.0):
                    await tracer.ended_calls.wait_after(position)
                batch, missed = tracer.ended_calls.read_after(position)
                if batch:
                    position = tracer.ended_calls.last_number
                    yield tap.EndedCalls(calls=[call for _, call in batch], missed=missed)
                    await trio.sleep(_BATCH_INTERVAL)
        raise purerpc.UnavailableError("the server is shutting down")


@attrs.define(eq=False)
class _TapTracer(ServerTracer):
    """Records the calls that match the filter of one reader.

    Not calls without a handler: they have no latency, and any client can make them.
    """

    _method: str
    failed_only: bool
    min_seconds: float
    ended_calls: BroadcastLog[Any] = attrs.field(factory=lambda: BroadcastLog(_MAX_BUFFERED_CALLS))

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> ServerCallTracer:
        path = method.path[1:]
        if LoadRecorder.is_counted(method.service) and path.startswith(self._method):
            return _TapCallTracer(self, server_context, path, stream)
        return NO_SERVER_CALL_TRACER


@attrs.define(eq=False)
class _TapCallTracer(ServerCallTracer):
    _tap: _TapTracer
    _context: ServerContext
    _path: str
    _stream: Stream
    _started_at: float = attrs.field(factory=perf_counter)

    def call_ended(self, status: CallStatus) -> None:
        """Record the call if it matches the filter."""
        (code, message), seconds = status, perf_counter() - self._started_at
        if (self._tap.failed_only and not code) or seconds < self._tap.min_seconds:
            return
        metadata = dict(self._context.custom_metadata)
        trace_id, _ = current_trace_ids()
        self._tap.ended_calls.append(
            tap.EndedCall(
                time=time.time(),
                method=self._path,
                seconds=seconds,
                status=code if 0 <= code < 2**31 else UNKNOWN,
                message=replace_surrogates(message[:_MAX_MESSAGE_LENGTH]),
                peer=str(self._context.peer),
                forwarded_for=str(metadata.get(FORWARDED_METADATA_KEY, "")),
                received=self._stream.received_size,
                sent=self._stream.sent_size,
                trace_id=trace_id,
            )
        )
