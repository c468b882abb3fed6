"""One call that is passed on, from its head to its status.

While all goes well there is no task for it: each thing that comes on one leg is sent on the other
by the connection that has read it. A task is started to wait for an endpoint, before a refused call
is made again, and to learn how a plugin died.
"""

from __future__ import annotations

import math
from time import time
from typing import TYPE_CHECKING, Any

import purerpc
import trio

from meshtrio.client.call_destination import DEFAULT_PICK_ARGS, PickArgs, PickResult
from meshtrio.client.channel import Channel
from meshtrio.client.retry.policy import Pushback, RetryState
from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.gateway import header_rewrite
from meshtrio.gateway.proxied_streams import DownstreamStream, ProxiedStream, UpstreamStream
from meshtrio.grpc.header_builder import build_response_headers, timeout_field
from meshtrio.grpc.headers import ResponseHeaders, Trailers
from meshtrio.grpc.status import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    DEADLINE_TOLERANCE,
    header_list_too_large_message,
)
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.hpack.codec import HeaderBlock
from meshtrio.rpc.errors import error_for_call
from meshtrio.rpc.server import ServerConnection
from meshtrio.rpc.server_call import encode_server_status
from meshtrio.util.identity_cache import IdentityCache

if TYPE_CHECKING:
    from meshtrio.gateway.router import Route, Router
    from meshtrio.telemetry.metrics.call_recorder import CallRecorder

_MAX_REPLAY_SIZE = 256 * 1024
"""Bytes of a request that are kept to make a refused call again; one with more is committed."""

_MAX_SMALL_CHUNK = 4096
"""Bytes of a piece that more is joined to: a byte at a time shall not make an object of each."""
_MAX_UNREAD_SIZE = 8 * 1024 * 1024
"""Bytes that may wait for a caller who does not read."""

_rewrite_response_headers = IdentityCache(header_rewrite.rewrite_response_headers)
_rewrite_trailers = IdentityCache(header_rewrite.rewrite_trailers)
_DEFAULT_RESPONSE_HEADERS = build_response_headers(content_type=b"application/grpc")


