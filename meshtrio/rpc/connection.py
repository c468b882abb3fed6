"""One HTTP/2 connection on a socket: the pump that reads, and the flush that writes.

The pump is the connection's only standing task. Writing is done by whichever task has something
to say, straight to the socket; a task of its own is started only while the kernel takes no more.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from time import thread_time
from typing import Any

import purerpc
import trio

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.rpc import census
from meshtrio.rpc.accounts import Ledger
from meshtrio.rpc.fairness import Share
from meshtrio.rpc.message_limits import connection_limits
from meshtrio.rpc.outbox import CONGESTED_ABOVE, Outbox
from meshtrio.rpc.peer import Peer
from meshtrio.rpc.status import error_for_reset
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tally import Tally
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.rpc.transport import Transport
from meshtrio.wire import events
from meshtrio.wire.connection import Connection as Engine
from meshtrio.wire.connection import Role
from meshtrio.wire.errors import ErrorCode, error_name
from meshtrio.wire.limits import Limits

_log = logging.getLogger("meshtrio.rpc")

_RECEIVE_SIZE = 1024 * 1024
_SMALL_READ = 4096
"""Bytes of a read that are processed at once: some 450 frames at the most."""
_READ_COST = 128
"""Frames, and KiB of frames, that are processed before the time is looked at."""
_FEW_EVENTS = 24
"""Events of one read whose time is not worth measuring."""
_EVENT_COST = 0.000003
"""Seconds that an event takes on average."""
_FAILED_AT_ONCE = 16
"""Calls that end in one pass of the event loop with their connection. The end of a handler takes
some 0.3 ms, and there may be a thousand."""
_CALM = ErrorCode.ENHANCE_YOUR_CALM
_WINDOW_OF_ONE = 4096
"""Bytes of a connection's window for which one waiting stream is woken."""
_EVENTS_OF_A_CALL = 3
"""A reply is a head, a message and trailers: a read that brings more has woken several tasks."""
_HOLD = 0.0005
"""Seconds for which writing waits at the most for more to be said."""
_HANDSHAKE_WITHIN = 10.0
"""Seconds that TLS may take to agree on keys."""
_SIGN_OF_LIFE = b"alive?.."
LAST_WORDS = 1.0
"""Seconds a closing connection has to be rid of its last bytes, and the peer to close too."""


