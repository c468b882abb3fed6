"""One HTTP/2 connection on a socket: the pump that reads, and the flush that writes.

The pump is the connection's only standing task. Writing is done by whichever task has something
to say, straight to the socket; a task of its own is started only while the kernel takes no more.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import purerpc
import trio

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.rpc.status import error_for_reset
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.transport import SocketTransport
from meshtrio.wire import events
from meshtrio.wire.connection import Connection as Engine
from meshtrio.wire.connection import Role
from meshtrio.wire.errors import ErrorCode, error_name
from meshtrio.wire.limits import Limits

_RECEIVE_SIZE = 128 * 1024
_CONGESTED_ABOVE = 256 * 1024
_LAST_WORDS = 1.0
"""Seconds a closing connection waits for the kernel to take what is left to send."""


class Connection:
    """The parts common to both sides; `run` owns the socket and everything that uses it."""

    def __init__(self, sock: socket.socket, role: Role, limits: Limits | None = None) -> None:
        self.engine = Engine(role, limits)
        self.limits = self.engine.limits
        self.streams: dict[int, Stream] = {}
        self.closed = False
        self._transport = SocketTransport(sock)
        self._unsent = bytearray()
        self._unwritable = False
        self._flushed = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self.loss = "the peer closed the connection"
        """Why the connection ended, or would be said to have if it ended now."""
        self._handle: dict[type, Callable[[Any], None]] = {
            events.DataReceived: self._on_data,
            events.TrailersReceived: self._on_trailers,
            events.StreamReset: self._on_reset,
            events.WindowOpened: self._on_window,
            events.SettingsReceived: self._on_settings,
            events.ConnectionFailed: self._on_failed,
            events.GoAwayReceived: self._on_goaway,
            events.PingAcknowledged: self._on_ping_ack,
            events.RequestReceived: self._on_request,
            events.ResponseReceived: self._on_response,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the connection until the peer closes it, breaks it, or `shut` is called.

        Never raises for what the peer does. Whatever ends it, cancellation included, every call
        on it is failed, its tasks are cancelled and the socket is closed before this returns.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.flush()
                if self._unsent:
                    nursery.start_soon(self._flush_rest)
                task_status.started()
                await self._pump()
                self._fail_all()
                nursery.cancel_scope.cancel()
        finally:
            self._end()

    async def _pump(self) -> None:
        receive, handle = self._transport.receive, self._handle
        while not self.engine.closed:
            try:
                data = await receive(_RECEIVE_SIZE)
            except OSError as exc:
                self.loss = f"the connection broke: {exc.strerror or exc}"
                return
            if not data:
                return
            for event in self.engine.receive_data(data):
                handle[type(event)](event)
            self.flush()
            if self.congested:
                # A peer that asks but does not read is not asked for more.
                await self.uncongested()

    def shut(self, reason: str) -> None:
        """Close after saying GOAWAY; calls still open fail with `reason`. Does not wait."""
        if self.closed or self.engine.closed:
            return
        self.loss = reason
        self.engine.close(ErrorCode.NO_ERROR, reason)
        self.flush()
        self._fail_all()
        if self._nursery is not None:
            self._nursery.start_soon(self._close_when_flushed)

    async def _close_when_flushed(self) -> None:
        with trio.move_on_after(_LAST_WORDS):
            while self._unsent:
                await self._flushed.park()
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()

    def _end(self) -> None:
        self.closed = True
        self._nursery = None
        self._transport.close()
        self._unsent.clear()
        self._fail_all()
        self._flushed.unpark_all()

    def _fail_all(self) -> None:
        for stream in list(self.streams.values()):
            self._fail(stream, ConnectionLostError(self.loss))

    # -- writing -----------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """True while so much waits for the kernel that nothing should be added."""
        return len(self._unsent) > _CONGESTED_ABOVE

    def flush(self) -> None:
        """Write what the engine has to say, now as far as the kernel takes it. Never blocks."""
        data = self.engine.data_to_send()
        if not data or self.closed:
            return
        if self._unsent:
            self._unsent += data
            return
        sent = self._try_send(data)
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            if self._nursery is not None:
                self._nursery.start_soon(self._flush_rest)

    async def _flush_rest(self) -> None:
        while self._unsent:
            try:
                await self._transport.wait_writable()
            except OSError:
                self._unwritable = True
            del self._unsent[: self._try_send(self._unsent)]
            if not self.congested:
                self._flushed.unpark_all()

    def _try_send(self, data: bytes | bytearray) -> int:
        """Send, or swallow everything once the socket is broken: the pump learns of it by reading.

        It may still find a status there that the peer sent before it closed.
        """
        if not self._unwritable:
            try:
                return self._transport.try_send(data)
            except OSError as exc:
                self._unwritable = True
                self.loss = f"the connection broke: {exc.strerror or exc}"
        return len(data)

    async def uncongested(self) -> None:
        """Wait until the kernel has taken most of what waits, or the connection is closed."""
        while self.congested and not self.closed:
            await self._flushed.park()

    # -- streams -----------------------------------------------------------------------------

    def forget(self, stream: Stream, code: ErrorCode) -> None:
        """Drop a stream, telling the peer where it does not know yet that it is over."""
        if self.streams.pop(stream.id, None) is not None:
            self.engine.reset_stream(stream.id, code)
            self.flush()
            self._on_stream_gone()

    def _fail(self, stream: Stream, failure: purerpc.RpcFailedError) -> None:
        self.streams.pop(stream.id, None)
        stream.fail(failure)
        self._on_stream_gone()

    def _on_stream_gone(self) -> None:
        """A stream's place is free."""

    # -- events ------------------------------------------------------------------------------

    def _on_data(self, event: events.DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.on_data(event.data, event.end_stream)

    def _on_trailers(self, event: events.TrailersReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.on_end(event.trailers)

    def _on_reset(self, event: events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        if event.by_peer and event.code == ErrorCode.REFUSED_STREAM:
            self._fail(stream, CallRefusedError("the peer refused the call before processing it"))
        else:
            self._fail(stream, error_for_reset(event.code, event.reason))

    def _on_window(self, event: events.WindowOpened) -> None:
        if event.stream_id:
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.on_window()
            return
        for stream in self.streams.values():
            stream.on_window()

    def _on_settings(self, event: events.SettingsReceived) -> None:
        for stream in self.streams.values():
            stream.on_window()

    def _on_failed(self, event: events.ConnectionFailed) -> None:
        name = error_name(event.code)
        self.loss = f"the peer broke HTTP/2 ({name}: {event.reason})"
        self._fail_all()

    def _on_goaway(self, event: events.GoAwayReceived) -> None:
        if event.code:
            why = event.debug.decode("utf-8", "replace")
            self.loss = f"the peer closed the connection ({error_name(event.code)} {why})"

    def _on_ping_ack(self, event: events.PingAcknowledged) -> None:
        """A ping of ours came back."""

    def _on_request(self, event: events.RequestReceived) -> None:
        raise AssertionError("only a server's engine reports requests")

    def _on_response(self, event: events.ResponseReceived) -> None:
        raise AssertionError("only a client's engine reports responses")
