"""One attempt of a call: a stream on a connection that was picked for it, and what came of it."""

from __future__ import annotations

import math
from functools import partial
from time import time
from typing import Any

import purerpc
import trio

from meshtrio.client.call_destination import (
    DEFAULT_PICK_ARGS,
    CallDestination,
    CallOptions,
    PickArgs,
    PickResult,
)
from meshtrio.client.call_status import attempt_status_for
from meshtrio.client.request_headers import (
    build_attempt_fields,
    encode_attempt_headers,
    fit_header_list,
    request_header_list_size,
    with_hash_key,
)
from meshtrio.client.retry.policy import PUSHBACK_KEY, Pushback, parse_pushback
from meshtrio.errors import ConnectionLostError, PluginDiedError
from meshtrio.grpc.compression import IDENTITY
from meshtrio.grpc.metadata import Metadata, get_metadata_value
from meshtrio.grpc.status import CANCELLED, DEADLINE_EXCEEDED, DEADLINE_TOLERANCE, CallStatus
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.hpack.codec import HeaderBlock
from meshtrio.rpc.errors import error_for_call
from meshtrio.rpc.message_limits import MessageLimits
from meshtrio.rpc.method import Message, Method
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import AttemptTracer
from meshtrio.rpc.tracer_dispatch import notify_tracer
from meshtrio.util.trio_check import require_trio

_DEADLINE_STATUSES = (purerpc.StatusCode.DEADLINE_EXCEEDED, purerpc.StatusCode.CANCELLED)
"""Statuses with which servers end a call at its deadline: by their own answer, or by a reset."""


