"""One proxied call, from its request headers to its status.

A call normally has no task: what arrives on one stream is written to the other by the read loop of
the connection, and a request or a response that has arrived whole in one step. A task is started
only to wait for an endpoint, to retry a refused call (`call_opening`), and to wait for the exit
info of a plugin. The states are in `call_state`.
"""

from __future__ import annotations

import purerpc
import trio

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.gateway import call_state
from meshtrio.gateway.call_state import CallEvent, CallState
from meshtrio.gateway.downstream_stream import DEFAULT_RESPONSE_HEADERS
from meshtrio.gateway.proxied_request import ProxiedRequest
from meshtrio.gateway.route import fit_trailers, rewrite_response_headers, rewrite_trailers
from meshtrio.grpc import status
from meshtrio.grpc.headers import ResponseHeaders, Trailers
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.errors import error_for_call, status_of_error
from meshtrio.rpc.rejection import encode_server_status
from meshtrio.rpc.server_connection import ServerConnection

# Globals, as attribute access on an enum class takes 0.2 us in Python 3.11.
_REPLAYABLE, _COMMITTED = CallState.REPLAYABLE, CallState.COMMITTED
_FLUSHING, _CLOSED = CallState.FLUSHING, CallState.CLOSED


class ProxiedCall(ProxiedRequest):
    """The stream from the client, and what connects it with the upstream one; see `CallState`."""

    # -- events of the upstream stream -------------------------------------------------------

    def on_response(self, headers: ResponseHeaders, data: bytes, trailers: Trailers) -> bool:
        """Send a whole response at once; return False, with no effect, if that fails."""
        upstream = self._upstream
        first, last = rewrite_response_headers(headers), rewrite_trailers(trailers)
        limit = self.connection.peer_settings.max_header_list_size
        if (
            upstream is None
            or self._state > _COMMITTED
            or first.list_size > limit
            or last.list_size > limit
            or not self.try_send_response(first.data, data, last.data)
        ):
            return False
        upstream.remote_closed, upstream.trailers = True, trailers
        upstream.connection.connections_to_flush.add(self.connection)
        self._finish(call_state.ON_RESPONSE_SENT, trailers.code, success=trailers.code == 0)
        self._reset(ErrorCode.NO_ERROR)
        return True

    def on_response_headers(self, headers: ResponseHeaders) -> None:
        if self._state is _REPLAYABLE:
            self._advance(call_state.ON_COMMITTED)
        block = rewrite_response_headers(headers)
        if block.list_size > self.connection.peer_settings.max_header_list_size:
            self._end_too_large(block.list_size)
        else:
            self.send_response_headers(block.data)
            self._flush_after_read()

    def on_response_data(self, data: bytes) -> None:
        self.write(data)
        self._flush_after_read()
        budget = self.charge_response() if self.buffered_size else ""
        if budget:
            # The client may see a truncated message: the status gives the reason.
            self.discard_buffered()
            text = f"replies buffered for the client exceed {budget}"
            self.end_with_error(purerpc.ResourceExhaustedError(text), success=None)

    def on_response_end(self, trailers: Trailers | None) -> None:
        if trailers is None:
            headers = None if self._upstream is None else self._upstream.headers
            self.end_with_error(error_for_call(headers, None, peer="the plugin"))
            return
        room = self.connection.peer_settings.max_header_list_size
        if not self.headers_sent:
            room -= DEFAULT_RESPONSE_HEADERS.list_size  # They are sent with it.
        block = fit_trailers(trailers, room)
        if block.list_size > room:
            self._end_too_large(block.list_size)
        else:
            self._send_status(block.data, trailers.code, success=trailers.code == 0)

    def on_request_taken(self) -> None:
        """Let the client send more, as the plugin has taken what was buffered for it."""
        self._charge_request()
        if self.release_window():
            self.connection.flush()

    def _on_buffer_taken(self) -> None:
        """Let the plugin send more, as the client has taken what was buffered."""
        if self._state is _CLOSED:
            return
        self.charge_response()
        if self._state is _FLUSHING:
            self._close_if_flushed()
        elif self._upstream is not None and self._upstream.release_window():
            self._upstream.connection.flush()

    def on_upstream_reset(self, error: purerpc.RpcFailedError) -> None:
        if self.is_over:
            return
        if isinstance(error, CallRefusedError) and not self.headers_sent:
            self._on_refused(error)
        elif isinstance(error, ConnectionLostError):
            self._advance(call_state.ON_CONNECTION_LOST)
            self.connection.start_soon(self._end_with_exit_info, error)
        elif isinstance(error, purerpc.CancelledError) and self._is_deadline_exceeded:
            # Some servers (grpc-go) reset with CANCEL at the deadline.
            self.end_with_error(purerpc.DeadlineExceededError("the deadline passed in the plugin"))
        else:
            self.end_with_error(error)

    def _on_refused(self, error: CallRefusedError) -> None:
        """Retry a call that its upstream has refused, if the request is still there."""
        assert self._channel is not None
        opening = self._get_opening()
        if not opening.plan_retry(self._channel, error):
            self.end_with_error(error)
            return
        if self._pick_result is not None:
            self._pick_result.channel_endpoint.retries += 1
        self._end_attempt(success=None)
        connection = self.connection
        if self._state is _COMMITTED:
            self.refuse()
            return
        self._advance(call_state.ON_REFUSED)
        if isinstance(connection, ServerConnection) and connection.is_refusing:
            connection.refuse_waiting_streams()
        else:
            opening.start()

    async def _end_with_exit_info(self, error: ConnectionLostError) -> None:
        """End the call with the exit info of the plugin, if it has died."""
        assert self._channel is not None
        assert self._pick_result is not None
        self.end_with_error(await self._channel.describe_failure(self._pick_result, error))

    # -- the end -----------------------------------------------------------------------------

    @property
    def _is_deadline_exceeded(self) -> bool:
        """Whether the deadline has passed, allowing for other clocks of client and plugin."""
        return trio.current_time() >= self.deadline - status.DEADLINE_TOLERANCE

    def refuse(self) -> None:
        """End the call with REFUSED_STREAM: no plugin has processed it (RFC 9113 §8.7)."""
        if self._state is _CLOSED:
            return
        if self.cancel_on_error is not None:
            self.cancel_on_error.cancel()
        code = status.StatusCode.UNAVAILABLE
        self._finish(call_state.ON_DOWNSTREAM_REFUSED, code, success=None)
        self._reset(ErrorCode.REFUSED_STREAM)

    def on_shutdown_timeout(self) -> None:
        """End a call that has not ended within the drain timeout of the mesh."""
        error = purerpc.UnavailableError("the mesh stopped during the call")
        self.end_with_error(error, success=None)

    def on_age_timeout(self, error: purerpc.RpcFailedError) -> None:
        """End a call whose connection from the client is too old."""
        self.end_with_error(error, success=None)

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

    def _end_too_large(self, size: int) -> None:
        limit = self.connection.peer_settings.max_header_list_size
        text = status.header_list_too_large_message("response", size, limit)
        self.end_with_error(purerpc.ResourceExhaustedError(text), success=None)

    def end_with_error(self, error: purerpc.RpcFailedError, success: bool | None = False) -> None:
        code, message = status_of_error(error)
        limit = self.connection.peer_settings.max_header_list_size
        trailers = encode_server_status(limit, code, message)
        self._send_status(trailers, code, success=success)
        self.connection.flush()

    def _send_status(self, trailers: bytes, code: int, *, success: bool | None) -> None:
        """Send the status after what is buffered for the client."""
        if self._state >= _FLUSHING:
            return
        self.queue_status(trailers)
        self._flush_after_read()
        if self._state is _CLOSED:
            return  # Flushing has closed the connection, which has reset the call.
        self._finish(call_state.ON_STATUS_QUEUED, code, success=success)
        self._close_if_flushed()

    def _flush_after_read(self) -> None:
        if self._upstream is not None:
            self._upstream.connection.connections_to_flush.add(self.connection)
        self.close_if_unread()

    def _close_if_flushed(self) -> None:
        if not self.buffered_size:
            self._advance(call_state.ON_FLUSHED)
            self._reset(ErrorCode.NO_ERROR)

    def _reset(self, code: ErrorCode) -> None:
        """End both directions of the stream from the client."""
        self.connection.remove_stream(self.id, code)
        if not self.remote_closed and self.error is None:
            self.fail(purerpc.CancelledError("the call was cancelled on this side"))

    def _finish(self, event: CallEvent, code: int, *, success: bool | None) -> None:
        """Leave an active state for good: record the outcome and end the attempt, once."""
        if self._state < _FLUSHING:
            self._record_outcome(code, success is True)
        self._state, self.replay_buffer = event[self._state], None
        if self._upstream is not None:
            self._end_attempt(success=success)

    def _record_outcome(self, code: int, succeeded: bool) -> None:
        calls, router = self._outcome_recorder, self._router
        if calls is None and router.call_observer is not None:
            calls = router.call_observer.start_call(None, self.request.path)
        if calls is not None:
            calls.record(code, router.current_time() - self._started_at)
        counters, channel = self.connection.counters, self._channel
        if succeeded:
            counters.succeeded += 1
            if channel is not None:
                channel.call_counters.succeeded += 1
        else:
            counters.failed += 1
            if channel is not None:
                channel.call_counters.failed += 1

    def _end_attempt(self, *, success: bool | None) -> None:
        """Reset the upstream stream unless it is over, and report the result unless it is None."""
        upstream, pick_result = self._upstream, self._pick_result
        self._upstream = None
        if upstream is None or pick_result is None:
            return
        upstream.call, connection = None, upstream.connection
        if (trailers := upstream.trailers) is not None and not trailers.code:
            connection.counters.streamed_replies += 1
        connection.remove_stream(upstream.id, ErrorCode.CANCEL)
        if pick_result.call_tracker is not None:
            pick_result.call_tracker.on_finish(success=success)
