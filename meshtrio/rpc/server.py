"""A gRPC server: listeners, their connections, and a drain that loses no call."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

import attrs
import purerpc
import trio

from meshtrio.grpc.headers import RequestHeaders, is_grpc_content_type
from meshtrio.grpc.status import CallStatus
from meshtrio.http2 import events
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.limits import Limits
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.composite_tracer import compose_server_tracers, current_tracers
from meshtrio.rpc.connection import CLOSE_TIMEOUT, Connection
from meshtrio.rpc.connection_limiter import (
    ConnectionLimiter,
    LimitKey,
    TooManyConnectionsError,
)
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.method import Handler
from meshtrio.rpc.peer_accounts import (
    ConnectionAccount,
    PeerAccount,
    PeerAccounts,
    RefusedForAbuseError,
    trim_process_memory,
)
from meshtrio.rpc.purerpc_compat import collect_handlers
from meshtrio.rpc.server_call import (
    ServerCall,
    UnavailableService,
    reject_if_unservable,
    respond_header_list_too_large,
    respond_non_grpc,
    send_trailers_only,
)
from meshtrio.rpc.server_load import LoadRecorder
from meshtrio.rpc.stats import CallCounters, ConnectionStatistics
from meshtrio.rpc.stream import DiscardingStream, Stream
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.tracer import ServerTracer
from meshtrio.rpc.tracer_dispatch import notify_tracer_in_read_loop
from meshtrio.transport.acceptor import Acceptor
from meshtrio.transport.peer import Peer, peer_of
from meshtrio.transport.transport import SocketTransport, Transport
from meshtrio.util.concurrency import sleep_until_tick

_log = logging.getLogger("meshtrio.rpc")

_TIMEOUT_CHECK_INTERVAL = 1.0
_DISCARD_SIZE = 256 * 1024
_UNLIMITED_RESETS = 2**62
_MAX_HALF_CLOSED_STREAMS = 256
"""Streams of a connection that are answered and wait for the client to end its side."""
_MAX_CLIENT_ACCOUNTS = 1024
"""Ledgers of a gateway's clients that a connection keeps while they are not used."""
_DRAIN_PING_PAYLOAD = b"drain..."
_DRAIN_PING_TIMEOUT = 1.0
"""Seconds that a client has to answer the ping which ends its right to open streams."""


class Forwarder(Protocol):
    """Takes calls that are for somebody else."""

    def accepts(self, headers: RequestHeaders, has_handler: bool) -> bool:
        """Whether a call is; `known`: a handler here serves the method."""

    def forward(
        self, connection: ServerConnection, stream_id: int, headers: RequestHeaders
    ) -> Stream:
        """Take it over; gives its stream, which is among the connection's until it is over.

        Must not block.
        """


AccessCheck = Callable[[Peer, RequestHeaders, bool], str]
"""Why a peer may not make a call, "" if it may; the last one tells if it is to be forwarded."""
ServerInterceptor = Callable[[ServerContext], AbstractAsyncContextManager[Any]]


