"""One attempt of a call: a stream on the connection that was picked for it."""

from __future__ import annotations

import math
from time import time
from typing import Any

import purerpc
import trio

from meshtrio.client.call_destination import CallContext, attempt_status_for, cancellation_status
from meshtrio.client.channel_endpoint import CallTracker, PickResult
from meshtrio.client.request_headers import (
    add_hash_key,
    build_attempt_fields,
    encode_attempt_headers,
)
from meshtrio.client.retry.policy import PUSHBACK_KEY, parse_pushback
from meshtrio.errors import ConnectionLostError, PluginDiedError
from meshtrio.grpc.framing import IDENTITY, MessageData
from meshtrio.grpc.metadata import Metadata, get_metadata_value
from meshtrio.grpc.status import CANCELLED, DEADLINE_TOLERANCE, CallStatus
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.hpack.decoder import HeaderField
from meshtrio.rpc.errors import error_for_call, status_of_error
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import AttemptTracer
from meshtrio.rpc.tracer_dispatch import notify_tracer, start_tracer
from meshtrio.rpc.write_buffer import MessageBatch
from meshtrio.util.concurrency import require_trio
from meshtrio.util.message_buffers import MESSAGE_BUFFERS

_DEADLINE_STATUSES = (purerpc.StatusCode.DEADLINE_EXCEEDED, purerpc.StatusCode.CANCELLED)
"""Statuses with which servers end a call at its deadline, by trailers or by RST_STREAM."""

# Module constants, since looking them up elsewhere takes longer.
_CANCEL = ErrorCode.CANCEL
_INFINITE, _PAST = math.inf, -math.inf


