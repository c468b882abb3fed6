"""meshtrio.v1.Tap: the calls that a server serves, as they end, for who wants to watch."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import purerpc
import trio

from meshtrio.contract import FORWARDED_METADATA_KEY
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.status import UNKNOWN, CallStatus
from meshtrio.messages import tap
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.method import Method
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server import Server
from meshtrio.rpc.server_load import LoadRecorder
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import ServerCallTracer, ServerTracer
from meshtrio.services.broadcast_log import BroadcastLog
from meshtrio.telemetry.logs.trace_ids import current_trace_ids
from meshtrio.util.text import replace_surrogates

_MAX_BUFFERED_CALLS = 1000
"""Calls that wait to be told: who reads more slowly is told how many he missed."""
_BATCH_INTERVAL = 0.05
"""Seconds between two lots of calls."""
_MAX_MESSAGE_LENGTH = 500


class TapServicer:
    """Tells of the calls of one server, until it is about to stop."""

    def __init__(self, server: Server, shutdown_started: trio.Event) -> None:
        self._server = server
        self._shutdown_started = shutdown_started
        self.service = service_from_descriptor(tap.DESCRIPTOR.services_by_name["Tap"], self)

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802 - the method's name
        tapped = _TapTracer(
            request.method, failed_only=request.failed, min_seconds=request.at_least
        )
        with self._server.add_tracer(tapped):
            # That it is being watched now.
            yield tap.EndedCalls()
            position = 0
            while not self._shutdown_started.is_set():
                with trio.move_on_after(1.0):
                    await tapped.ended_calls.wait_after(position)
                found, missed = tapped.ended_calls.read_after(position)
                if found:
                    position = tapped.ended_calls.last_number
                    yield tap.EndedCalls(calls=[call for _, call in found], missed=missed)
                    await trio.sleep(_BATCH_INTERVAL)
        raise purerpc.UnavailableError("the server is shutting down")


class _TapTracer(ServerTracer):
    """Keeps the calls that one watcher wants to see."""

    def __init__(self, method: str, *, failed_only: bool, min_seconds: float) -> None:
        self.ended_calls: BroadcastLog[Any] = BroadcastLog(_MAX_BUFFERED_CALLS)
        self._method = method
        self._failed_only = failed_only
        self._min_seconds = min_seconds

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> ServerCallTracer:
        if not LoadRecorder.is_counted(method.service) or not method.path[1:].startswith(
            self._method
        ):
            return _NO_CALL_TRACER
        return _TapCallTracer(self, server_context, method, stream)

    def call_rejected(self, headers: RequestHeaders, status: CallStatus) -> None:
        """No handler had it: there is no latency to tell, and anybody may send anything."""

    def record(
        self,
        server_context: ServerContext,
        method: Method,
        stream: Stream,
        seconds: float,
        status: CallStatus,
    ) -> None:
        code, message = status
        if (self._failed_only and not code) or seconds < self._min_seconds:
            return
        metadata = dict(server_context.custom_metadata)
        trace_id, _ = current_trace_ids()
        self.ended_calls.append(
            tap.EndedCall(
                time=time.time(),
                method=method.path[1:],
                seconds=seconds,
                status=code if 0 <= code < 2**31 else UNKNOWN,
                message=replace_surrogates(message[:_MAX_MESSAGE_LENGTH]),
                peer=str(server_context.peer),
                forwarded_for=str(metadata.get(FORWARDED_METADATA_KEY, "")),
                received=stream.received_size,
                sent=stream.sent_size,
                trace_id=trace_id,
            )
        )


class _TapCallTracer(ServerCallTracer):
    __slots__ = ("_method", "_server_context", "_started_at", "_stream", "_tracer")

    def __init__(
        self, tracer: _TapTracer, server_context: ServerContext, method: Method, stream: Stream
    ) -> None:
        self._tracer = tracer
        self._server_context = server_context
        self._method = method
        self._stream = stream
        self._started_at = perf_counter()

    def call_ended(self, status: CallStatus) -> None:
        seconds = perf_counter() - self._started_at
        self._tracer.record(self._server_context, self._method, self._stream, seconds, status)


_NO_CALL_TRACER = ServerCallTracer()