class Server:
    """Serves purerpc servicers on sockets.

        server = Server(EchoServicer())
        await nursery.start(server.serve, listener)
        ...
        await server.drain(grace=5)

    Handlers run in the nursery of their connection, connections in that of `serve`.
    """

    def __init__(
        self,
        *servicers: Any,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        interceptors: Sequence[ServerInterceptor] = (),
        forwarder: Forwarder | None = None,
        check_access: AccessCheck | None = None,
    ) -> None:
        """Raises UsageError for what is no servicer and for a service that is served twice.

        `interceptors` are async context managers around each call of a handler, the first one
        outermost; what they raise is the call's status, as with handlers. `admit` is asked before
        a call is answered, handled or forwarded.
        """
        self.forwarder = forwarder
        self.check_access = check_access
        self.trusted_pid: int | None = None
        """A process that calls on behalf of many, whose resets are therefore not counted."""
        self.interceptors = tuple(interceptors)
        self.handlers: dict[str, Handler] = collect_handlers(servicers)
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.load_recorder = LoadRecorder()
        self.trace_node = channelz_registry.TraceNode()
        self.listen_socket: channelz_registry.ListenSocket | None = None
        self.past_counters = CallCounters()
        """Calls of connections that are over."""
        self._default_tracer = current_tracers().server
        self._extra_tracers: list[ServerTracer] = []
        self.tracer = self._default_tracer
        """Who wants to know of calls, None where nobody does."""
        self._connection_limiter = ConnectionLimiter(self.limits)
        self.peer_accounts = PeerAccounts(self.limits)
        self.reply_sizes: dict[str, int] = {}
        """Bytes of lately large replies, by method: what a call of it may come to need."""
        self._lazy_servicers: dict[str, Callable[[], Any]] = {}
        self.connections: set[ServerConnection] = set()
        self.is_exiting = False
        """A handler has asked for the end of the process: see `request_exit`."""
        self.on_exit: Callable[[], Awaitable[object]] = partial(self.drain, 0.0)
        """Stops the server then."""
        self.owns_process = False
        """The process does nothing else and ends once `serve` has: calls that an exit cuts are left
        open until then, so that their callers see its end and nothing before it."""
        self._exit_error: BaseException | None = None
        self._nursery: trio.Nursery | None = None
        self._ssl_context: ssl.SSLContext | None = None
        self._acceptor = Acceptor(self._on_accept)
        self._serve_scope = trio.CancelScope()

    def add_lazy_servicer(self, service: str, factory: Callable[[], Any]) -> None:
        """Serve a service by a servicer that is made when it is first called.

        If `make` raises, which is logged, that call fails with UNAVAILABLE, and the next one has it
        tried again: modules cannot be imported while there are no file descriptors.
        """
        self._lazy_servicers[service] = factory

    def find_handler(self, path: str) -> Handler | UnavailableService | None:
        """Return the handler of a method, by its path."""
        handler = self.handlers.get(path)
        if handler is None and self._lazy_servicers:
            service = path[1:].partition("/")[0]
            if service in self._lazy_servicers:
                return self._make_servicer(service) or self.handlers.get(path)
        return handler

    def _make_servicer(self, service: str) -> UnavailableService | None:
        """Make the servicer of a service now; gives why it cannot be."""
        try:
            self.handlers |= collect_handlers([self._lazy_servicers[service]()])
        except Exception as exc:
            why = exc.strerror if isinstance(exc, OSError) else None
            _log.error("%s cannot be served now: %s", service, exc, exc_info=None if why else exc)
            reason = why or "its servicer cannot be made, the log of the process says why"
            return UnavailableService(f"{service} is unavailable: {reason}; call again later")
        del self._lazy_servicers[service]
        return None

    def limits_for(self, transport: Transport) -> Limits:
        if self.trusted_pid is None:
            return self.limits
        try:
            is_trusted = transport.peer().pid == self.trusted_pid
        except (OSError, ValueError):
            is_trusted = False  # It is gone, or TLS has not told yet who it is.
        return (
            attrs.evolve(self.limits, reset_burst=_UNLIMITED_RESETS) if is_trusted else self.limits
        )

    @contextmanager
    def add_tracer(self, tracer: ServerTracer) -> Iterator[None]:
        """Have one more observer for the calls that come during the block."""
        self._extra_tracers.append(tracer)
        self._compose_tracer()
        try:
            yield
        finally:
            self._extra_tracers.remove(tracer)
            self._compose_tracer()

    def _compose_tracer(self) -> None:
        self.tracer = compose_server_tracers(self._default_tracer, *self._extra_tracers)

    @property
    def calls_in_progress(self) -> int:
        return sum(len(connection.streams) for connection in self.connections)

    async def serve(
        self,
        listener: socket.socket,
        *,
        ssl_context: ssl.SSLContext | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept on a listening socket until cancelled or drained; takes the socket over.

        With an `ssl_context` of the server's side it speaks TLS, mutual TLS if that context asks
        for a certificate. The protocols that the context offers (ALPN) are set to h2.

        When cancelled, handlers are cancelled and their callers told UNAVAILABLE. Raises the
        SystemExit or KeyboardInterrupt that a handler has raised, once the server has stopped.
        """
        try:
            with self._serve_scope, channelz_registry.register_server(self, listener):
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    self._ssl_context = ssl_context
                    listener.setblocking(False)
                    self._acceptor.listen(listener)
                    nursery.start_soon(self._check_timeouts_periodically)
                    task_status.started()
                    await self._acceptor.run()
        finally:
            self._nursery = None
            error, self._exit_error = self._exit_error, None
            if error is not None:
                raise error

    def replace_listener(self, listener: socket.socket) -> None:
        """Accept on another listening socket instead, which is taken over.

        Connections that were made to the one before stay as they are.
        """
        listener.setblocking(False)
        self._acceptor.listen(listener)
        channelz_registry.replace_listen_socket(self, listener)

    def request_exit(self, error: BaseException) -> None:
        """Stop by `on_exit`, then have `serve` raise an error; does nothing the second time.

        Calls that are cut by it, that of the handler included, get no status: that the process has
        ended is what their callers learn.
        """
        if self.is_exiting:
            return
        self.is_exiting = True
        self._exit_error = error
        if self._nursery is not None:
            self._nursery.start_soon(self.on_exit)

    async def _check_timeouts_periodically(self) -> None:
        due = trio.current_time() + _TIMEOUT_CHECK_INTERVAL
        while True:
            await sleep_until_tick(_TIMEOUT_CHECK_INTERVAL)
            self._acceptor.refill_spare_descriptors()
            now = trio.current_time()
            # Where this process stood still, what peers have sent is read first: they are not late.
            if now < due + _TIMEOUT_CHECK_INTERVAL:
                for connection in list(self.connections):
                    connection.check_timeouts(now)
            due = now + _TIMEOUT_CHECK_INTERVAL
            await trim_process_memory()

    def _on_accept(self, sock: socket.socket, out_of_descriptors: bool) -> None:
        """Serve an accepted connection, or reject it."""
        assert self._nursery is not None
        encrypted = self._ssl_context is not None
        try:
            self.peer_accounts.check_not_refused(peer_of(sock))
            who = self._connection_limiter.admit(
                sock, trusted_pid=self.trusted_pid, out_of_descriptors=out_of_descriptors
            )
        except OSError:
            sock.close()  # Its client is gone already.
            return
        except (TooManyConnectionsError, RefusedForAbuseError) as exc:
            if out_of_descriptors:
                self._connection_limiter.reject_now(sock, str(exc), encrypted=encrypted)
                return
            reject = partial(self._connection_limiter.reject, encrypted=encrypted)
            self._nursery.start_soon(reject, sock, str(exc))
            return
        try:
            connection = ServerConnection(self._make_transport(sock), self)
        except OSError:
            sock.close()
            self._connection_limiter.release(who)
            return
        connection.limit_keys = who
        self.connections.add(connection)
        self._nursery.start_soon(self._serve_connection, connection)

    def _make_transport(self, sock: socket.socket) -> Transport:
        if self._ssl_context is None:
            return SocketTransport(sock)
        from meshtrio.transport.tls import TlsTransport  # few servers need it

        return TlsTransport(sock, self._ssl_context, server_side=True)

    def admit_certificate(self, connection: ServerConnection, tls: ssl.SSLObject) -> str:
        """Count a connection for its client certificate; gives why it is rejected, "" if not."""
        try:
            connection.limit_keys = self._connection_limiter.admit_certificate(
                tls, connection.peer, connection.limit_keys
            )
        except TooManyConnectionsError as exc:
            return str(exc)
        return ""

    async def _serve_connection(self, connection: ServerConnection) -> None:
        try:
            await connection.run()
        except Exception:
            # A bug of ours; it may cost this connection, and no other.
            _log.exception("a connection failed")
        finally:
            self.connections.discard(connection)
            self.past_counters.add_calls(connection.final_calls())
            self._connection_limiter.release(connection.limit_keys)

    async def drain(self, grace: float) -> tuple[str, ...]:
        """Stop accepting, refuse new calls, let those under way finish within `grace` seconds.

        Clients that have connected already are served until then, those that are not accepted yet
        included. Gives the paths of the calls that were cut when the time was over. When cancelled,
        what is left is cut at once. `serve` has ended its work when this returns.
        """
        self._acceptor.stop()
        cut: tuple[str, ...] = ()
        try:
            with trio.move_on_after(grace):
                async with trio.open_nursery() as nursery:
                    for connection in list(self.connections):
                        nursery.start_soon(connection.drain)
        finally:
            cut = tuple(s.path for c in self.connections for s in c.streams.values())
            self._serve_scope.cancel()
        return cut

    async def shut_down(self, grace: float) -> None:
        """Stop accepting, end the calls of handlers with UNAVAILABLE, and refuse all others that
        have not begun, for their clients to make again.

        Forwarded calls that have begun may finish within `grace` seconds, and are then ended with
        UNAVAILABLE. Cancellation: what is left is cut. `serve` has ended its work after this.
        """
        self._acceptor.stop()
        try:
            async with trio.open_nursery() as nursery:
                for connection in list(self.connections):
                    nursery.start_soon(connection.shut_down, grace)
        finally:
            self._serve_scope.cancel()


class ServerConnection(Connection):
    """A connection whose streams are served; see `GrpcConnection` for who owns what."""

    def __init__(self, transport: Transport, server: Server) -> None:
        super().__init__(transport, Role.SERVER, server.limits_for(transport), server.timeouts)
        self._find_handler = server.find_handler
        self._forwarder, self._check_access = server.forwarder, server.check_access
        self.interceptors = server.interceptors
        self.load_recorder = server.load_recorder
        self.server = server
        self.limit_keys: list[LimitKey] = []
        """What the server's limits on connections count it as."""
        self._peer_account: PeerAccount | None = None
        self._client_accounts: dict[PeerAccount, ConnectionAccount] = {}
        """Those of a gateway's clients."""
        self._running_handlers = 0
        """Handlers that have not ended, whatever became of their streams."""
        self._drain_acknowledged = trio.Event()
        self._run_finished = trio.Event()
        self._idle_since = self._opened_at
        self._is_draining = False
        self._is_refusing = False
        self._is_refusing_waiting = False
        self._half_closed_streams: dict[int, float] = {}
        """Streams that the client has still to end, and when they were answered."""
        self._is_socket_kept_open = False
        self._max_half_closed_streams = min(
            _MAX_HALF_CLOSED_STREAMS, self.limits.max_concurrent_streams // 2
        )

    def statistics(self) -> ConnectionStatistics:
        counters = self.counters
        calls = CallCounters(counters.started, counters.succeeded, counters.failed)
        if counters.started:
            calls.last_started = time.time() - (self._now() - counters.last_started)
        streams = self._stream_statistics(counters.started)
        messages = counters.messages_sent, counters.messages_received
        return ConnectionStatistics(calls, streams, messages)

    def check_timeouts(self, now: float) -> None:
        super().check_timeouts(now)
        if self._half_closed_streams:
            self._reset_half_closed_streams(now - self.timeouts.half_close)
        if self.streams:
            self._idle_since = now
        idle = now - self._idle_since > self.timeouts.max_connection_idle
        if (
            idle or now - self._opened_at > self.timeouts.max_connection_age
        ) and not self._is_draining:
            assert self._nursery is not None
            self._nursery.start_soon(self.drain)

    async def drain(self) -> None:
        """Tell the client to go elsewhere, then close once its last call is over (RFC 9113 §6.8).

        The two GOAWAYs are a round trip apart, so that a call which crosses the first is served.
        """
        self._is_draining = True
        self.engine.start_graceful_shutdown()
        self.engine.ping(_DRAIN_PING_PAYLOAD)
        self.flush()
        with trio.move_on_after(_DRAIN_PING_TIMEOUT):
            await self._drain_acknowledged.wait()
        if not self.engine.closed:
            self.engine.refuse_new_streams()
            self.flush()
        self._is_refusing = True
        self._close_if_idle()
        await self._run_finished.wait()

    async def shut_down(self, grace: float) -> None:
        """Do for one connection what `Server.shut_down` does for all."""
        self._is_draining = self._is_refusing = True
        if not self.engine.closed:
            self.refuse_waiting_streams()
            self.engine.refuse_new_streams()
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
        """Refuse the calls that have not begun, as far as no call that was made later has.

        Some clients (gRPC's C core) make a call again only if its stream is above the last one of a
        GOAWAY, and not for REFUSED_STREAM alone. A call below one that has begun waits for its end.
        """
        if self._is_refusing_waiting:
            return
        waiting: list[Stream] = []
        for stream in reversed(list(self.streams.values())):
            if stream.has_started:
                break
            waiting.append(stream)
        if waiting and not self.engine.closed:
            self.engine.refuse_new_streams(waiting[-1].id)
            self._is_refusing_waiting = True
            for stream in waiting:
                stream.refuse()
            self._is_refusing_waiting = False
            self.flush()

    def _on_cancelled(self) -> None:
        """What the client has sent and was not read may be called again elsewhere (§6.8)."""
        if not self._is_handshake_done or self.engine.closed:
            return
        self._nursery = None
        self.engine.close(ErrorCode.NO_ERROR, "the server is shutting down")
        self.flush()
        if self.transport.sock.family != socket.AF_UNIX:
            # Closing with unread bytes resets a TCP connection, and what was sent on it is lost.
            with contextlib.suppress(OSError):
                while self.transport.sock.recv(_DISCARD_SIZE):
                    pass

    @property
    def is_refusing(self) -> bool:
        """No further call is begun; the client has been sent GOAWAY."""
        return self._is_refusing

    def _on_ping_ack(self, event: events.PingAckReceived) -> None:
        if event.payload == _DRAIN_PING_PAYLOAD:
            self._drain_acknowledged.set()

    def _on_stream_removed(self, stream: Stream) -> None:
        stream.release_charges()
        if self._is_refusing:
            if self._forwarder is not None:
                self.refuse_waiting_streams()
            self._close_if_idle()

    def _should_await_end_stream(self, stream_id: int, code: ErrorCode) -> bool:
        """A reset right behind the answer makes clients fail the call that have not sent their
        END_STREAM yet, so they get a moment for it (RFC 9113 §8.1 allows to reset)."""
        if code is not ErrorCode.NO_ERROR or not self.engine.is_half_closed_local(stream_id):
            return False
        self._half_closed_streams[stream_id] = self._now()
        if len(self._half_closed_streams) > self._max_half_closed_streams:
            self._trim_half_closed_streams()
        return True

    def finish_stream(self, stream_id: int) -> None:
        """End a stream that was answered, and of which nothing else is kept."""
        if not self._should_await_end_stream(stream_id, ErrorCode.NO_ERROR):
            self.engine.reset_stream(stream_id, ErrorCode.NO_ERROR)

    def _trim_half_closed_streams(self) -> None:
        """Keep those that the client has not ended, and reset the oldest if they are too many."""
        awaits_end = self.engine.is_half_closed_local
        waiting = [item for item in self._half_closed_streams.items() if awaits_end(item[0])]
        surplus = max(len(waiting) - self._max_half_closed_streams, 0)
        for stream_id, _ in waiting[:surplus]:
            self.engine.reset_stream(stream_id, ErrorCode.NO_ERROR)
        self._half_closed_streams = dict(waiting[surplus:])
        if surplus:
            self.flush()

    def _reset_half_closed_streams(self, before: float) -> None:
        """Reset the streams that were answered before a time."""
        for stream_id, since in list(self._half_closed_streams.items()):
            if since <= before:
                del self._half_closed_streams[stream_id]
                self.engine.reset_stream(stream_id, ErrorCode.NO_ERROR)
        self.flush()

    def abandon_stream(self, stream: Stream) -> None:
        """Drop a call without an answer: its caller learns that the process has ended."""
        if self.server.owns_process and not self._is_socket_kept_open:
            self._is_socket_kept_open = True
            with contextlib.suppress(
                OSError
            ):  # It is closed already, or there is no descriptor left.
                os.dup(self.transport.sock.fileno())
        self.wake_next_sender(stream)
        if self.streams.pop(stream.id, None) is not None:
            self._on_stream_removed(stream)

    def _close_if_idle(self) -> None:
        if not self.streams:
            self.close("the server is shutting down")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await super().run(task_status=task_status)
        finally:
            if self._peer_account is not None:
                self._peer_account.connections -= 1
            self._drain_acknowledged.set()
            self._run_finished.set()

    async def _drain_before_close(self) -> None:
        if not self._is_socket_kept_open:
            await super()._drain_before_close()
            return
        with trio.move_on_after(CLOSE_TIMEOUT), contextlib.suppress(OSError):
            await self.write_buffer.wait_drained()

    async def _handshake(self) -> bool:
        if not await super()._handshake():
            return False
        tls = self.transport.ssl_object
        reason = "" if tls is None else self.server.admit_certificate(self, tls)
        reason = reason or self._register_peer()
        if reason:
            self.close(reason, ErrorCode.ENHANCE_YOUR_CALM)
        return not reason

    def _register_peer(self) -> str:
        """Count the connection for its peer; gives why it is refused, "" if it is not."""
        server, peer = self.server, self.peer
        trusted = server.trusted_pid is not None and peer.pid == server.trusted_pid
        try:
            server.peer_accounts.check_not_refused(peer)
        except RefusedForAbuseError as exc:
            if not trusted:
                return str(exc)
        account = self._peer_account = server.peer_accounts.for_peer(peer, trusted=trusted)
        account.connections += 1
        self.account, self.loop_share = ConnectionAccount(account), account.loop_share
        if not trusted:
            self.engine.share_token_buckets(account.reset_bucket, account.control_bucket)
        return ""

    def _account_for(self, headers: RequestHeaders) -> ConnectionAccount | None:
        """The ledger of who makes a call: of a gateway's client, if the peer is the mesh."""
        if self._peer_account is None or not self._peer_account.is_trusted:
            return self.account
        account = self.server.peer_accounts.for_forwarded_client(headers)
        if account is None:
            return self.account
        ledger = self._client_accounts.get(account)
        if ledger is None:
            if len(self._client_accounts) >= _MAX_CLIENT_ACCOUNTS:
                busy = {a: each for a, each in self._client_accounts.items() if each.is_in_use}
                self._client_accounts = busy
            ledger = self._client_accounts[account] = ConnectionAccount(account)
        return ledger

    def _on_failed(self, event: events.ConnectionFailed) -> None:
        super()._on_failed(event)
        if event.is_abuse:
            self._record_abuse()

    def _record_abuse(self) -> None:
        if self._peer_account is not None and not self._peer_account.is_trusted:
            self._peer_account.record_abuse()

    def _mark_closed(self) -> None:
        if (
            not self.closed
            and self.streams
            and not self.engine.charge_abandoned_streams(self._now())
        ):
            self._record_abuse()
        super()._mark_closed()

    def _on_request_too_large(self, event: events.RequestHeadersTooLarge) -> None:
        self.counters.started += 1
        if is_grpc_content_type(event.content_type.decode("latin-1")):
            exhausted = purerpc.StatusCode.RESOURCE_EXHAUSTED
            send_trailers_only(self, event.stream_id, exhausted, event.reason)
        else:
            self.counters.failed += 1
            respond_header_list_too_large(self, event.stream_id)

    def _on_request(self, event: events.RequestReceived[RequestHeaders]) -> None:
        if not self.engine.is_send_open(event.stream_id):
            return  # It was reset by the same read: nothing is done for it.
        self.counters.started += 1
        self.counters.last_started = self._last_read_at
        head, handler = event.headers, self._find_handler(event.headers.path)
        account = self._peer_account
        full = account is not None and account.active_calls >= account.max_active_calls
        if full or self._running_handlers >= self.limits.max_concurrent_streams:
            self.engine.reset_stream(event.stream_id, ErrorCode.REFUSED_STREAM)
            self.counters.failed += 1
            return
        if head.error_message and head.is_grpc:
            code = purerpc.StatusCode.INTERNAL
            self._trace_rejection(
                head, send_trailers_only(self, event.stream_id, code, head.error_message)
            )
            return
        forward = self._forwarder is not None and self._should_forward(head, handler)
        if self._check_access is not None and head.is_grpc and not self._is_allowed(event, forward):
            return
        if forward:
            assert self._forwarder is not None
            stream = self._forwarder.forward(self, event.stream_id, head)
            if event.end_stream:
                stream.on_end_stream(None)
            return
        if not head.is_grpc:
            stream = DiscardingStream(self, event.stream_id)
            self.start_soon(respond_non_grpc, stream)
            self.counters.failed += 1
        elif (refusal := reject_if_unservable(self, event.stream_id, head, handler)) is not None:
            self._trace_rejection(head, refusal)
            return
        else:
            assert isinstance(handler, Handler)
            stream = self._start_call(event.stream_id, head, handler)
        self.streams[stream.id] = stream
        if event.end_stream:
            stream.on_end_stream(None)

    def _should_forward(
        self, headers: RequestHeaders, handler: Handler | UnavailableService | None
    ) -> bool:
        assert self._forwarder is not None
        return headers.is_grpc and self._forwarder.accepts(headers, handler is not None)

    def _is_allowed(self, event: events.RequestReceived[RequestHeaders], forward: bool) -> bool:
        assert self._check_access is not None
        reason = self._check_access(self.peer, event.headers, forward)
        if reason:
            refusal = send_trailers_only(
                self, event.stream_id, purerpc.StatusCode.PERMISSION_DENIED, reason
            )
            self._trace_rejection(event.headers, refusal)
        return not reason

    def _trace_rejection(self, headers: RequestHeaders, status: CallStatus) -> None:
        if self.server.tracer is not None:
            notify_tracer_in_read_loop(
                headers.path, self.server.tracer.call_rejected, headers, status
            )

    def _start_call(self, stream_id: int, headers: RequestHeaders, handler: Handler) -> Stream:
        stream = Stream(self, stream_id)
        stream.encoding = headers.encoding
        stream.path = headers.path
        if self._peer_account is not None and self._peer_account.is_trusted:
            stream.charge_to(self._account_for(headers))
        self._running_handlers += 1
        self.start_soon(ServerCall(self, stream, handler, headers, self.server.tracer).run)
        return stream

    def release_handler_slot(self) -> None:
        """A handler has ended; its place is free."""
        self._running_handlers -= 1