class Attempt:
    """One stream of a call. The code that opens it calls `end`."""

    __slots__ = (
        "_call",
        "_call_tracker",
        "_deadline",
        "_failure_status",
        "_success",
        "_tracer",
        "pick_result",
        "stream",
    )

    def __init__(
        self,
        call: CallContext,
        pick_result: PickResult,
        stream: Stream,
        deadline: float,
        tracer: AttemptTracer | None,
    ) -> None:
        self._call = call
        self.pick_result = pick_result
        self.stream = stream
        self._deadline = deadline
        self._tracer = tracer
        self._call_tracker = pick_result.call_tracker
        self._success: bool | None = None
        """Outcome for the call tracker; None until it is known."""
        self._failure_status: CallStatus | None = None
        """Status reported to the tracer, if it differs from that of the stream."""

    @classmethod
    async def open(cls, call: CallContext) -> Attempt:
        """Pick a connection and open a stream on it.

        Nothing is written yet, except for a request that `ClientConnection.try_start_unary` sends.

        Raises:
            RpcFailedError: No endpoint was picked, or the request headers are too large.
            UsageError: Not called from trio.
        """
        channel = call.channel
        picker, tracer = channel.picker, None
        if call.tracer is not None:
            start, kind = call.tracer.start_attempt, call.attempt_kind
            tracer = start_tracer(start, AttemptTracer, kind, call.previous_attempts)
        deadline = _INFINITE
        try:
            effective_deadline = trio.current_effective_deadline()
            if effective_deadline == _PAST:  # The caller is cancelled.
                await trio.lowlevel.checkpoint()
            deadline = effective_deadline
            fields = build_attempt_fields(call, tracer, deadline)
            pick_args = call.pick_args if channel.hash_header is None else add_hash_key(call)
            ready = picker.try_pick(pick_args)
            picked = ready or await picker.pick(pick_args)
            while (stream := _open_stream(call, picked, fields, deadline, tracer)) is None:
                # A slot that was waited for is used without another checkpoint: the connection
                # wakes one waiter for each slot.
                await picked.connection.wait_for_stream_slot()
                if not picked.connection.is_usable:
                    picked = await picker.pick(pick_args)
        except BaseException as exc:
            if tracer is not None:
                status = attempt_status_for(exc, deadline)
                notify_tracer("an attempt", tracer.attempt_ended, status, None)
            if isinstance(exc, RuntimeError):
                require_trio("a method of a stub")  # Here, where it costs other calls nothing.
            raise
        if call.message_limits is not None:
            stream.message_limits = call.message_limits
        stream.owner = channel
        channel.call_counters.last_started = picked.connection.counters.last_started = time()
        attempt = cls(call, picked, stream, deadline, tracer)
        if tracer is not None and tracer.wants_pick_events:
            path = stream.path = call.method.path
            was_delayed = picked is not ready
            notify_tracer(path, tracer.endpoint_picked, attempt.address, stream, was_delayed)
        return attempt

    # -- messages ----------------------------------------------------------------------------

    def try_send(self, data: bytes, batch: MessageBatch | None) -> bool:
        """Send a serialized request if that needs no wait; see `Stream.try_send`."""
        return self._call.options.compression == IDENTITY and self.stream.try_send(
            data, batch=batch
        )

    async def send(self, data: bytes, *, compress: bool = True, end_stream: bool = False) -> None:
        """Send a serialized request; dropped if the call is over, whose status `receive` raises.

        Raises:
            RpcFailedError: The message is too large. The attempt has been ended.

        Cancellation: ends the attempt, since part of the message may have been sent.
        """
        compressed = compress and self._call.options.compression != IDENTITY
        try:
            await self.stream.send(data, compressed=compressed, end_stream=end_stream)
        except purerpc.RpcFailedError as exc:
            if not self.stream.send_closed:
                self.stream.fail(exc)
                self.end()
                raise
        except trio.Cancelled:
            self.end()
            raise

    async def exchange(self) -> Any:
        """Send the call's only request, unless it was sent already, and return the only reply.

        Raises:
            RpcFailedError: The call failed, or had another number of replies than one.
        """
        stream, call = self.stream, self._call
        if not stream.request_sent:
            request, compressed = call.request, call.is_compressed
            assert request is not None
            try:
                if compressed or not stream.try_send(request, end_stream=True):
                    await stream.send(request, compressed=compressed, end_stream=True)
            except purerpc.RpcFailedError as exc:
                if not stream.send_closed:
                    stream.fail(exc)
                    raise
        try:
            reply, count = await stream.receive_single()
            if stream.remote_closed:
                trailers = stream.trailers
                if trailers is None or trailers.code:
                    raise error_for_call(stream.headers, trailers)
                self._success = True
        except purerpc.RpcFailedError as exc:
            raise await self._translate_failure(exc) from None
        if reply is None or count != 1:
            # statuscodes.md, "Response cardinality violation".
            text = f"the call succeeded with {count} replies instead of one"
            raise purerpc.UnimplementedError(text)
        return self._parse(reply)

    def try_receive(self) -> Any:
        """Return the next reply if that needs no wait, else None; see `Stream.try_receive`.

        Raises:
            InternalError: The reply cannot be parsed.
        """
        data = self.stream.try_receive()
        return None if data is None else self._parse(data)

    def _parse(self, data: MessageData) -> Any:
        try:
            parse = self._call.method.response_type.FromString
            return MESSAGE_BUFFERS.parse(parse, data) if type(data) is bytearray else parse(data)
        except Exception as exc:
            raise purerpc.InternalError(f"a reply cannot be parsed: {exc}") from exc

    async def receive(self) -> Any:
        """Return the next reply, or None after the last.

        Raises:
            RpcFailedError: The call failed.
        """
        try:
            data = await self.stream.receive()
            if data is None:
                trailers = self.stream.trailers
                if trailers is None or trailers.code:
                    raise error_for_call(self.stream.headers, trailers)
                self._success = True
                return None
        except purerpc.RpcFailedError as exc:
            raise await self._translate_failure(exc) from None
        return self._parse(data)

    # -- status ------------------------------------------------------------------------------

    async def _translate_failure(self, failure: purerpc.RpcFailedError) -> Exception:
        """Return the error to raise for a call that failed.

        A server may report the caller's own deadline a moment before it passes here. Waiting for
        it lets `trio.move_on_after` move on and `trio.fail_after` raise TooSlowError.
        """
        if failure.status.status_code in _DEADLINE_STATUSES:
            deadline = trio.current_effective_deadline()
            if deadline - trio.current_time() < DEADLINE_TOLERANCE:
                await trio.sleep_until(deadline)
        if self._success is None:
            self._success = False
        self._failure_status = status_of_error(failure)
        if isinstance(failure, ConnectionLostError):
            error = await self._call.channel.describe_failure(self.pick_result, failure)
            if self._tracer is not None and isinstance(error, PluginDiedError):
                path = self._call.method.path
                notify_tracer(path, self._tracer.process_exited, error.launch_id)
            return error
        return failure  # type: ignore[no-any-return]  # purerpc has no types

    @property
    def address(self) -> str:
        """Address of the endpoint."""
        return self.pick_result.channel_endpoint.endpoint.address

    @property
    def is_committed(self) -> bool:
        """Whether response headers have arrived, so that the call is not retried (gRFC A6)."""
        headers = self.stream.headers
        return headers is not None and headers.trailers is None

    @property
    def pushback(self) -> float | None:
        """The server's `grpc-retry-pushback-ms` in seconds; None if it has sent none."""
        return parse_pushback(get_metadata_value(PUSHBACK_KEY, self.trailing_metadata or ()))

    @property
    def initial_metadata(self) -> Metadata | None:
        """Metadata of the response headers, None until they arrive."""
        return None if self.stream.headers is None else self.stream.headers.metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        """Metadata of the trailers, None until they arrive."""
        return None if self.stream.trailers is None else self.stream.trailers.metadata

    # -- ending ------------------------------------------------------------------------------

    def end(self) -> None:
        """Reset the stream unless it has ended. Never blocks; idempotent."""
        if self._call_tracker is not None:
            self._finish_tracking(self._call_tracker)
        tracer = self._tracer
        if tracer is None:
            self.stream.reset(_CANCEL)
            return
        self._tracer = None
        status = self._final_status()
        self.stream.reset(_CANCEL)
        notify_tracer(self._call.method.path, tracer.attempt_ended, status, self.stream)

    def _finish_tracking(self, call_tracker: CallTracker) -> None:
        self._call_tracker = None
        is_open = self._success is None and not self.stream.send_closed
        if is_open and trio.current_time() >= self._deadline:
            self._success = False  # The endpoint took longer than the caller's deadline.
        call_tracker.on_finish(success=self._success)

    def _final_status(self) -> CallStatus:
        stream = self.stream
        if self._failure_status is not None:
            return self._failure_status
        if stream.trailers is not None:
            return stream.trailers.code, stream.trailers.message
        if stream.error is not None:
            status = attempt_status_for(stream.error, self._deadline)
            # At the deadline, the server may have reset the stream before this side could.
            if status[0] != CANCELLED or trio.current_time() < self._deadline:
                return status
        return cancellation_status(self._deadline)


def _open_stream(
    call: CallContext,
    picked: PickResult,
    fields: list[HeaderField],
    deadline: float,
    tracer: AttemptTracer | None,
) -> Stream | None:
    """Open a stream with the call's headers, and send the only request if that needs no wait.

    Returns None if the connection has no free slot.
    """
    connection = picked.connection
    try:
        block = encode_attempt_headers(connection, call, fields, tracer, deadline)
        request = call.request
        if request is None and call.message is not None:
            request = call.request = call.message.SerializeToString()
        if picked.call_tracker is not None and connection.has_stream_slot:
            picked.call_tracker.on_start()
    except Exception:
        connection.notify_stream_slot()  # Another call may wait for it.
        raise
    stream = None
    if request is not None and tracer is None and call.message_limits is None:
        stream = None if call.is_compressed else connection.try_start_unary(block, request)
    if stream is None:
        stream = connection.open_stream(Stream, block)
    return stream
