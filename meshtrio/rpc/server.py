"""A gRPC server: listeners, their connections, and a drain that loses no call."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial, reduce
from typing import Any, Protocol

import attrs
import purerpc
import trio

from meshtrio.rpc import census
from meshtrio.rpc.acceptor import Acceptor
from meshtrio.rpc.accounts import Account, Accounts, Ledger, RefusedForAbuseError
from meshtrio.rpc.connection import LAST_WORDS, Connection
from meshtrio.rpc.crowd import Crowd, TooManyConnectionsError, Who
from meshtrio.rpc.memory import return_freed_memory
from meshtrio.rpc.meter import Meter
from meshtrio.rpc.observe import Outcome, ServerObserver
from meshtrio.rpc.observers import observers, together_served
from meshtrio.rpc.peer import Peer, peer_of
from meshtrio.rpc.seam import Handler, Request, handlers_of
from meshtrio.rpc.serving import (
    ServerCall,
    UnavailableService,
    answer_at_once,
    answer_not_grpc,
    answer_too_large,
    refuse,
)
from meshtrio.rpc.stream import DiscardingStream, Stream
from meshtrio.rpc.tally import Tally, calls_in_the_end
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.tracing import notify_in_read_loop
from meshtrio.rpc.transport import SocketTransport, Transport
from meshtrio.structured import next_beat
from meshtrio.wire import events
from meshtrio.wire.connection import Role
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.heads import RequestHead
from meshtrio.wire.limits import Limits

_log = logging.getLogger("meshtrio.rpc")

_HOUSEKEEPING = 1.0
_UNREAD_SIZE = 256 * 1024
_UNCOUNTED = 2**62
_MAX_ANSWERED = 256
"""Streams of a connection that are answered and wait for the client to end its side."""
_MAX_LEDGERS = 1024
"""Ledgers of a gateway's clients that a connection keeps while they are not used."""
_DRAIN_PING = b"drain..."
_DRAIN_PING_WAIT = 1.0
"""Seconds that a client has to answer the ping which ends its right to open streams."""


class Forwarder(Protocol):
    """Takes calls that are for somebody else."""

    def wants(self, head: RequestHead, known: bool) -> bool:
        """Whether a call is; `known`: a handler here serves the method."""

    def forward(self, connection: ServerConnection, stream_id: int, head: RequestHead) -> Stream:
        """Take it over; gives its stream, which is among the connection's until it is over.

        Must not block.
        """