class Connection:
    """The parts common to both sides; `run` owns the socket and everything that uses it."""

    def __init__(
        self,
        transport: Transport,
        role: Role,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.engine = Engine(role, limits)
        self.limits = self.engine.limits
        self.is_client = role is Role.CLIENT
        self.message_limits = connection_limits(self.limits, is_client=self.is_client)
        self.timeouts = timeouts or Timeouts()
        self.streams: dict[int, Stream] = {}
        self.closed = False
        """No call can be made or answered any more; what was said is still being sent, perhaps."""
        self.loss = "the peer closed the connection"
        """Why the connection ended, or would be said to have if it ended now."""
        self._transport = transport
        self._peer: Peer | None = None
        self.outbox = Outbox(self._transport)
        self.tally = Tally()
        self.number = census.next_number()
        self._now = trio.lowlevel.current_clock().current_time
        """`trio.current_time`, at half its cost."""
        self._opened = self._heard = self._now()
        self._asked: float | None = None
        """When the peer was asked for a sign of life that has not come yet."""
        self._together = 0
        """So many calls are waited for, and written at once; 0 where each speaks for itself."""
        self._held = 0
        """How many of them have spoken."""
        self._held_until = 0.0
        """When they are written all the same."""
        self._shaken = False
        """The transport is ready for bytes."""
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self.window_waiters: dict[Stream, None] = {}
        """Streams that wait for the connection's window or for the kernel, in order."""
        self.ledger: Ledger | None = None
        """On a server: the memory that the connection's calls use."""
        self.share = Share()
        """The use that the peer makes of the event loop."""
        self._window_opened = False
        """The read under way has opened the connection's window."""
        self._waking = False
        self._partial_charge = 0
        """Bytes of an incomplete frame that the ledger counts."""
        self._outbox_charge = 0
        """Bytes in the outbox that the ledger counts."""
        self._answers = 0
        """Bytes of answers to PING and SETTINGS that the peer has not read."""
        self._easing = False
        """A task waits for the kernel on their behalf."""
        self.passed_on: set[Connection] = set()
        """Connections that what the read under way brings is passed on to."""
        self._fed: set[Stream] = set()
        """Streams that the read under way has brought DATA for."""
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
            events.RequestTooLarge: self._on_large_request,
            events.ResponseReceived: self._on_response,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the connection until the peer closes it, breaks it, or `shut` is called.

        Never raises for what the peer does. Whatever ends it, cancellation included, every call
        on it is failed, its tasks are cancelled and the socket is closed before this returns.
        """
        census.SOCKETS.enter(self.number, self)
        cut = True
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                with self._reading:
                    if await self._shake_hands():
                        self.flush()
                        await self._pump()
                self._close_calls()
                await self._fail_in_turns()
                if self.engine.closed:
                    await self._linger()
                nursery.cancel_scope.cancel()
            cut = False
        finally:
            self._close_calls()
            self._fail_all()
            if cut:
                self._on_cut()
            self.outbox.close()
            if self.ledger is not None:
                self._count_outbox(self.ledger)
                self.ledger.add_partial(-self._partial_charge)
            self._transport.close()
            census.SOCKETS.leave(self.number)

    def _on_cut(self) -> None:
        """Send what the peer has to know although this was cancelled; must not block."""

    async def _shake_hands(self) -> bool:
        try:
            with trio.fail_after(_HANDSHAKE_WITHIN):
                await self._transport.handshake()
        except trio.TooSlowError:
            self.loss = f"the TLS handshake took over {_HANDSHAKE_WITHIN:g} s"
        except OSError as exc:
            self.loss = f"the TLS handshake failed: {exc.strerror or exc}"
        else:
            self._shaken = True
            return True
        _log.info("%s", self.loss)
        return False

    async def _pump(self) -> None:
        receive, handle, now = self._transport.receive, self._handle, self._now
        engine = self.engine
        while not self.engine.closed:
            try:
                data = await receive(_RECEIVE_SIZE)
            except OSError as exc:
                self.loss = f"the connection broke: {exc.strerror or exc}"
                return
            if not data:
                return
            if self.share.left < 0 and self.share.charge(0.0):
                await self.share.turn()
            self._heard = now()
            cost = _READ_COST if len(data) > _SMALL_READ else 0
            events_ = engine.receive_data(data, self._heard, cost)
            for event in events_:
                handle[type(event)](event)
            received = len(events_)
            if received > _FEW_EVENTS or cost:
                received = await self._read_rest(received)
            if self._needs_finish or engine.stalled_since is not None or self._fed:
                passed_on = self._finish_read()
                if self._answers > CONGESTED_ABOVE:
                    await self.outbox.empty()
            else:
                passed_on = False
                self.flush()
            # In two or three parts: the peer is at work on one while the next is being made.
            together = received // (2 * _EVENTS_OF_A_CALL)
            if together > 1 and not passed_on:
                await self._send_together(together)

    async def _read_rest(self, received: int) -> int:
        """Process what a read has brought beyond little: a slice of time, then the next in the
        peer's turn. Gives the number of events of the last slice, `received` being the first.
        """
        engine, share, handle = self.engine, self.share, self._handle
        # What came before was one part, of which only the order of magnitude matters.
        began = thread_time() - received * _EVENT_COST
        while True:
            while engine.unread is not None:
                more = engine.receive_data(b"", self._now(), _READ_COST)
                for event in more:
                    handle[type(event)](event)
                received += len(more)
                if thread_time() - began >= share.slice:
                    break
            must_wait = share.charge(thread_time() - began)
            if engine.unread is None and not must_wait:
                return received
            self._finish_read()
            if self._answers > CONGESTED_ABOVE:
                await self.outbox.empty()
            await share.turn()
            began, received = thread_time(), 0
            if engine.unread is None:
                return received

    @property
    def _needs_finish(self) -> bool:
        """Whether a read has led to more than what `flush` sends."""
        waiting = self.outbox.size or self._partial_charge
        return bool(self._window_opened or self.passed_on or waiting)

    def _finish_read(self) -> bool:
        """Send what a read has led to; true if some of it was passed on."""
        self._count_partial()
        if self._window_opened:
            self._window_opened = False
            self._wake_senders()
        for stream in self._fed:
            if not stream.ended:
                stream.allow_more()
        self._fed.clear()
        waiting = self.outbox.size
        self.flush()
        passed_on = bool(self.passed_on)
        if passed_on:
            self._flush_passed_on()
        # A peer that asks (PING, SETTINGS) and does not read the answers is not asked for more.
        # Messages are not counted: two peers that each wait for the other to read would wait for
        # ever, and windows bound them anyway.
        self._answers = self._answers + self.outbox.size - waiting if waiting else 0
        return passed_on

    def _flush_passed_on(self) -> None:
        passed_on, self.passed_on = self.passed_on, set()
        for connection in passed_on:
            connection.flush()

    async def _send_together(self, count: int) -> None:
        """Write what so many of the tasks that one read has woken say in one system call, instead
        of one for each. Not for long: what takes its time is not waited for.
        """
        self._together, self._held, self._held_until = count, 0, self._now() + _HOLD
        try:
            # A task that was woken runs within the next two passes of the scheduler.
            await trio.lowlevel.cancel_shielded_checkpoint()
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._together = 0
            self.flush()

    def _waits_for_more(self) -> bool:
        """Another call has spoken, and others are about to."""
        self._held += 1
        now = self._now()
        if self._held < self._together and now < self._held_until:
            return True
        self._held, self._held_until = 0, now + _HOLD
        return False

    async def _linger(self) -> None:
        """See the last words off: closing with unread bytes could destroy them on their way."""
        with trio.move_on_after(LAST_WORDS), contextlib.suppress(OSError):
            await self.outbox.empty()
            self._transport.end()
            while await self._transport.receive(_RECEIVE_SIZE):
                pass

    def shut(self, reason: str, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Close after saying GOAWAY; calls still open fail with `reason`. Does not wait."""
        if self.closed or self.engine.closed:
            return
        self.loss = reason
        self.engine.close(code, reason)
        self.flush()
        self._close_calls()
        self._reading.cancel()

    def keep_house(self, now: float) -> None:
        """Hold the peer to the timeouts; called by the connection's owner once a second."""
        times, stalled = self.timeouts, self.engine.stalled_since
        if not self.engine.established:
            if now - self._opened > times.establish:
                reason = f"the peer did not speak HTTP/2 within {times.establish:g} s"
                self.shut(reason, ErrorCode.SETTINGS_TIMEOUT)
        elif stalled is not None and now - stalled > times.frame:
            reason = f"a frame was not finished within {times.frame:g} s"
            self.shut(reason, ErrorCode.ENHANCE_YOUR_CALM)
        else:
            self._keep_alive(now)
            for stream in list(self.streams.values()):
                since = stream.partial_since
                if since is not None and now - since > times.message:
                    self._end_dribble(stream)

    def _end_dribble(self, stream: Stream) -> None:
        if self.engine.window_is_open(stream.id):
            what = "request was not ended" if stream.awaits_end else "message was not finished"
            text = f"a {what} within {self.timeouts.message:g} s"
            stream.fail(purerpc.ResourceExhaustedError(text))

    def _keep_alive(self, now: float) -> None:
        if self._asked is not None and self._heard >= self._asked:
            self._asked = None
        if self._asked is not None:
            if now - self._asked > self.timeouts.keepalive_timeout:
                self.shut("the peer gives no sign of life")
        elif now - self._heard > self.timeouts.keepalive_interval:
            self._asked = now
            self.tally.keepalives += 1
            self.engine.ping(_SIGN_OF_LIFE)
            self.flush()

    def _close_calls(self) -> None:
        """From here on nothing is called; what was, fails, at once or in turns."""
        self.closed = True
        self._fail_if_few()

    def _fail_if_few(self) -> None:
        """Fail the calls at once, unless there are so many that `run` has to do it in turns."""
        if len(self.streams) <= _FAILED_AT_ONCE:
            self._fail_all()

    async def _fail_in_turns(self) -> None:
        """Fail the calls that there are, a few in each pass of the event loop."""
        while self.streams:
            for stream in list(itertools.islice(self.streams.values(), _FAILED_AT_ONCE)):
                self._fail(stream, ConnectionLostError(self.loss))
            await trio.lowlevel.checkpoint()

    def _fail_all(self) -> None:
        for stream in list(self.streams.values()):
            self._fail(stream, ConnectionLostError(self.loss))

    def flush(self) -> None:
        """Write what the engine has to say, now as far as the kernel takes it. Never blocks."""
        if not self._shaken or (self._together and self._waits_for_more()):
            return
        buffers = self.engine.buffers_to_send()
        if not buffers:
            return
        if self.outbox.write(buffers) and self._nursery is not None:
            self._nursery.start_soon(self._drain)
        if self.outbox.size and self.ledger is not None:
            self._count_outbox(self.ledger)
        if self.outbox.error is not None and not (self.closed or self.engine.closed):
            self.loss = f"the connection broke: {self.outbox.error.strerror}"

    async def _drain(self) -> None:
        await self.outbox.drain()
        if self.ledger is not None:
            self._count_outbox(self.ledger)

    def _count_outbox(self, ledger: Ledger) -> None:
        change = self.outbox.size - self._outbox_charge
        self._outbox_charge += change
        ledger.add_working(change)

    def _count_partial(self) -> None:
        """Count what has come of a frame or header block that is not complete. Closes the
        connection if the peer has too much of that, on all of its connections."""
        ledger, size = self.ledger, self.engine.partial_size
        if ledger is None or size == self._partial_charge:
            return
        change = size - self._partial_charge
        self._partial_charge = size
        if not ledger.add_partial(change):
            self.shut("frames that are not complete use up peer_memory", _CALM)

    def seconds_since(self, time: float) -> float:
        """Of the clock that the connection goes by; may be asked from another thread."""
        return self._now() - time

    @property
    def transport(self) -> Transport:
        return self._transport

    @property
    def peer(self) -> Peer:
        """Who is at the other end; nobody in particular once it is gone."""
        if self._peer is None:
            try:
                self._peer = self._transport.peer()
            except OSError:
                return Peer()
        return self._peer

    # -- streams -----------------------------------------------------------------------------

    def forget(self, stream: Stream, code: ErrorCode) -> None:
        """Drop a stream, telling the peer where it does not know yet that it is over."""
        if self.window_waiters:
            self.wake_next_sender(stream)
        if self.streams.pop(stream.id, None) is not None:
            awaits_end = not stream.ended and self._awaits_end(stream.id, code)
            if not awaits_end and self.engine.reset_stream(stream.id, code):
                self.flush()
            self._on_stream_gone(stream)

    def _awaits_end(self, stream_id: int, code: ErrorCode) -> bool:
        """Whether a stream stays open until the peer has ended it, instead of being reset."""
        return False

    def cut(self, stream: Stream, failure: purerpc.RpcFailedError) -> None:
        """End a call from this side, telling both ends why."""
        if stream.id in self.streams:
            self._fail(stream, failure)
            if self.engine.reset_stream(stream.id, ErrorCode.CANCEL):
                self.flush()

    def _fail(self, stream: Stream, failure: purerpc.RpcFailedError) -> None:
        self.streams.pop(stream.id, None)
        self.wake_next_sender(stream)
        stream.fail(failure)
        self._on_stream_gone(stream)

    def _on_stream_gone(self, stream: Stream) -> None:
        """A stream's place is free."""

    # -- events ------------------------------------------------------------------------------

    def _on_data(self, event: events.DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.on_data(event.data, event.end_stream)
            if not event.end_stream:
                self._fed.add(stream)

    def _on_trailers(self, event: events.TrailersReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.on_end(event.trailers)

    def _on_reset(self, event: events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        # A stream whose response has begun was processed, whatever the code says.
        if event.by_peer and event.code == ErrorCode.REFUSED_STREAM and stream.head is None:
            self._fail(stream, CallRefusedError("the peer refused the call before processing it"))
        else:
            self._fail(stream, error_for_reset(event.code, event.reason))

    def _on_window(self, event: events.WindowOpened) -> None:
        if event.stream_id:
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.on_window()
        else:
            self._window_opened = True

    def _wake_senders(self) -> None:
        """Wake streams that wait for the connection's window, as many as it has room for.

        A stream with a task is woken and sends later; when it is done it wakes the next, by
        `wake_next_sender`. So a peer that opens the window by a byte does not make this side wake
        all that wait.
        """
        room = self.engine.windows[0]
        if self._waking or room <= 0:
            return
        self._waking = True
        for stream in list(self.window_waiters):
            if min(room, self.engine.windows[0]) <= 0:
                break
            if self.outbox.congested:
                self._start_easing()
                break
            del self.window_waiters[stream]
            if not stream.sends_at_once:
                room -= _WINDOW_OF_ONE
            stream.on_window()
        self._waking = False

    def wake_next_sender(self, stream: Stream) -> None:
        """Leave what a stream did not use of the connection's window to the next that waits."""
        if self.window_waiters:
            self.window_waiters.pop(stream, None)
            self._wake_senders()

    def _on_settings(self, event: events.SettingsReceived) -> None:
        if event.windows_grew:
            for stream in list(self.streams.values()):
                stream.on_window()

    def await_window(self, stream: Stream) -> None:
        """Have a stream woken when the connection's window opens, if that is what it waits for."""
        if self.engine.windows[0] <= 0:
            self.window_waiters[stream] = None
        else:
            self.wake_next_sender(stream)

    def await_room(self, stream: Stream) -> None:
        """The same, and when the kernel takes more."""
        if self.outbox.congested:
            self.window_waiters[stream] = None
            self._start_easing()
        else:
            self.await_window(stream)

    def _start_easing(self) -> None:
        if not self._easing:
            self._easing = True
            self.spawn(self._ease)

    async def _ease(self) -> None:
        await self.outbox.uncongested()
        self._easing = False
        self._wake_senders()

    def spawn(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task that ends with the connection; none where it has ended."""
        if self.closed or self._nursery is None:
            return
        with contextlib.suppress(RuntimeError):  # It is ending, and will fail its calls.
            self._nursery.start_soon(task, *args)

    def _on_failed(self, event: events.ConnectionFailed) -> None:
        name = error_name(event.code)
        self.loss = f"the peer broke HTTP/2 ({name}: {event.reason})"
        self._fail_if_few()

    def _on_goaway(self, event: events.GoAwayReceived) -> None:
        if event.code:
            why = event.debug.decode("utf-8", "replace")
            self.loss = f"the peer closed the connection ({error_name(event.code)} {why})"

    def _on_ping_ack(self, event: events.PingAcknowledged) -> None:
        """A ping of ours came back."""

    def _on_request(self, event: events.RequestReceived) -> None:
        raise AssertionError("only a server's engine reports requests")

    def _on_large_request(self, event: events.RequestTooLarge) -> None:
        raise AssertionError("only a server's engine reports requests")

    def _on_response(self, event: events.ResponseReceived) -> None:
        raise AssertionError("only a client's engine reports responses")
