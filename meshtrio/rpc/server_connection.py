"""The server's side of a connection: which calls start, and how the connection ends."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol

import purerpc
import trio

from meshtrio.grpc.framing import ENCODINGS
from meshtrio.grpc.header_builder import ACCEPT_ENCODING
from meshtrio.grpc.headers import RequestHeaders, is_grpc_content_type
from meshtrio.grpc.status import StatusCode
from meshtrio.http2 import events
from meshtrio.http2.connection import H2Connection
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.limits import Limits
from meshtrio.rpc import rejection
from meshtrio.rpc.connection_io import CLOSE_TIMEOUT
from meshtrio.rpc.connection_limiter import ConnectionLimiter, ConnectionRejectedError, LimitKey
from meshtrio.rpc.handler_tasks import HandlerTasks
from meshtrio.rpc.method import Handler
from meshtrio.rpc.peer_accounts import ClientAccounts, ConnectionAccount, PeerAccount, PeerAccounts
from meshtrio.rpc.purerpc_compat import FoundHandler, HandlerTable
from meshtrio.rpc.server_call import CallOwner, ServerCall
from meshtrio.rpc.stats import CallCounters, ConnectionStatistics
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.tracer_dispatch import notify_tracer_in_read_loop
from meshtrio.transport.peer import Peer
from meshtrio.transport.transport import Transport

_NO_ERROR, _REFUSED_STREAM = ErrorCode.NO_ERROR, ErrorCode.REFUSED_STREAM
_DISCARD_SIZE = 256 * 1024
_MAX_HALF_CLOSED_STREAMS = 256
_DRAIN_PING_PAYLOAD = b"drain..."
_DRAIN_PING_TIMEOUT = 1.0
"""Seconds to wait for the acknowledgement of the PING between the two GOAWAYs of a drain."""
_OVER_AGE = "the call was still running at the end of max_connection_age_grace of the server"

AccessCheck = Callable[[Peer, RequestHeaders, bool], str]
"""Returns the reason for which a peer may not make a call, "" if it may.