class ProxiedCall:
    """Between the caller's leg and the plugin's, which there is once there is an endpoint."""

    __slots__ = (
        "_channel",
        "_downstream",
        "_is_finished",
        "_is_request_complete",
        "_pick_result",
        "_replay_buffer",
        "_replay_size",
        "_retry_delay",
        "_retry_state",
        "_route",
        "_router",
        "_service_metrics",
        "_started_at",
        "_upstream",
    )

    def __init__(self, router: Router, downstream: DownstreamStream, route: Route) -> None:
        self._router = router
        self._downstream = downstream
        self._route = route
        self._channel: Channel | None = None
        self._service_metrics: CallRecorder | None = None
        """Those of the channel's service, where calls are measured."""
        self._pick_result: PickResult | None = None
        self._upstream: UpstreamStream | None = None
        self._replay_buffer: list[bytes] | None = []
        """What the caller has sent; None once committed."""
        self._replay_size = 0
        self._is_request_complete = False
        """The caller has sent all it had."""
        self._retry_state: RetryState | None = None
        """Transparent retries; made by the first refusal."""
        self._retry_delay = 0.0
        """Seconds until the next attempt."""
        self._started_at = trio.current_time()
        self._is_finished = False
        downstream.proxied_call = self

    @property
    def _deadline(self) -> float:
        """When the caller's deadline is."""
        timeout = self._route.headers.timeout
        return math.inf if timeout is None else self._started_at + timeout

    @property
    def _is_deadline_exceeded(self) -> bool:
        """Whether the deadline has passed, by a clock that caller and plugin do not share."""
        return trio.current_time() >= self._deadline - DEADLINE_TOLERANCE

    # -- finding an endpoint -----------------------------------------------------------------

    def start(self) -> None:
        """Go on to an endpoint that is ready; where there is none, wait for one."""
        channel = self._router.find_open_channel(self._route)
        try:
            if channel is not None:
                self._bind_channel(channel)
                target = channel.try_pick(self._make_pick_args(channel))
                if target is not None and self._open_upstream(channel, target):
                    # What else this read brings goes out with it.
                    self._downstream.connection.connections_to_flush.add(target.connection)
                    return
        except purerpc.RpcFailedError as exc:
            self._end_with_error(exc)
        else:
            self._downstream.connection.start_soon(self._start_when_ready)

    async def _start_when_ready(self) -> None:
        """Wait for an endpoint as long as the caller does."""
        try:
            with trio.CancelScope(deadline=self._deadline) as scope:
                self._downstream.cancel_on_error = scope
                if self._downstream.error is None:
                    await self._pick_and_open()
        except purerpc.RpcFailedError as exc:
            self._end_with_error(exc)
        finally:
            self._downstream.cancel_on_error = None
        if scope.cancelled_caught:
            text = f"the deadline passed before {self._route.display_name} could be called"
            why = None if self._channel is None else self._channel.unavailable_reason
            self._end_with_error(purerpc.DeadlineExceededError(f"{text}: {why}" if why else text))

    async def _pick_and_open(self) -> None:
        if self._retry_delay:
            await trio.sleep(self._retry_delay)
        channel = await self._router.open_channel(self._route)
        if not self._is_finished:
            self._bind_channel(channel)
        while True:
            target = await channel.pick(self._make_pick_args(channel))
            connection = target.connection
            while connection.is_usable:
                try:
                    if self._open_upstream(channel, target):
                        connection.flush()
                        return
                except purerpc.RpcFailedError:
                    connection.notify_stream_slot()  # Somebody else may have waited for it.
                    raise
                await connection.write_buffer.wait_below_high_water()
                await connection.wait_for_stream_slot()

    def _bind_channel(self, channel: Channel) -> None:
        if self._channel is None:
            channel.call_counters.started += 1
            if self._router.call_metrics is not None:
                self._service_metrics = self._router.call_metrics.start_call(channel.name)
        self._channel = channel

    def _make_pick_args(self, channel: Channel) -> PickArgs:
        if channel.hash_header is None:
            return DEFAULT_PICK_ARGS
        values = [
            str(value) for key, value in self._route.headers.metadata if key == channel.hash_header
        ]
        return PickArgs(hash_key=",".join(values) if values else None)

    def _open_upstream(self, channel: Channel, pick_result: PickResult) -> bool:
        """Start the call on a connection; False where that has no room for it.

        Does nothing where the call has ended meanwhile.
        """
        connection = pick_result.connection
        if self._is_finished:
            connection.notify_stream_slot()
            return True
        block = self._route.encode_headers(channel, self._downstream.peer)
        if self._route.headers.timeout is not None:
            left = self._deadline - trio.current_time()
            block += HeaderBlock.encode([timeout_field(left)])
        limit = connection.engine.max_send_header_list_size
        if block.list_size > limit:
            raise purerpc.ResourceExhaustedError(
                header_list_too_large_message("request", block.list_size, limit)
            )
        if not connection.has_stream_slot or connection.write_buffer.above_high_water:
            return False
        if pick_result.call_tracker is not None:
            pick_result.call_tracker.on_start()
        plugin = connection.open_stream_as(UpstreamStream, block.data)
        assert plugin is not None
        plugin.owner, plugin.proxied_call = channel, self
        connection.counters.streamed_requests += 1  # Messages of proxied calls are not counted.
        channel.call_counters.last_started = connection.counters.last_started = time()
        self._pick_result, self._upstream = pick_result, plugin
        for data in self._replay_buffer or ():
            plugin.write(data)
        if self._is_request_complete:
            plugin.write(b"", b"")
        if self._replay_size and self._downstream.release_window():
            self._downstream.connection.flush()
        return True

    # -- what the caller does ----------------------------------------------------------------

    def on_request_data(self, data: bytes, *, end_stream: bool) -> None:
        if not data and not end_stream:
            return
        self._is_request_complete = end_stream
        if self._replay_buffer is not None:
            self._append_to_replay_buffer(data)
        if self._upstream is not None:
            self._upstream.write(data, b"" if end_stream else None)
            self._downstream.connection.connections_to_flush.add(self._upstream.connection)
        self._charge_request()

    def _charge_request(self) -> None:
        """Count what is held of the request, and end the call if the caller has too much held."""
        size = self._replay_size if self._replay_buffer is not None else 0
        if self._upstream is not None:
            size += self._upstream.buffered_size
        budget = self._downstream.charge_received(size if size > _MAX_SMALL_CHUNK else 0)
        if budget:
            text = f"requests that plugins have not taken use up {budget} of the mesh"
            self._end_with_error(purerpc.ResourceExhaustedError(text), success=None)

    def _append_to_replay_buffer(self, data: bytes) -> None:
        assert self._replay_buffer is not None
        self._replay_size += len(data)
        if self._replay_size > _MAX_REPLAY_SIZE and self._upstream is not None:
            self._replay_buffer = None
        elif self._replay_buffer and len(self._replay_buffer[-1]) < _MAX_SMALL_CHUNK:
            self._replay_buffer[-1] += data
        else:
            self._replay_buffer.append(data)

    def on_downstream_reset(self) -> None:
        self._downstream.proxied_call = None
        self._finish(DEADLINE_EXCEEDED if self._is_deadline_exceeded else CANCELLED, success=None)

    @property
    def has_started(self) -> bool:
        """Whether a plugin has the call, or has had it."""
        return self._upstream is not None or self._is_finished

    def refuse(self) -> None:
        """End the call with REFUSED_STREAM: nothing has processed it (RFC 9113 §8.7)."""
        caller = self._downstream
        caller.proxied_call = None
        if caller.cancel_on_error is not None:
            caller.cancel_on_error.cancel()
        self._finish(purerpc.StatusCode.UNAVAILABLE.value, success=None)
        caller.reset(ErrorCode.REFUSED_STREAM)

    def abort(self) -> None:
        """End a call that was not over in time when the mesh stopped."""
        self._end_with_error(
            purerpc.UnavailableError("the mesh stopped during the call"), success=None
        )

    # -- what the plugin does ----------------------------------------------------------------

    def on_response_headers(self, headers: ResponseHeaders) -> None:
        self._replay_buffer = None
        caller, block = self._downstream, _rewrite_response_headers(headers)
        if block.list_size > caller.connection.engine.max_send_header_list_size:
            self._end_too_large(block.list_size)
        elif caller.connection.engine.is_send_open(caller.id):
            caller.connection.engine.send_headers(caller.id, block.data)
            caller.headers_sent = True
            self._flush_downstream_after_read()

    def on_response_data(self, data: bytes) -> None:
        self._downstream.write(data)
        self._flush_downstream_after_read()
        budget = self._downstream.charge_response() if self._downstream.buffered_size else ""
        if budget:
            # A message may be cut short by that: the status says why.
            self._downstream.discard_buffered()
            text = f"replies that the caller does not read use up {budget} of the mesh"
            self._end_with_error(purerpc.ResourceExhaustedError(text), success=None)

    def on_response_end(self, trailers: Trailers | None) -> None:
        if trailers is None:
            headers = None if self._upstream is None else self._upstream.headers
            self._end_with_error(error_for_call(headers, None, peer="the plugin"))
            return
        block = _rewrite_trailers(trailers)
        room = self._downstream.connection.engine.max_send_header_list_size
        if not self._downstream.headers_sent:
            room -= _DEFAULT_RESPONSE_HEADERS.list_size  # It goes out in the same block.
        if block.list_size > room:
            block = header_rewrite.rewrite_trailers_truncated(trailers, room)
        if block.list_size > room:
            self._end_too_large(block.list_size)
        else:
            self._send_status(block.data, trailers.code, success=trailers.code == 0)

    def _end_too_large(self, size: int) -> None:
        limit = self._downstream.connection.engine.max_send_header_list_size
        error = purerpc.ResourceExhaustedError(
            header_list_too_large_message("response", size, limit)
        )
        self._end_with_error(error, success=None)

    def on_upstream_reset(self, error: purerpc.RpcFailedError) -> None:
        if isinstance(error, CallRefusedError) and not self._downstream.headers_sent:
            if self._is_finished:
                return
            delay = self._next_retry_delay(error)
            if delay is None:
                self._end_with_error(error)
                return
            self._retry_delay = delay
            self._end_attempt(success=None)
            connection = self._downstream.connection
            if self._replay_buffer is None:
                self.refuse()
            elif isinstance(connection, ServerConnection) and connection.is_refusing:
                connection.refuse_waiting_streams()
            else:
                connection.start_soon(self._start_when_ready)
        elif isinstance(error, ConnectionLostError) and not self._is_finished:
            self._downstream.connection.start_soon(self._end_with_exit_info, error)
        elif isinstance(error, purerpc.CancelledError) and self._is_deadline_exceeded:
            # Some servers (grpc-go) reset with CANCEL at the deadline.
            text = "the deadline passed in the plugin"
            self._end_with_error(purerpc.DeadlineExceededError(text))
        else:
            self._end_with_error(error)

    def _next_retry_delay(self, error: CallRefusedError) -> float | None:
        """Decide on a transparent retry; plugins' retry policies are left to the caller."""
        if self._retry_state is None:
            assert self._channel is not None
            self._retry_state = RetryState(None, self._channel.retry_control)
        return self._retry_state.next_delay(error, Pushback.ABSENT, trio.current_time())

    async def _end_with_exit_info(self, error: ConnectionLostError) -> None:
        """Tell the caller how the plugin died, if it did."""
        assert self._channel is not None
        assert self._pick_result is not None
        explained: Any = await self._channel.describe_failure(self._pick_result, error)
        self._end_with_error(explained)

    # -- both --------------------------------------------------------------------------------

    def on_writable(self, stream: ProxiedStream) -> None:
        """A leg's peer has taken some of what was held: the other's may send more."""
        if stream is self._downstream:
            self._downstream.charge_response()
        else:
            self._charge_request()
        if self._is_finished and stream is self._downstream and not stream.buffered_size:
            self._release()
        other = self._downstream if stream is self._upstream else self._upstream
        if other is not None and other.release_window():
            other.connection.flush()

    def peer_buffered_size(self, stream: ProxiedStream) -> int:
        """Bytes that came on a leg and have not gone out on the other."""
        if stream is self._upstream:
            return self._downstream.buffered_size
        return self._replay_size if self._upstream is None else self._upstream.buffered_size

    def _flush_downstream_after_read(self) -> None:
        caller = self._downstream.connection
        if self._upstream is not None:
            self._upstream.connection.connections_to_flush.add(caller)
        if caller.write_buffer.size > _MAX_UNREAD_SIZE:
            # Messages are held back long before: these are the heads and ends of very many calls.
            caller.close("the answers are not read", ErrorCode.ENHANCE_YOUR_CALM)

    def _end_with_error(self, error: purerpc.RpcFailedError, success: bool | None = False) -> None:
        """End the call with a status of our own; `success` as it is counted against the plugin."""
        code, message = error.status.status_code, error.status.status_message
        status = encode_server_status(self._downstream.connection, code, message)
        self._send_status(status, code.value, success=success)
        self._downstream.connection.flush()

    def _send_status(self, trailers: bytes, code: int, *, success: bool | None) -> None:
        """Send the status behind what is held for the caller."""
        if self._is_finished:
            return
        caller = self._downstream
        if not caller.headers_sent:
            trailers = _DEFAULT_RESPONSE_HEADERS.data + trailers
        caller.write(b"", trailers)
        self._flush_downstream_after_read()
        self._finish(code, success=success)
        if not caller.buffered_size:
            self._release()

    def _release(self) -> None:
        """All is said: the caller's stream is over, and nobody holds this any more."""
        self._downstream.proxied_call = None
        self._downstream.reset(ErrorCode.NO_ERROR)

    def _finish(self, code: int, *, success: bool | None) -> None:
        if not self._is_finished:
            self._is_finished = True
            self._record_metrics(code)
            calls, channel = self._downstream.connection.counters, self._channel
            if success and channel is not None:
                calls.succeeded += 1
                channel.call_counters.succeeded += 1
            else:
                calls.end_call(failed=not success)
                if channel is not None:
                    channel.call_counters.end_call(failed=not success)
        self._replay_buffer = None
        self._end_attempt(success=success)

    def _record_metrics(self, code: int) -> None:
        measured = self._router.call_metrics
        if measured is not None:
            calls = self._service_metrics or measured.start_call(None)
            measured.end_call(calls, code, trio.current_time() - self._started_at)

    def _end_attempt(self, *, success: bool | None) -> None:
        """Cancel the call at the plugin, where it is not over; None: nothing is to be learned."""
        plugin, channel, target = self._upstream, self._channel, self._pick_result
        self._upstream = None
        if plugin is None or channel is None or target is None:
            return
        plugin.proxied_call = None
        if plugin.has_succeeded:
            plugin.connection.counters.streamed_replies += 1
        plugin.reset(ErrorCode.CANCEL)
        if target.call_tracker is not None:
            target.call_tracker.on_finish(success=success)
