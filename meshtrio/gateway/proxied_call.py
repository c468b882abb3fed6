"""One proxied call, from its request headers to its status.

A call normally has no task: what arrives on one stream is written to the other by the read loop of
the connection. A task is started only to wait for an endpoint, to retry a refused call, and to wait
for the exit info of a plugin. The states are in `call_state`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import time
from typing import Protocol

import attrs
import purerpc
import trio

from meshtrio.client.channel import Channel
from meshtrio.client.channel_endpoint import DEFAULT_PICK_ARGS, PickArgs, PickResult
from meshtrio.client.retry.policy import RetryState
from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.gateway import call_state
from meshtrio.gateway.call_state import CallEvent, CallState
from meshtrio.gateway.proxied_streams import MAX_SMALL_CHUNK, DownstreamStream
from meshtrio.gateway.route import Route, fit_trailers, rewrite_response_headers, rewrite_trailers
from meshtrio.gateway.upstream_stream import UpstreamStream
from meshtrio.grpc import status
from meshtrio.grpc.header_builder import build_response_headers
from meshtrio.grpc.headers import RequestHeaders, ResponseHeaders, Trailers
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.errors import error_for_call, status_of_error
from meshtrio.rpc.rejection import encode_server_status
from meshtrio.rpc.server_connection import ServerConnection
from meshtrio.rpc.write_buffer import HIGH_WATER
from meshtrio.telemetry.metrics.call_metrics import GatewayMetrics
from meshtrio.telemetry.metrics.call_recorder import CallRecorder

_PICKING, _REPLAYABLE = CallState.PICKING, CallState.REPLAYABLE
_COMMITTED, _FLUSHING, _CLOSED = CallState.COMMITTED, CallState.FLUSHING, CallState.CLOSED
# Globals, as attribute access on an enum class takes 0.2 us in Python 3.11.
_DEFAULT_RESPONSE_HEADERS = build_response_headers(content_type=b"application/grpc")
MAX_UNREAD_SIZE = 8 * 1024 * 1024
"""Maximum bytes that wait for a client that does not read."""


class ChannelProvider(Protocol):
    """What a proxied call needs of the router."""

    call_metrics: GatewayMetrics | None
    """The metrics of proxied calls; None if they are off."""
    current_time: Callable[[], float]
    """`trio.current_time`, or what it calls, which costs half as much."""

    def find_open_channel(self, route: Route) -> Channel | None:
        """Return the channel for a route if it is known and open."""

    async def open_channel(self, route: Route) -> Channel:
        """Find the destination of a route and open a channel to it.

        Raises:
            purerpc.RpcFailedError: There is no such destination, with the status for the client.
        """


@attrs.define(eq=False, repr=False, weakref_slot=False)
class ProxiedCall(DownstreamStream):
    """The stream from the client, and what connects it with the upstream one; see `CallState`."""

    _router: ChannelProvider = attrs.field(kw_only=True)
    _route: Route = attrs.field(kw_only=True)
    _request: RequestHeaders = attrs.field(kw_only=True)
    _state: CallState = _PICKING
    _channel: Channel | None = None
    _service_metrics: CallRecorder | None = None
    """The metrics of the channel's service; None if there is no channel, or metrics are off."""
    _pick_result: PickResult | None = None
    _upstream: UpstreamStream | None = None
    _retry_state: RetryState | None = None
    """Transparent retries; made by the first refusal."""
    _retry_delay: float = 0.0
    """Seconds until the next attempt."""
    _started_at: float = attrs.field(kw_only=True)
    """The time at which the request was read, on trio's clock."""
    pending_headers: bytes = b""
    """Encoded response headers that are sent after the current read, or with the whole response;
    empty if there are none."""
    _deadline: float = math.inf
    """The client's deadline, on trio's clock."""

    @property
    def _is_over(self) -> bool:
        """Whether the outcome is recorded and no upstream stream is left."""
        return self._state >= _FLUSHING

    def _advance(self, event: CallEvent) -> None:
        self._state = event[self._state]
        if self._state > _REPLAYABLE:
            self.replay_buffer = None

    @property
    def _is_deadline_exceeded(self) -> bool:
        """Whether the deadline has passed, allowing for other clocks of client and plugin."""
        return trio.current_time() >= self._deadline - status.DEADLINE_TOLERANCE

    # -- picking an endpoint -----------------------------------------------------------------

    def start(self) -> None:
        """Send the call to a ready endpoint; if there is none, start a task that waits for one."""
        route, timeout = self._route, self._request.timeout
        if timeout is not None:
            self._deadline = self._started_at + timeout
        channel = self._router.find_open_channel(route)
        try:
            if channel is not None:
                self._bind_channel(channel)
                is_default = channel.hash_header is None
                args = DEFAULT_PICK_ARGS if is_default else self._make_pick_args(channel)
                result = channel.picker.try_pick(args)
                if result is not None and self._open_upstream(channel, result):
                    # Flushed after the current read, with the request data that it brings.
                    self.connection.connections_to_flush.add(result.connection)
                    return
        except purerpc.RpcFailedError as exc:
            self._end_with_error(exc)
        else:
            self.connection.start_soon(self._start_when_ready)

    async def _start_when_ready(self) -> None:
        """Wait for an endpoint until the client's deadline, and send the call there."""
        try:
            with trio.CancelScope(deadline=self._deadline) as scope:
                self.cancel_on_error = scope
                if self.error is None:
                    await self._pick_and_open()
        except purerpc.RpcFailedError as exc:
            self._end_with_error(exc)
        finally:
            self.cancel_on_error = None
        if scope.cancelled_caught:
            name = self._route.explicit_target or self._route.grpc_service
            text = f"the deadline passed before {name} could be called"
            reason = self._channel and self._channel.picker.unavailable_reason
            error = purerpc.DeadlineExceededError(f"{text}: {reason}" if reason else text)
            self._end_with_error(error)

    async def _pick_and_open(self) -> None:
        if self._retry_delay:
            await trio.sleep(self._retry_delay)
        channel = await self._router.open_channel(self._route)
        if not self._is_over:
            self._bind_channel(channel)
        while True:
            result = await channel.picker.pick(self._make_pick_args(channel))
            connection = result.connection
            while connection.is_usable:
                try:
                    if self._open_upstream(channel, result):
                        connection.flush()
                        return
                except purerpc.RpcFailedError:
                    connection.notify_stream_slot()  # Another call may wait for it.
                    raise
                await connection.write_buffer.wait_below_high_water()
                await connection.wait_for_stream_slot()

    def _make_pick_args(self, channel: Channel) -> PickArgs:
        return self._route.make_pick_args(channel, self._request)

    def _bind_channel(self, channel: Channel) -> None:
        if self._channel is None:
            channel.call_counters.started += 1
            if self._router.call_metrics is not None:
                self._service_metrics = self._router.call_metrics.start_call(channel.name)
        self._channel = channel

    def _open_upstream(self, channel: Channel, pick_result: PickResult) -> bool:
        """Send the call on a connection unless it is over; return False if there is no room."""
        connection = pick_result.connection
        if self._state >= _FLUSHING:
            connection.notify_stream_slot()  # Another call may use it.
            return True
        block = self._route.encode_headers(
            channel, connection.pseudo_headers, self.connection.peer, self._request, self._deadline
        )
        limit = connection.peer_settings.max_header_list_size
        if block.list_size > limit:
            text = status.header_list_too_large_message("request", block.list_size, limit)
            raise purerpc.ResourceExhaustedError(text)
        if connection.write_buffer.size > HIGH_WATER:
            return False
        if pick_result.call_tracker is not None:
            if not connection.has_stream_slot:
                return False
            pick_result.call_tracker.on_start()
        upstream = connection.open_stream(UpstreamStream, block.data)
        if upstream is None:
            return False
        upstream.owner, upstream.call = channel, self
        connection.counters.streamed_requests += 1  # Messages of proxied calls are not counted.
        channel.call_counters.last_started = connection.counters.last_started = time()
        self._pick_result, self._upstream = pick_result, upstream
        self._advance(call_state.ON_UPSTREAM_OPENED)
        for data in self.replay_buffer or ():
            upstream.write(data)
        if self.remote_closed:
            upstream.write(b"", b"")
        if self.replay_size and self.release_window():
            self.connection.flush()
        return True

    # -- events of this stream ---------------------------------------------------------------

    def _forward_data(self, data: bytes, *, end_stream: bool = False) -> None:
        if self._state is _CLOSED or not (data or end_stream):
            return
        size, upstream = 0, self._upstream
        if self.replay_buffer is not None:
            if self.buffer_for_replay(data) and self._state is _REPLAYABLE:
                self._advance(call_state.ON_COMMITTED)
            else:
                size = self.replay_size
        if upstream is not None:
            upstream.write(data, b"" if end_stream else None)
            self.connection.connections_to_flush.add(upstream.connection)
            size += upstream.buffered_size
        if size > MAX_SMALL_CHUNK or self.received_charge:
            self._charge_request()

    def _charge_request(self) -> None:
        """Account for the buffered request, and end the call if a memory budget is exceeded."""
        size = 0 if self.replay_buffer is None else self.replay_size
        if self._upstream is not None:
            size += self._upstream.buffered_size
        budget = self.charge_received(size if size > MAX_SMALL_CHUNK else 0)
        if budget:
            text = f"requests buffered for plugins exceed {budget}"
            self._end_with_error(purerpc.ResourceExhaustedError(text), success=None)

    def _on_buffer_taken(self) -> None:
        """Let the plugin send more, as the client has taken what was buffered."""
        if self._state is _CLOSED:
            return
        self.charge_response()
        if self._state is _FLUSHING:
            self._close_if_flushed()
        elif self._upstream is not None and self._upstream.release_window():
            self._upstream.connection.flush()

    def _get_unsent_size(self) -> int:
        if self._state is _CLOSED:
            return 0
        return self.replay_size if self._upstream is None else self._upstream.buffered_size

    @property
    def has_started(self) -> bool:
        """Whether the call was sent to a plugin."""
        return self._state is not _PICKING

    def refuse(self) -> None:
        """End the call with REFUSED_STREAM: no plugin has processed it (RFC 9113 §8.7)."""
        if self._state is _CLOSED:
            return
        if self.cancel_on_error is not None:
            self.cancel_on_error.cancel()
        code = status.StatusCode.UNAVAILABLE
        self._finish(call_state.ON_DOWNSTREAM_REFUSED, code, success=None)
        self.reset(ErrorCode.REFUSED_STREAM)

    def on_shutdown_timeout(self) -> None:
        """End a call that has not ended within the drain timeout of the mesh."""
        error = purerpc.UnavailableError("the mesh stopped during the call")
        self._end_with_error(error, success=None)

    def fail(self, error: purerpc.RpcFailedError) -> None:
        """End the call: the client has cancelled it, or is gone."""
        if self.error is not None:
            return
        self.error = error
        if self.cancel_on_error is not None:
            self.cancel_on_error.cancel()
        if self._state is not _CLOSED:
            is_late = self._is_deadline_exceeded
            code = status.DEADLINE_EXCEEDED if is_late else status.CANCELLED
            self._finish(call_state.ON_DOWNSTREAM_RESET, code, success=None)

    # -- events of the upstream stream -------------------------------------------------------

    def on_response_headers(self, headers: ResponseHeaders) -> None:
        if self._state is _REPLAYABLE:
            self._advance(call_state.ON_COMMITTED)
        block = rewrite_response_headers(headers)
        if block.list_size > self.connection.peer_settings.max_header_list_size:
            self._end_too_large(block.list_size)
        else:
            self.pending_headers = block.data

    def flush_response_headers(self) -> None:
        headers, self.pending_headers = self.pending_headers, b""
        connection = self.connection
        if connection.is_send_open(self.id):
            connection.send_headers(self.id, headers)
            self.headers_sent = True
            self._flush_after_read()

    def try_send_whole_response(self, data: bytes, trailers: Trailers) -> bool:
        connection, upstream = self.connection, self._upstream
        block = rewrite_trailers(trailers)
        if (
            upstream is None
            or self._state is not _COMMITTED
            or connection.closed
            or connection.write_buffer.size > HIGH_WATER
            or block.list_size > connection.peer_settings.max_header_list_size
            or not connection.try_send_message(
                self.id, data, self.pending_headers, block.data, False
            )
        ):
            return False
        self.pending_headers, self.headers_sent = b"", True
        upstream.remote_closed, upstream.trailers = True, trailers
        upstream.connection.connections_to_flush.add(connection)
        code = trailers.code
        self._finish(call_state.ON_RESPONSE_SENT, code, success=code == 0)
        self.reset(ErrorCode.NO_ERROR)
        return True

    def on_response_data(self, data: bytes) -> None:
        self.write(data)
        self._flush_after_read()
        budget = self.charge_response() if self.buffered_size else ""
        if budget:
            # The client may see a truncated message: the status gives the reason.
            self.discard_buffered()
            text = f"replies buffered for the client exceed {budget}"
            self._end_with_error(purerpc.ResourceExhaustedError(text), success=None)

    def on_response_end(self, trailers: Trailers | None) -> None:
        if trailers is None:
            headers = None if self._upstream is None else self._upstream.headers
            self._end_with_error(error_for_call(headers, None, peer="the plugin"))
            return
        room = self.connection.peer_settings.max_header_list_size
        if not self.headers_sent:
            room -= _DEFAULT_RESPONSE_HEADERS.list_size  # They are sent with it.
        block = fit_trailers(trailers, room)
        if block.list_size > room:
            self._end_too_large(block.list_size)
        else:
            self._send_status(block.data, trailers.code, success=trailers.code == 0)

    def _end_too_large(self, size: int) -> None:
        limit = self.connection.peer_settings.max_header_list_size
        text = status.header_list_too_large_message("response", size, limit)
        self._end_with_error(purerpc.ResourceExhaustedError(text), success=None)

    def on_request_taken(self) -> None:
        """Let the client send more, as the plugin has taken what was buffered for it."""
        self._charge_request()
        if self.release_window():
            self.connection.flush()

    def on_upstream_reset(self, error: purerpc.RpcFailedError) -> None:
        if self._is_over:
            return
        if isinstance(error, CallRefusedError) and not self.headers_sent:
            self._on_refused(error)
        elif isinstance(error, ConnectionLostError):
            self._advance(call_state.ON_CONNECTION_LOST)
            self.connection.start_soon(self._end_with_exit_info, error)
        elif isinstance(error, purerpc.CancelledError) and self._is_deadline_exceeded:
            # Some servers (grpc-go) reset with CANCEL at the deadline.
            self._end_with_error(purerpc.DeadlineExceededError("the deadline passed in the plugin"))
        else:
            self._end_with_error(error)

    def _on_refused(self, error: CallRefusedError) -> None:
        """Retry a call that its upstream has refused, if the request is still there."""
        if self._retry_state is None:
            assert self._channel is not None
            self._retry_state = RetryState(None, self._channel.retry_control)
        # Retry policies are left to the client (gRFC A6).
        delay = self._retry_state.next_delay(error, None, trio.current_time())
        if delay is None:
            self._end_with_error(error)
            return
        self._retry_delay = delay
        self._end_attempt(success=None)
        connection = self.connection
        if self._state is _COMMITTED:
            self.refuse()
            return
        self._advance(call_state.ON_REFUSED)
        if isinstance(connection, ServerConnection) and connection.is_refusing:
            connection.refuse_waiting_streams()
        else:
            connection.start_soon(self._start_when_ready)

    async def _end_with_exit_info(self, error: ConnectionLostError) -> None:
        """End the call with the exit info of the plugin, if it has died."""
        assert self._channel is not None
        assert self._pick_result is not None
        self._end_with_error(await self._channel.describe_failure(self._pick_result, error))

    # -- the end -----------------------------------------------------------------------------

    def _flush_after_read(self) -> None:
        connection = self.connection
        if self._upstream is not None:
            self._upstream.connection.connections_to_flush.add(connection)
        if connection.write_buffer.size > MAX_UNREAD_SIZE:
            # Messages stop earlier, by flow control: these are headers and trailers of many calls.
            connection.close("responses are not read", ErrorCode.ENHANCE_YOUR_CALM)

    def _end_with_error(self, error: purerpc.RpcFailedError, success: bool | None = False) -> None:
        """End the call with a status that the plugin has not sent.

        `success` is the result for load balancing, None if it says nothing about the plugin.
        """
        code, message = status_of_error(error)
        limit = self.connection.peer_settings.max_header_list_size
        trailers = encode_server_status(limit, code, message)
        self._send_status(trailers, code, success=success)
        self.connection.flush()

    def _send_status(self, trailers: bytes, code: int, *, success: bool | None) -> None:
        """Send the status after what is buffered for the client."""
        if self._is_over:
            return
        if not self.headers_sent:
            trailers = _DEFAULT_RESPONSE_HEADERS.data + trailers
        self.write(b"", trailers)
        self._flush_after_read()
        if self._state is _CLOSED:
            return  # Flushing has closed the connection, which has reset the call.
        self._finish(call_state.ON_STATUS_QUEUED, code, success=success)
        self._close_if_flushed()

    def _close_if_flushed(self) -> None:
        if not self.buffered_size:
            self._advance(call_state.ON_FLUSHED)
            self.reset(ErrorCode.NO_ERROR)

    def _finish(self, event: CallEvent, code: int, *, success: bool | None) -> None:
        """Leave an active state for good: record the outcome and end the attempt, once."""
        was_over = self._state >= _FLUSHING
        self._state, self.replay_buffer = event[self._state], None
        if not was_over:
            calls, router = self._service_metrics, self._router
            if calls is None and router.call_metrics is not None:
                calls = router.call_metrics.start_call(None)
            if calls is not None:
                calls.record(code, router.current_time() - self._started_at)
            counters, channel = self.connection.counters, self._channel
            if success:
                counters.succeeded += 1
                if channel is not None:
                    channel.call_counters.succeeded += 1
            else:
                counters.failed += 1
                if channel is not None:
                    channel.call_counters.failed += 1
        self._end_attempt(success=success)

    def _end_attempt(self, *, success: bool | None) -> None:
        """Reset the upstream stream unless it is over, and report the result unless it is None."""
        upstream, pick_result = self._upstream, self._pick_result
        self._upstream = None
        if upstream is None or pick_result is None:
            return
        upstream.call, connection = None, upstream.connection
        if (trailers := upstream.trailers) is not None and not trailers.code:
            connection.counters.streamed_replies += 1
        if upstream.remote_closed:
            connection.remove_stream(upstream.id, ErrorCode.CANCEL)
        else:
            upstream.reset(ErrorCode.CANCEL)
        if pick_result.call_tracker is not None:
            pick_result.call_tracker.on_finish(success=success)
