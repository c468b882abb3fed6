"""The request of a proxied call: how its upstream stream is opened, and what is sent on it."""

from __future__ import annotations

import math
from time import time

import purerpc
import trio

from meshtrio.client.channel import Channel
from meshtrio.client.channel_endpoint import DEFAULT_PICK_ARGS, PickResult
from meshtrio.gateway import call_state
from meshtrio.gateway.call_opening import CallOpening, ChannelProvider
from meshtrio.gateway.call_state import CallEvent, CallState
from meshtrio.gateway.call_watch import CallWatch, OutcomeRecorder
from meshtrio.gateway.downstream_stream import DownstreamStream
from meshtrio.gateway.proxied_streams import MAX_SMALL_CHUNK
from meshtrio.gateway.route import Route
from meshtrio.gateway.upstream_stream import ResponseReceiver, UpstreamStream
from meshtrio.grpc import status
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.rpc.server_connection import ServerConnection
from meshtrio.rpc.write_buffer import HIGH_WATER

# Globals, as attribute access on an enum class takes 0.2 us in Python 3.11.
_PICKING, _REPLAYABLE = CallState.PICKING, CallState.REPLAYABLE
_FLUSHING, _CLOSED = CallState.FLUSHING, CallState.CLOSED


class ProxiedRequest(DownstreamStream, ResponseReceiver):
    """The stream from the client, and the way of the request to the upstream stream."""

    deadline = math.inf
    """The client's deadline, on trio's clock."""
    cancel_on_error: trio.CancelScope | None = None
    """The scope of the task that waits, which is cancelled if the client ends the call."""
    _state = _PICKING
    _channel: Channel | None = None
    _outcome_recorder: OutcomeRecorder | None = None
    """Records the end of the call; None if there is no channel, or nothing is measured."""
    _pick_result: PickResult | None = None
    _upstream: UpstreamStream | None = None
    _opening: CallOpening | None = None
    """Exists only if the call had to wait for an endpoint, or was refused."""

    def __init__(
        self,
        connection: ServerConnection,
        stream_id: int,
        router: ChannelProvider,
        route: Route,
        request: RequestHeaders,
        started_at: float,
    ) -> None:
        """`started_at` is the time at which the request was read, on trio's clock."""
        super().__init__(connection, stream_id)
        self._router = router
        self._route = route
        self.request = request
        self._started_at = started_at

    @property
    def path(self) -> str:
        return self.request.path

    @property
    def is_over(self) -> bool:
        """Whether the outcome is recorded and no upstream stream is left."""
        return self._state >= _FLUSHING

    @property
    def has_started(self) -> bool:
        """Whether the call was sent to a plugin."""
        return self._state is not _PICKING

    def _advance(self, event: CallEvent) -> None:
        self._state = event[self._state]
        if self._state > _REPLAYABLE:
            self.replay_buffer = None

    # -- opening the upstream stream -----------------------------------------------------------

    def start(self) -> None:
        """Send the call to a ready endpoint; if there is none, start a task that waits for one."""
        route, request = self._route, self.request
        if request.timeout is not None:
            self.deadline = self._started_at + request.timeout
        channel = self._router.find_open_channel(route)
        try:
            if channel is not None:
                self.bind_channel(channel)
                is_default = channel.hash_header is None
                args = DEFAULT_PICK_ARGS if is_default else route.make_pick_args(channel, request)
                result = channel.picker.try_pick(args)
                if result is not None and self.open_upstream(channel, result):
                    # Flushed after the current read, with the request data that it brings.
                    self.connection.connections_to_flush.add(result.connection)
                    return
        except purerpc.RpcFailedError as exc:
            self.end_with_error(exc)
        else:
            self._get_opening().start()

    def _get_opening(self) -> CallOpening:
        if self._opening is None:
            self._opening = CallOpening(self, self._router, self._route, self._channel)
        return self._opening

    def bind_channel(self, channel: Channel) -> None:
        """Count the call for its first channel, to an endpoint of which it is sent."""
        if self._channel is None:
            channel.call_counters.started += 1
            if (observer := self._router.call_observer) is not None:
                self._outcome_recorder = observer.start_call(channel.name, self.request.path)
        self._channel = channel

    def watch(self, watch: CallWatch) -> None:
        """Have the end of the call recorded for those who watch, though it has started before."""
        if self._channel is not None and self._state < _FLUSHING:
            args = self._outcome_recorder, self._channel.name, self.request.path
            self._outcome_recorder = watch.adopt_call(*args)

    def open_upstream(self, channel: Channel, pick_result: PickResult) -> bool:
        """Send the call on a connection unless it is over; return False if there is no room."""
        connection = pick_result.connection
        if self._state >= _FLUSHING:
            connection.notify_stream_slot()  # Another call may use it.
            return True
        block = self._route.encode_headers(
            channel, connection.pseudo_headers, self.connection.peer, self.request, self.deadline
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
        self._state = call_state.ON_UPSTREAM_OPENED[self._state]
        if self.replay_buffer or self.remote_closed:
            self._send_replay(upstream)
        return True

    def _send_replay(self, upstream: UpstreamStream) -> None:
        """Send what has arrived of the request while there was no upstream stream."""
        for data in self.replay_buffer or ():
            upstream.write(data)
        if self.remote_closed:
            upstream.write(b"", b"")
        if self.replay_size and self.release_window():
            self.connection.flush()

    # -- forwarding the request ----------------------------------------------------------------

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Pass DATA of the request on, at once if it is a whole and small one."""
        if not (end_stream and self._try_send_request(data)):
            super().on_data(data, end_stream)

    def _try_send_request(self, data: bytes) -> bool:
        """Send a whole request; return False, with no effect, if it cannot be sent at once."""
        upstream = self._upstream
        if (
            upstream is None
            or self._state is not _REPLAYABLE
            or self.replay_buffer
            or self._small_chunks
            or len(data) > MAX_SMALL_CHUNK
        ):
            return False
        connection = upstream.connection
        if connection.write_buffer.size > HIGH_WATER or not connection.try_send_message(
            upstream.id, data, b"", b"", True
        ):
            return False
        self.remote_closed = True
        self.replay_buffer, self.replay_size = (data,), len(data)
        self.connection.connections_to_flush.add(connection)
        return True

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
        budget = self.charge_request(size)
        if budget:
            text = f"requests buffered for plugins exceed {budget}"
            self.end_with_error(purerpc.ResourceExhaustedError(text), success=None)

    def _get_unsent_size(self) -> int:
        if self._state is _CLOSED:
            return 0
        return self.replay_size if self._upstream is None else self._upstream.buffered_size

    def end_with_error(self, error: purerpc.RpcFailedError, success: bool | None = False) -> None:
        """End the call with a status that the plugin has not sent.

        `success` is the result for load balancing, None if it says nothing about the plugin.
        """
        raise NotImplementedError