The last argument says whether the call is to be forwarded.
"""

if TYPE_CHECKING:  # Making a Protocol would delay the start of plugins.
    from meshtrio.rpc.connected_stream import ConnectedStream
    from meshtrio.rpc.connection_age import ConnectionAge
    from meshtrio.rpc.server_call import CallServer

    class Forwarder(Protocol):
        """Takes the calls that are proxied instead of handled."""

        def accepts(self, headers: RequestHeaders, has_handler: bool) -> bool:
            """Return whether a call is proxied; `has_handler`: the server could handle it."""

        def forward(
            self, connection: ServerConnection, stream_id: int, headers: RequestHeaders
        ) -> ConnectedStream:
            """Take over a call; must not block.

            Returns:
                The stream of the call, which is in `connection.streams` until the call ends.
            """

        def count_rejected(self, headers: RequestHeaders, code: int, has_handler: bool) -> None:
            """Count a call that the server has rejected, which may have been one to be proxied."""

    class ConnectionOwner(CallServer, Protocol):
        """The part of a server that its connections use."""

        timeouts: Timeouts
        handler_table: HandlerTable
        forwarder: Forwarder | None
        check_access: AccessCheck | None
        peer_accounts: PeerAccounts
        connection_limiter: ConnectionLimiter
        trusted_pid: int | None
        is_exiting: bool
        owns_process: bool

        def limits_for(self, transport: Transport) -> Limits: ...


class HalfClosedStreams:
    """Gives clients time to end the streams that a server has answered.

    Clients fail a call that is reset right behind its response while they have not sent their
    END_STREAM yet, although RFC 9113 §8.1 allows the reset. So the streams stay open for a while;
    the oldest are reset if there are too many. They hold no handler and no memory of messages.
    """

    def __init__(self, engine: H2Connection, max_concurrent_streams: int) -> None:
        self._engine = engine
        self._max_streams = min(_MAX_HALF_CLOSED_STREAMS, max_concurrent_streams // 2)
        self._answered_at: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._answered_at)

    def add(self, stream_id: int, now: float) -> bool:
        """Keep a stream open; return whether others were reset, so that a flush is due."""
        self._answered_at[stream_id] = now
        return len(self._answered_at) > self._max_streams and self._trim()

    def _trim(self) -> bool:
        """Drop the streams that the client has ended, and reset the oldest of too many others."""
        is_open = self._engine.is_half_closed_local
        waiting = [item for item in self._answered_at.items() if is_open(item[0])]
        surplus = max(len(waiting) - self._max_streams, 0)
        for stream_id, _ in waiting[:surplus]:
            self._engine.reset_stream(stream_id, _NO_ERROR)
        self._answered_at = dict(waiting[surplus:])
        return surplus > 0

    def reset_older_than(self, time: float) -> None:
        """Reset the streams that were answered at a time or before it."""
        for stream_id, answered_at in list(self._answered_at.items()):
            if answered_at <= time:
                del self._answered_at[stream_id]
                self._engine.reset_stream(stream_id, _NO_ERROR)


class ServerConnection(CallOwner):
    """A connection whose streams are served; `Connection` says who owns what."""

    is_client = False
    # Those of two requests: the client works on half of the replies while the others are made.
    events_per_write = 4

    def __init__(self, transport: Transport, server: ConnectionOwner) -> None:
        super().__init__(transport, server.limits_for(transport), server.timeouts)
        self._event_handlers |= {
            events.RequestReceived: self._on_request,
            events.RequestHeadersTooLarge: self._on_request_too_large,
        }
        self.server: ConnectionOwner = server
        self.limit_keys: list[LimitKey] = []
        """The keys under which the server's connection limiter counts the connection."""
        self._peer_account: PeerAccount | None = None
        self._client_accounts: ClientAccounts | None = None
        self._age: ConnectionAge | None = None
        """The connection's age; None if there is no maximum."""
        self._drain_acknowledged = trio.Event()
        self._run_finished = trio.Event()
        self._idle_since = self._opened_at
        self._is_draining = False
        self.is_refusing = False
        """Whether new calls are refused; the client has been sent the second GOAWAY."""
        self._is_refusing_waiting = False
        self._half_closed = HalfClosedStreams(self._engine, self.limits.max_concurrent_streams)
        self.handler_tasks = HandlerTasks(self)
        """The tasks that run the handlers of the connection."""

    def statistics(self) -> ConnectionStatistics:
        counters = self.counters
        calls = CallCounters(counters.started, counters.succeeded, counters.failed)
        if counters.started:
            calls.last_started = time.time() - (self._now() - counters.last_started)
        streams = self._stream_statistics(counters.started)
        messages = counters.messages_sent, counters.messages_received
        return ConnectionStatistics(calls, streams, messages)

    # -- running and stopping ----------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await super().run(task_status=task_status)
        finally:
            if self._peer_account is not None:
                self._peer_account.connections -= 1
            self._drain_acknowledged.set()
            self._run_finished.set()

    def check_timeouts(self, now: float) -> None:
        super().check_timeouts(now)
        self.handler_tasks.end_unused()
        if self._half_closed:
            self._half_closed.reset_older_than(now - self.timeouts.half_close)
            self.flush()
        if self.streams:
            self._idle_since = now
        is_idle = now - self._idle_since > self.timeouts.max_connection_idle
        if is_idle:
            self._start_draining()
        if self._age is not None:
            self._age.check(now)

    def _start_draining(self) -> None:
        if not self._is_draining:
            assert self._nursery is not None
            self._nursery.start_soon(self.drain)

    def _end_calls_over_age(self) -> None:
        """End the calls that are running at the end of the grace period of the maximum age."""
        if self._engine.closed:
            return
        self.is_refusing = True
        self.refuse_waiting_streams()
        self._engine.refuse_new_streams()
        for stream in list(self.streams.values()):
            stream.on_age_timeout(purerpc.UnavailableError(_OVER_AGE))
        self.flush()
        self._close_if_idle()

    async def drain(self) -> None:
        """Send GOAWAY, and close once the last call has ended (RFC 9113 §6.8).

        The two GOAWAYs are a round trip apart, so that a call that crosses the first is served.
        """
        self._is_draining = True
        self._engine.start_graceful_shutdown()
        self._engine.ping(_DRAIN_PING_PAYLOAD)
        self.flush()
        with trio.move_on_after(_DRAIN_PING_TIMEOUT):
            await self._drain_acknowledged.wait()
        if not self._engine.closed:
            self._engine.refuse_new_streams()
            self.flush()
        self.is_refusing = True
        self._close_if_idle()
        await self._run_finished.wait()

    async def shut_down(self, grace: float) -> None:
        """Shut down this connection as `Server.shut_down` does all of them."""
        self._is_draining = self.is_refusing = True
        if not self._engine.closed:
            self.refuse_waiting_streams()
            self._engine.refuse_new_streams()
        for stream in list(self.streams.values()):
            stream.on_shutdown()
        self.flush()
        self._close_if_idle()
        with trio.move_on_after(grace):
            await self._run_finished.wait()
        for stream in list(self.streams.values()):
            stream.on_shutdown_timeout()
        with trio.move_on_after(CLOSE_TIMEOUT):
            await self._run_finished.wait()

    def refuse_waiting_streams(self) -> None:
        """Refuse the calls that have not started, down to the last one that has.

        Some clients (gRPC's C core) retry a call only if its stream is above the last stream of a
        GOAWAY, and not for REFUSED_STREAM alone. So a call below one that has started waits for the
        end of that one.
        """
        if self._is_refusing_waiting:
            return
        latest_first = reversed(list(self.streams.values()))
        waiting = list(takewhile(lambda stream: not stream.has_started, latest_first))
        if waiting and not self._engine.closed:
            self._engine.refuse_new_streams(waiting[-1].id)
            self._is_refusing_waiting = True
            for stream in waiting:
                stream.refuse()
            self._is_refusing_waiting = False
            self.flush()

    def _close_if_idle(self) -> None:
        if not self.streams:
            self.close("the server is shutting down")

    def _on_cancelled(self) -> None:
        # Calls that the client has sent and that were not read may be retried (RFC 9113 §6.8).
        if not self._is_handshake_done or self._engine.closed:
            return
        self._nursery = None
        self._engine.close(ErrorCode.NO_ERROR, "the server is shutting down")
        self.flush()
        if self.transport.sock.family != socket.AF_UNIX:
            # Closing with unread bytes resets a TCP connection and discards what was sent on it.
            with contextlib.suppress(OSError):
                while self.transport.sock.recv(_DISCARD_SIZE):
                    pass

    def _on_ping_ack(self, event: events.PingAckReceived) -> None:
        if event.payload == _DRAIN_PING_PAYLOAD:
            self._drain_acknowledged.set()

    # -- the peer ----------------------------------------------------------------------------

    async def _handshake(self) -> bool:
        if not await super()._handshake():
            return False
        try:
            self._register_peer()
        except ConnectionRejectedError as exc:
            self.close(str(exc), ErrorCode.ENHANCE_YOUR_CALM)
            return False
        return True

    def _register_peer(self) -> None:
        """Open an account for the connection. Raises ConnectionRejectedError."""
        server, accounts, peer = self.server, self.server.peer_accounts, self.peer
        if (tls := self.transport.ssl_object) is not None:
            limiter = server.connection_limiter
            self.limit_keys = limiter.admit_certificate(tls, peer, self.limit_keys)
        is_trusted = server.trusted_pid is not None and peer.pid == server.trusted_pid
        if not is_trusted:
            accounts.check_not_refused(peer)
        account = self._peer_account = accounts.for_peer(peer, trusted=is_trusted)
        account.connections += 1
        self.account, self.loop_share = ConnectionAccount(account), account.loop_share
        if is_trusted:
            self._client_accounts = ClientAccounts(accounts, self.account)
            return
        self._engine.abuse_limits.share(account.reset_bucket, account.control_bucket)
        if self.timeouts.max_connection_age != math.inf:
            # Few servers have a maximum age.
            from meshtrio.rpc.connection_age import ConnectionAge
            from meshtrio.util.shared_rng import RNG

            self._age = ConnectionAge(
                self.timeouts,
                self._opened_at,
                RNG,
                drain=self._start_draining,
                end_calls=self._end_calls_over_age,
                close=partial(self.close, _OVER_AGE),
            )

    def _on_failed(self, event: events.ConnectionFailed) -> None:
        super()._on_failed(event)
        if event.is_abuse:
            self._record_abuse()

    def _record_abuse(self) -> None:
        if self._peer_account is not None and not self._peer_account.is_trusted:
            self._peer_account.record_abuse()

    def _mark_closed(self) -> None:
        if not self.closed and self.streams:
            limits, abandoned = self._engine.abuse_limits, self._engine.streams.by_id.values()
            if not limits.charge_abandoned_streams(abandoned, self._now()):
                self._record_abuse()
        super()._mark_closed()

    # -- the ends of streams -----------------------------------------------------------------

    def _on_stream_removed(self, stream: ConnectedStream) -> None:
        stream.release_charges()
        if self.is_refusing:
            if self.server.forwarder is not None:
                self.refuse_waiting_streams()
            self._close_if_idle()

    def _should_await_end_stream(self, stream_id: int, code: ErrorCode) -> bool:
        if code is not _NO_ERROR or not self._engine.is_half_closed_local(stream_id):
            return False
        if self._half_closed.add(stream_id, self._now()):
            self.flush()
        return True

    def _reject(self, stream_id: int, response: bytes) -> None:
        """Send a response that is one header list, and end the stream, which fails the call."""
        self.counters.failed += 1
        # The peer may have reset the stream in the same read.
        if self.is_send_open(stream_id):
            self.send_headers(stream_id, response, end_stream=True)
            if not self._should_await_end_stream(stream_id, _NO_ERROR):
                self._engine.reset_stream(stream_id, _NO_ERROR)

    def abandon_if_exiting(self, stream: Stream) -> bool:
        if not self.server.is_exiting:
            return False
        if self.server.owns_process and not self._is_socket_kept_open:
            self._is_socket_kept_open = True
            # It fails if the socket is closed already, or without free file descriptors.
            with contextlib.suppress(OSError):
                os.dup(self.transport.sock.fileno())
        self.window_waiters.wake_next(stream)
        if self.streams.pop(stream.id, None) is not None:
            self._on_stream_removed(stream)
        return True

    # -- requests ----------------------------------------------------------------------------

    def _on_request_too_large(self, event: events.RequestHeadersTooLarge) -> None:
        self.counters.started += 1
        response = rejection.TOO_LARGE_RESPONSE
        if is_grpc_content_type(event.content_type.decode("latin-1")):
            max_size, code = self.peer_settings.max_header_list_size, StatusCode.RESOURCE_EXHAUSTED
            response = rejection.encode_trailers_only(max_size, code, event.reason)
        self._reject(event.stream_id, response)

    def _on_request(self, event: events.RequestReceived[RequestHeaders]) -> None:
        stream_id = event.stream_id
        if stream_id not in self._open_streams:
            return  # The client has reset it in the same read.
        self.counters.started += 1
        self.counters.last_started = self._last_read_at
        account = self._peer_account
        if self.running_handlers >= self.limits.max_concurrent_streams or (
            account is not None and account.active_calls >= account.max_active_calls
        ):
            self._engine.reset_stream(stream_id, _REFUSED_STREAM)
            self.counters.failed += 1
            return
        headers, handler = event.headers, self.server.handler_table.find(event.headers.path)
        is_grpc, forwarder = headers.is_grpc, self.server.forwarder
        is_forwardable = is_grpc and not headers.error_message
        if forwarder and not (is_forwardable and forwarder.accepts(headers, handler is not None)):
            forwarder = None
        status = self._find_rejection(headers, handler, forwarder) if is_grpc else None
        if status is not None:
            max_size = self.peer_settings.max_header_list_size
            self._reject(stream_id, rejection.encode_trailers_only(max_size, *status))
            has_handler = isinstance(handler, Handler)
            self.server.load_recorder.count_rejected(
                headers.path, status[0], has_handler=has_handler
            )
            if self.server.forwarder is not None:
                self.server.forwarder.count_rejected(headers, status[0], has_handler)
            if (tracer := self.server.tracer) is not None:
                notify_tracer_in_read_loop(headers.path, tracer.call_rejected, headers, status[:2])
            return
        stream: ConnectedStream
        if forwarder is not None:
            stream = forwarder.forward(self, stream_id, headers)
        elif not is_grpc:
            stream = self.streams[stream_id] = rejection.DiscardingStream(self, stream_id)
            self.start_soon(rejection.respond_non_grpc, stream)
            self.counters.failed += 1
        else:
            assert isinstance(handler, Handler)
            stream = self.streams[stream_id] = self._start_call(stream_id, headers, handler)
        if event.end_stream:
            stream.on_end_stream(None)

    def _find_rejection(
        self, headers: RequestHeaders, handler: FoundHandler, forwarder: Forwarder | None
    ) -> tuple[int, str, bytes] | None:
        """Return the status of a gRPC call that is rejected, and encoded fields to send with it."""
        if headers.error_message:
            return StatusCode.INTERNAL, headers.error_message, b""
        if self.server.check_access is not None:
            reason = self.server.check_access(self.peer, headers, forwarder is not None)
            if reason:
                return StatusCode.PERMISSION_DENIED, reason, b""
        if forwarder is not None:
            return None
        if handler is None:
            return StatusCode.UNIMPLEMENTED, f"{headers.path} is unknown", b""
        if isinstance(handler, str):
            return StatusCode.UNAVAILABLE, handler, b""
        if headers.encoding not in ENCODINGS:
            text = f"unsupported grpc-encoding {headers.encoding!r}"
            return StatusCode.UNIMPLEMENTED, text, ACCEPT_ENCODING.data
        return None

    def _start_call(self, stream_id: int, headers: RequestHeaders, handler: Handler) -> Stream:
        stream = Stream(self, stream_id, headers.path, encoding=headers.encoding)
        if self._client_accounts is not None:
            stream.charge_to(self._client_accounts.account_for(headers))
        self.running_handlers += 1
        self.handler_tasks.start(ServerCall(self, stream, handler, headers))
        return stream