class Attempt:
    """One stream of a call: opened on a picked connection, ended whatever happens."""

    __slots__ = (
        "_channel",
        "_deadline",
        "_failure_status",
        "_holds_slot",
        "_is_compressed",
        "_method",
        "_result_reported",
        "_tracer",
        "pick_result",
        "stream",
    )

    def __init__(
        self,
        channel: CallDestination,
        pick_result: PickResult,
        stream: Stream,
        method: Method,
        deadline: float,
        *,
        is_compressed: bool,
        tracer: AttemptTracer | None = None,
        message_limits: MessageLimits | None = None,
    ) -> None:
        if message_limits is not None:
            stream.message_limits = message_limits
        self._channel = channel
        self._is_compressed = is_compressed
        self._method = method
        self._deadline = deadline
        self._result_reported = not channel.wants_results
        self._holds_slot = channel.limits_in_flight
        self._tracer = tracer
        self._failure_status: CallStatus | None = None
        """What it failed with, as the watch is to be told."""
        self.pick_result = pick_result
        self.stream = stream

    @classmethod
    async def open(
        cls,
        channel: CallDestination,
        method: Method,
        method_headers: HeaderBlock,
        options: CallOptions,
        *,
        previous_attempts: int = 0,
        pick_args: PickArgs = DEFAULT_PICK_ARGS,
        tracer: AttemptTracer | None = None,
        message_limits: MessageLimits | None = None,
    ) -> Attempt:
        """Wait for a ready endpoint with room and open a stream there; nothing is written yet.

        `previous`: attempts of the same call that went before this one. `watch` is told how it
        ends, where it never gets that far, too. `limits`: those of the call's messages, where the
        connection's are not to hold.
        """
        deadline = math.inf
        try:
            until = trio.current_effective_deadline()
            if until == -math.inf:  # Its caller is cancelled.
                await trio.lowlevel.checkpoint()
            deadline = until
            fields = build_attempt_fields(channel, options, previous_attempts, tracer, deadline)
            if channel.hash_header is not None:
                pick_args = with_hash_key(pick_args, channel.hash_header, channel, options)
            ready = channel.try_pick(pick_args)
            target = ready or await channel.pick(pick_args)
            size, traced = request_header_list_size(method_headers, fields, tracer), tracer
            while True:
                if size > target.connection.engine.max_send_header_list_size:
                    fields, traced = fit_header_list(
                        target, method_headers, fields, options, tracer
                    )
                if channel.limits_in_flight and target.connection.has_stream_slot:
                    channel.acquire_slot()
                head = method_headers.data + encode_attempt_headers(deadline, fields, traced)
                stream = target.connection.open_stream(head)
                if stream is not None:
                    break
                # The place that was waited for is used before anything else is awaited, so that no
                # waiter is left asleep beside a free place.
                await target.connection.wait_for_stream_slot()
                if not target.connection.is_usable:
                    target = await channel.pick(pick_args)
        except BaseException as exc:
            _on_open_failure(tracer, exc, deadline)
            raise
        stream.owner = channel
        channel.call_counters.last_started = target.connection.counters.last_started = time()
        compressed = options.compression != IDENTITY
        attempt = cls(
            channel,
            target,
            stream,
            method,
            deadline,
            is_compressed=compressed,
            tracer=tracer,
            message_limits=message_limits,
        )
        if tracer is not None and tracer.wants_pick_events:
            stream.path = method.path
            placed = partial(tracer.endpoint_picked, was_delayed=target is not ready)
            notify_tracer(method.path, placed, attempt)
        return attempt

    async def receive(self) -> Any:
        """Take the next reply, None after the last if the call succeeded, else raise its status."""
        try:
            data = await self.stream.receive()
            if data is None:
                self._raise_for_status()
                return None
        except purerpc.RpcFailedError as exc:
            raise await self._translate_failure(exc) from None
        return self._parse_reply(data)

    async def receive_single(self) -> Any:
        """Take the one reply of a call that has one."""
        try:
            data, count = await self.stream.receive_single()
            if self.stream.remote_closed:
                self._raise_for_status()
        except purerpc.RpcFailedError as exc:
            raise await self._translate_failure(exc) from None
        if data is None or count != 1:
            # statuscodes.md, "Response cardinality violation".
            raise purerpc.UnimplementedError(
                f"the call succeeded with {count} replies instead of one"
            )
        return self._parse_reply(data)

    async def _translate_failure(self, failure: purerpc.RpcFailedError) -> Exception:
        """Give what the caller is to catch for a call that failed.

        An answer that the server gave at the caller's own deadline may arrive a moment before that
        deadline passes here. It then waits for the caller's cancel scope, so that
        `trio.move_on_after` moves on and `trio.fail_after` raises TooSlowError.
        """
        if failure.status.status_code in _DEADLINE_STATUSES:
            until = trio.current_effective_deadline()
            if until - trio.current_time() < DEADLINE_TOLERANCE:
                await trio.sleep_until(until)
        self._report_result(success=False)
        self._failure_status = failure.status.status_code.value, failure.status.status_message
        if isinstance(failure, ConnectionLostError):
            explained = await self._channel.describe_failure(self.pick_result, failure)
            if self._tracer is not None and isinstance(explained, PluginDiedError):
                notify_tracer(self._method.path, self._tracer.process_exited, explained.launch_id)
            return explained
        return failure  # type: ignore[no-any-return]  # purerpc has no types

    def _parse_reply(self, data: bytes) -> Any:
        try:
            return self._method.response_type.FromString(data)
        except Exception as exc:
            raise purerpc.InternalError(f"a reply cannot be parsed: {exc}") from exc

    async def send(
        self, message: Message, *, compress: bool = True, end_stream: bool = False
    ) -> None:
        """Send a request, or learn that the call is over: `receive` then says how.

        When cancelled, the call is cancelled with it: part of the message may have gone out.
        """
        data = message.SerializeToString()
        compressed = self._is_compressed and compress
        try:
            await self.stream.send(data, compressed=compressed, end_stream=end_stream)
        except purerpc.RpcFailedError as exc:
            if not self.stream.send_closed:
                # The message was refused here; the call has no more use.
                self.stream.fail(exc)
                self.end()
                raise
        except trio.Cancelled:
            self.end()
            raise

    def _raise_for_status(self) -> None:
        trailers = self.stream.trailers
        if trailers is None or trailers.code:
            raise error_for_call(self.stream.headers, trailers)
        if not self._result_reported:
            self._report_result(success=True)

    # -- what becomes of it ------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Of the endpoint it went to."""
        return (
            ""
            if self.pick_result.channel_endpoint is None
            else str(self.pick_result.channel_endpoint.endpoint.address)
        )

    @property
    def is_committed(self) -> bool:
        """The reply has begun, so the call may not be made again (gRFC A6)."""
        head = self.stream.headers
        return head is not None and head.trailers is None

    @property
    def pushback(self) -> float | Pushback:
        """What the server says of another attempt."""
        return parse_pushback(get_metadata_value(PUSHBACK_KEY, self.trailing_metadata or ()))

    @property
    def initial_metadata(self) -> Metadata | None:
        return None if self.stream.headers is None else self.stream.headers.metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        return None if self.stream.trailers is None else self.stream.trailers.metadata

    def end(self) -> None:
        """Cancel the call where it is not over; never blocks, and may be repeated."""
        if (
            not self._result_reported
            and not self.stream.send_closed
            and trio.current_time() >= self._deadline
        ):
            # Its caller gave it all the time there was.
            self._report_result(success=False)
        watch, self._tracer = self._tracer, None
        outcome = None if watch is None else self._final_status()
        self.stream.reset(ErrorCode.CANCEL)
        if self._holds_slot:
            self._holds_slot = False
            self._channel.release_slot()
        if watch is not None:
            notify_tracer(self._method.path, watch.attempt_ended, outcome, self.stream)

    def _final_status(self) -> CallStatus:
        stream = self.stream
        if self._failure_status is not None:
            return self._failure_status
        if stream.trailers is not None:
            return stream.trailers.code, stream.trailers.message
        late = trio.current_time() >= self._deadline
        if stream.error is not None:
            outcome = attempt_status_for(stream.error, self._deadline)
            # A server that goes by the same deadline may have reset the stream before we could.
            if not late or outcome[0] != CANCELLED:
                return outcome
        if late:
            return DEADLINE_EXCEEDED, "the caller's deadline passed"
        return CANCELLED, "the caller cancelled the call"

    def _report_result(self, *, success: bool) -> None:
        if not self._result_reported:
            self._result_reported = True
            self._channel.report_result(self.pick_result, success=success)


def _on_open_failure(tracer: AttemptTracer | None, failure: BaseException, deadline: float) -> None:
    """It has not found an endpoint. Raises UsageError if it was not called in trio."""
    if tracer is not None:
        notify_tracer(
            "an attempt", tracer.attempt_ended, attempt_status_for(failure, deadline), None
        )
    if isinstance(failure, RuntimeError):
        require_trio("a method of a stub")  # Here it costs calls nothing.