Admit = Callable[[Peer, RequestHead, bool], str]
"""Why a peer may not make a call, "" if it may; the last one tells if it is to be forwarded."""
ServerInterceptor = Callable[[Request], AbstractAsyncContextManager[Any]]


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
        admit: Admit | None = None,
    ) -> None:
        """Raises UsageError for what is no servicer and for a service that is served twice.

        `interceptors` are async context managers around each call of a handler, the first one
        outermost; what they raise is the call's status, as with handlers. `admit` is asked before
        a call is answered, handled or forwarded.
        """
        self.forwarder = forwarder
        self.admit = admit
        self.trusted_pid: int | None = None
        """A process that calls on behalf of many, whose resets are therefore not counted."""
        self.interceptors = tuple(interceptors)
        self.handlers: dict[str, Handler] = handlers_of(servicers)
        self.limits = limits or Limits()
        self.timeouts = timeouts or Timeouts()
        self.meter = Meter()
        self.entry = census.Entry()
        self.door: census.Door | None = None
        self.past = Tally()
        """Calls of connections that are over."""
        self._host = observers().server
        self._guests: list[ServerObserver] = []
        self.observer = self._host
        """Who wants to know of calls, None where nobody does."""
        self._crowd = Crowd(self.limits)
        self.accounts = Accounts(self.limits)
        self.reply_sizes: dict[str, int] = {}
        """Bytes of lately large replies, by method: what a call of it may come to need."""
        self._later: dict[str, Callable[[], Any]] = {}
        self.connections: set[ServerConnection] = set()
        self.exiting = False
        """A handler has asked for the end of the process: see `request_exit`."""
        self.on_exit: Callable[[], Awaitable[object]] = partial(self.drain, 0.0)
        """Stops the server then."""
        self.ends_with_process = False
        """The process does nothing else and ends once `serve` has: calls that an exit cuts are left
        open until then, so that their callers see its end and nothing before it."""
        self._exit_error: BaseException | None = None
        self._nursery: trio.Nursery | None = None
        self._ssl_context: ssl.SSLContext | None = None
        self._acceptor = Acceptor(self._take)
        self._stopping = trio.CancelScope()

    def serve_when_called(self, service: str, make: Callable[[], Any]) -> None:
        """Serve a service by a servicer that is made when it is first called.

        If `make` raises, which is logged, that call fails with UNAVAILABLE, and the next one has it
        tried again: modules cannot be imported while there are no file descriptors.
        """
        self._later[service] = make

    def find(self, path: str) -> Handler | UnavailableService | None:
        """Return the handler of a method, by its path."""
        handler = self.handlers.get(path)
        if handler is None and self._later:
            service = path[1:].partition("/")[0]
            if service in self._later:
                return self._make(service) or self.handlers.get(path)
        return handler

    def _make(self, service: str) -> UnavailableService | None:
        """Make the servicer of a service now; gives why it cannot be."""
        try:
            self.handlers |= handlers_of([self._later[service]()])
        except Exception as exc:
            why = exc.strerror if isinstance(exc, OSError) else None
            _log.error("%s cannot be served now: %s", service, exc, exc_info=None if why else exc)
            reason = why or "its servicer cannot be made, the log of the process says why"
            return UnavailableService(f"{service} is unavailable: {reason}; call again later")
        del self._later[service]
        return None

    def limits_for(self, transport: Transport) -> Limits:
        if self.trusted_pid is None:
            return self.limits
        try:
            is_trusted = transport.peer().pid == self.trusted_pid
        except (OSError, ValueError):
            is_trusted = False  # It is gone, or TLS has not told yet who it is.
        return attrs.evolve(self.limits, reset_burst=_UNCOUNTED) if is_trusted else self.limits

    @contextmanager
    def observed_by(self, observer: ServerObserver) -> Iterator[None]:
        """Have one more observer for the calls that come during the block."""
        self._guests.append(observer)
        self._gather()
        try:
            yield
        finally:
            self._guests.remove(observer)
            self._gather()

    def _gather(self) -> None:
        self.observer = reduce(together_served, self._guests, self._host)

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
            with self._stopping, census.serving(self, listener):
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    self._ssl_context = ssl_context
                    listener.setblocking(False)
                    self._acceptor.listen(listener)
                    nursery.start_soon(self._keep_house)
                    task_status.started()
                    await self._acceptor.run()
        finally:
            self._nursery = None
            error, self._exit_error = self._exit_error, None
            if error is not None:
                raise error

    def move_to(self, listener: socket.socket) -> None:
        """Accept on another listening socket instead, which is taken over.

        Connections that were made to the one before stay as they are.
        """
        listener.setblocking(False)
        self._acceptor.listen(listener)
        census.move(self, listener)

    def request_exit(self, error: BaseException) -> None:
        """Stop by `on_exit`, then have `serve` raise an error; does nothing the second time.

        Calls that are cut by it, that of the handler included, get no status: that the process has
        ended is what their callers learn.
        """
        if self.exiting:
            return
        self.exiting = True
        self._exit_error = error
        if self._nursery is not None:
            self._nursery.start_soon(self.on_exit)

    async def _keep_house(self) -> None:
        due = trio.current_time() + _HOUSEKEEPING
        while True:
            await next_beat(_HOUSEKEEPING)
            self._acceptor.refill()
            now = trio.current_time()
            # Where this process stood still, what peers have sent is read first: they are not late.
            if now < due + _HOUSEKEEPING:
                for connection in list(self.connections):
                    connection.keep_house(now)
            due = now + _HOUSEKEEPING
            await return_freed_memory()

    def _take(self, sock: socket.socket, exhausted: bool) -> None:
        """Serve an accepted connection, or reject it."""
        assert self._nursery is not None
        encrypted = self._ssl_context is not None
        try:
            self.accounts.check(peer_of(sock))
            who = self._crowd.enter(sock, trusted_pid=self.trusted_pid, exhausted=exhausted)
        except OSError:
            sock.close()  # Its client is gone already.
            return
        except (TooManyConnectionsError, RefusedForAbuseError) as exc:
            if exhausted:
                self._crowd.reject_now(sock, str(exc), encrypted=encrypted)
                return
            reject = partial(self._crowd.reject, encrypted=encrypted)
            self._nursery.start_soon(reject, sock, str(exc))
            return
        try:
            connection = ServerConnection(self._transport(sock), self)
        except OSError:
            sock.close()
            self._crowd.leave(who)
            return
        connection.counted_as = who
        self.connections.add(connection)
        self._nursery.start_soon(self._serve_connection, connection)

    def _transport(self, sock: socket.socket) -> Transport:
        if self._ssl_context is None:
            return SocketTransport(sock)
        from meshtrio.rpc.tls import TlsTransport  # few servers need it

        return TlsTransport(sock, self._ssl_context, server_side=True)

    def count_certificate(self, connection: ServerConnection, tls: ssl.SSLObject) -> str:
        """Count a connection for its client certificate; gives why it is rejected, "" if not."""
        try:
            connection.counted_as = self._crowd.enter_certificate(
                tls, connection.peer, connection.counted_as
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
            self.past.add(calls_in_the_end(connection))
            self._crowd.leave(connection.counted_as)

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
            self._stopping.cancel()
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
            self._stopping.cancel()


class ServerConnection(Connection):
    """A connection whose streams are served; see `Connection` for who owns what."""

    def __init__(self, transport: Transport, server: Server) -> None:
        super().__init__(transport, Role.SERVER, server.limits_for(transport), server.timeouts)
        self._find = server.find
        self._forwarder, self._admit = server.forwarder, server.admit
        self.interceptors = server.interceptors
        self.meter = server.meter
        self.server = server
        self.counted_as: list[Who] = []
        """What the server's limits on connections count it as."""
        self._account: Account | None = None
        self._ledgers: dict[Account, Ledger] = {}
        """Those of a gateway's clients."""
        self._running = 0
        """Handlers that have not ended, whatever became of their streams."""
        self._drain_acknowledged = trio.Event()
        self._ended = trio.Event()
        self._idle_since = self._opened
        self._draining = False
        self._refusing = False
        self._refusing_waiting = False
        self._answered: dict[int, float] = {}
        """Streams that the client has still to end, and when they were answered."""
        self._holds_socket = False
        self._max_answered = min(_MAX_ANSWERED, self.limits.max_concurrent_streams // 2)

    def keep_house(self, now: float) -> None:
        super().keep_house(now)
        if self._answered:
            self._reset_answered(now - self.timeouts.half_close)
        if self.streams:
            self._idle_since = now
        idle = now - self._idle_since > self.timeouts.idle
        if (idle or now - self._opened > self.timeouts.age) and not self._draining:
            assert self._nursery is not None
            self._nursery.start_soon(self.drain)

    async def drain(self) -> None:
        """Tell the client to go elsewhere, then close once its last call is over (RFC 9113 §6.8).

        The two GOAWAYs are a round trip apart, so that a call which crosses the first is served.
        """
        self._draining = True
        self.engine.announce_shutdown()
        self.engine.ping(_DRAIN_PING)
        self.flush()
        with trio.move_on_after(_DRAIN_PING_WAIT):
            await self._drain_acknowledged.wait()
        if not self.engine.closed:
            self.engine.refuse_new_streams()
            self.flush()
        self._refusing = True
        self._close_if_done()
        await self._ended.wait()

    async def shut_down(self, grace: float) -> None:
        """Do for one connection what `Server.shut_down` does for all."""
        self._draining = self._refusing = True
        if not self.engine.closed:
            self.refuse_waiting()
            self.engine.refuse_new_streams()
        for stream in list(self.streams.values()):
            stream.on_shutdown()
        self.flush()
        self._close_if_done()
        with trio.move_on_after(grace):
            await self._ended.wait()
        for stream in list(self.streams.values()):
            stream.on_shutdown_timeout()
        with trio.move_on_after(LAST_WORDS):
            await self._ended.wait()

    def refuse_waiting(self) -> None:
        """Refuse the calls that have not begun, as far as no call that was made later has.

        Some clients (gRPC's C core) make a call again only if its stream is above the last one of a
        GOAWAY, and not for REFUSED_STREAM alone. A call below one that has begun waits for its end.
        """
        if self._refusing_waiting:
            return
        waiting: list[Stream] = []
        for stream in reversed(list(self.streams.values())):
            if stream.begun:
                break
            waiting.append(stream)
        if waiting and not self.engine.closed:
            self.engine.refuse_new_streams(waiting[-1].id)
            self._refusing_waiting = True
            for stream in waiting:
                stream.refuse()
            self._refusing_waiting = False
            self.flush()

    def _on_cut(self) -> None:
        """What the client has sent and was not read may be called again elsewhere (§6.8)."""
        if not self._shaken or self.engine.closed:
            return
        self._nursery = None
        self.engine.close(ErrorCode.NO_ERROR, "the server is shutting down")
        self.flush()
        if self.transport.sock.family != socket.AF_UNIX:
            # Closing with unread bytes resets a TCP connection, and what was sent on it is lost.
            with contextlib.suppress(OSError):
                while self.transport.sock.recv(_UNREAD_SIZE):
                    pass

    @property
    def refusing(self) -> bool:
        """No further call is begun; the client has been sent GOAWAY."""
        return self._refusing

    def _on_ping_ack(self, event: events.PingAcknowledged) -> None:
        if event.payload == _DRAIN_PING:
            self._drain_acknowledged.set()

    def _on_stream_gone(self, stream: Stream) -> None:
        stream.settle_account()
        if self._refusing:
            if self._forwarder is not None:
                self.refuse_waiting()
            self._close_if_done()

    def _awaits_end(self, stream_id: int, code: ErrorCode) -> bool:
        """A reset right behind the answer makes clients fail the call that have not sent their
        END_STREAM yet, so they get a moment for it (RFC 9113 §8.1 allows to reset)."""
        if code is not ErrorCode.NO_ERROR or not self.engine.awaits_end(stream_id):
            return False
        self._answered[stream_id] = self._now()
        if len(self._answered) > self._max_answered:
            self._drop_ended()
        return True

    def end_answered(self, stream_id: int) -> None:
        """End a stream that was answered, and of which nothing else is kept."""
        if not self._awaits_end(stream_id, ErrorCode.NO_ERROR):
            self.engine.reset_stream(stream_id, ErrorCode.NO_ERROR)

    def _drop_ended(self) -> None:
        """Keep those that the client has not ended, and reset the oldest if they are too many."""
        awaits_end = self.engine.awaits_end
        waiting = [item for item in self._answered.items() if awaits_end(item[0])]
        surplus = max(len(waiting) - self._max_answered, 0)
        for stream_id, _ in waiting[:surplus]:
            self.engine.reset_stream(stream_id, ErrorCode.NO_ERROR)
        self._answered = dict(waiting[surplus:])
        if surplus:
            self.flush()

    def _reset_answered(self, before: float) -> None:
        """Reset the streams that were answered before a time."""
        for stream_id, since in list(self._answered.items()):
            if since <= before:
                del self._answered[stream_id]
                self.engine.reset_stream(stream_id, ErrorCode.NO_ERROR)
        self.flush()

    def abandon(self, stream: Stream) -> None:
        """Drop a call without an answer: its caller learns that the process has ended."""
        if self.server.ends_with_process and not self._holds_socket:
            self._holds_socket = True
            with contextlib.suppress(
                OSError
            ):  # It is closed already, or there is no descriptor left.
                os.dup(self.transport.sock.fileno())
        self.wake_next_sender(stream)
        if self.streams.pop(stream.id, None) is not None:
            self._on_stream_gone(stream)

    def _close_if_done(self) -> None:
        if not self.streams:
            self.shut("the server is shutting down")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await super().run(task_status=task_status)
        finally:
            if self._account is not None:
                self._account.connections -= 1
            self._drain_acknowledged.set()
            self._ended.set()

    async def _linger(self) -> None:
        if not self._holds_socket:
            await super()._linger()
            return
        with trio.move_on_after(LAST_WORDS), contextlib.suppress(OSError):
            await self.outbox.empty()

    async def _shake_hands(self) -> bool:
        if not await super()._shake_hands():
            return False
        tls = self.transport.tls
        reason = "" if tls is None else self.server.count_certificate(self, tls)
        reason = reason or self._open_account()
        if reason:
            self.shut(reason, ErrorCode.ENHANCE_YOUR_CALM)
        return not reason

    def _open_account(self) -> str:
        """Count the connection for its peer; gives why it is refused, "" if it is not."""
        server, peer = self.server, self.peer
        trusted = server.trusted_pid is not None and peer.pid == server.trusted_pid
        try:
            server.accounts.check(peer)
        except RefusedForAbuseError as exc:
            if not trusted:
                return str(exc)
        account = self._account = server.accounts.of(peer, trusted=trusted)
        account.connections += 1
        self.ledger, self.share = Ledger(account), account.share
        if not trusted:
            self.engine.share_budgets(account.resets, account.control)
        return ""

    def _ledger_for(self, head: RequestHead) -> Ledger | None:
        """The ledger of who makes a call: of a gateway's client, if the peer is the mesh."""
        if self._account is None or not self._account.is_trusted:
            return self.ledger
        account = self.server.accounts.of_client(head)
        if account is None:
            return self.ledger
        ledger = self._ledgers.get(account)
        if ledger is None:
            if len(self._ledgers) >= _MAX_LEDGERS:
                busy = {a: each for a, each in self._ledgers.items() if each.is_used}
                self._ledgers = busy
            ledger = self._ledgers[account] = Ledger(account)
        return ledger

    def _on_failed(self, event: events.ConnectionFailed) -> None:
        super()._on_failed(event)
        if event.is_abuse:
            self._note_abuse()

    def _note_abuse(self) -> None:
        if self._account is not None and not self._account.is_trusted:
            self._account.note_abuse()

    def _close_calls(self) -> None:
        if not self.closed and self.streams and not self.engine.charge_lost_streams(self._now()):
            self._note_abuse()
        super()._close_calls()

    def _on_large_request(self, event: events.RequestTooLarge) -> None:
        self.tally.started += 1
        if event.is_grpc:
            exhausted = purerpc.StatusCode.RESOURCE_EXHAUSTED
            answer_at_once(self, event.stream_id, exhausted, event.reason)
        else:
            self.tally.failed += 1
            answer_too_large(self, event.stream_id)

    def _on_request(self, event: events.RequestReceived) -> None:
        if not self.engine.can_send(event.stream_id):
            return  # It was reset by the same read: nothing is done for it.
        self.tally.started += 1
        self.tally.last_started = self._heard
        head, handler = event.head, self._find(event.head.path)
        account = self._account
        full = account is not None and account.calls >= account.max_calls
        if full or self._running >= self.limits.max_concurrent_streams:
            self.engine.reset_stream(event.stream_id, ErrorCode.REFUSED_STREAM)
            self.tally.failed += 1
            return
        if head.problem and head.is_grpc:
            code = purerpc.StatusCode.INTERNAL
            self._note_refusal(head, answer_at_once(self, event.stream_id, code, head.problem))
            return
        forward = self._forwarder is not None and self._is_for_others(head, handler)
        if self._admit is not None and head.is_grpc and not self._admits(event, forward):
            return
        if forward:
            assert self._forwarder is not None
            stream = self._forwarder.forward(self, event.stream_id, head)
            if event.end_stream:
                stream.on_end(None)
            return
        if not head.is_grpc:
            stream = DiscardingStream(self, event.stream_id)
            self.spawn(answer_not_grpc, stream)
            self.tally.failed += 1
        elif (refusal := refuse(self, event.stream_id, head, handler)) is not None:
            self._note_refusal(head, refusal)
            return
        else:
            assert isinstance(handler, Handler)
            stream = self._serve(event.stream_id, head, handler)
        self.streams[stream.id] = stream
        if event.end_stream:
            stream.on_end(None)

    def _is_for_others(
        self, head: RequestHead, handler: Handler | UnavailableService | None
    ) -> bool:
        assert self._forwarder is not None
        return head.is_grpc and self._forwarder.wants(head, handler is not None)

    def _admits(self, event: events.RequestReceived, forward: bool) -> bool:
        assert self._admit is not None
        reason = self._admit(self.peer, event.head, forward)
        if reason:
            refusal = answer_at_once(
                self, event.stream_id, purerpc.StatusCode.PERMISSION_DENIED, reason
            )
            self._note_refusal(event.head, refusal)
        return not reason

    def _note_refusal(self, head: RequestHead, refusal: Outcome) -> None:
        if self.server.observer is not None:
            notify_in_read_loop(head.path, self.server.observer.refused, head, refusal)

    def _serve(self, stream_id: int, head: RequestHead, handler: Handler) -> Stream:
        stream = Stream(self, stream_id)
        stream.encoding = head.encoding
        stream.path = head.path
        if self._account is not None and self._account.is_trusted:
            stream.count_for(self._ledger_for(head))
        self._running += 1
        self.spawn(ServerCall(self, stream, handler, head, self.server.observer).run)
        return stream

    def call_ended(self) -> None:
        """A handler has ended; its place is free."""
        self._running -= 1
