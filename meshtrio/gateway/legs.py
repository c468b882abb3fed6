"""The two streams of a call that is passed on: what comes on one goes out on the other, as it is.

Bytes are neither cut into messages nor copied. Each leg holds what its peer does not take just
now, and the other leg's peer may send no more than that leaves room for.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import purerpc

from meshtrio.rpc.connection import Connection
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.transport import Buffer
from meshtrio.wire.heads import ResponseHead, Trailers

if TYPE_CHECKING:
    from meshtrio.gateway.passage import Passage


_SMALL = 4096
"""Bytes of a piece that more is joined to."""


class Leg(Stream):
    """A stream that sends what it is given without waiting, and keeps what cannot go out yet."""

    __slots__ = ("_end", "_gathered", "_held", "held_size", "passage")

    sends_at_once = True

    def __init__(self, connection: Connection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.passage: Passage | None = None
        self.held_size = 0
        """Bytes that wait for the peer, or for the kernel."""
        self._held: deque[Buffer] | tuple[()] = ()
        self._gathered: list[bytes] = []
        """Little DATA that the read under way has brought: a peer that sends a byte at a time shall
        not make this side write a frame, and the other side read one, for each."""
        self._end: bytes | None = None
        """Trailers that come after what is held, b"" for an end without."""

    @property
    def connection(self) -> Connection:
        return self._connection

    def send_on(self, data: Buffer, end: bytes | None = None) -> None:
        """Send DATA, and after it this side's end: trailers, or b"" for a bare one."""
        if not self._held:
            taken = self._send_now(data, end)
            if taken == len(data):
                return
            data = memoryview(data)[taken:]
        self.held_size += len(data)
        self._end = end
        if not isinstance(self._held, deque):
            self._held = deque()
        elif self._held and len(self._held[-1]) < _SMALL:
            # A peer that sends a byte at a time shall not make an object of each.
            data = b"".join((self._held.pop(), data))
        self._held.append(data)

    def drop_held(self) -> None:
        """Forget what waits for the peer."""
        self._held, self.held_size = (), 0

    def drop_received(self) -> None:
        super().drop_received()
        self.drop_held()

    def _send_gathered(self) -> None:
        if self._gathered:
            data, self._gathered = b"".join(self._gathered), []
            self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        """Send DATA that has come on the other leg."""
        raise NotImplementedError

    def _send_now(self, data: Buffer, end: bytes | None) -> int:
        """Give how much went out; the end goes with the last of it."""
        connection = self._connection
        if connection.closed or not connection.engine.can_send(self.id):
            return len(data)  # Nobody wants it any more.
        # An end is small, and not held back for the kernel's sake alone.
        if data and connection.outbox.congested:
            connection.await_room(self)
            return 0
        taken = 0
        if data or end == b"":
            taken = connection.engine.send_data(self.id, data, end_stream=end == b"")
        if taken < len(data):
            connection.await_room(self)
        elif end:
            connection.engine.send_headers(self.id, end, end_stream=True)
        return taken

    def on_window(self) -> None:
        """The peer takes more, or the kernel does."""
        if not self._held:
            return
        while self._held:
            data = self._held[0]
            taken = self._send_now(data, self._end if len(self._held) == 1 else None)
            self.held_size -= taken
            if taken < len(data):
                self._held[0] = memoryview(data)[taken:]
                break
            self._held.popleft()
        self._connection.flush()
        if self.passage is not None:
            self.passage.on_room(self)

    def allow_more(self) -> bool:
        """Let the peer send as much as there is room for on the other leg."""
        self._send_gathered()
        backlog = 0 if self.passage is None else self.passage.backlog(self)
        room = max(self._connection.limits.stream_window - backlog, 0)
        return self._connection.engine.allow(self.id, room)


class CallerLeg(Leg):
    """The call as it came."""

    __slots__ = ()

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if len(data) < _SMALL and not end_stream:
            self._gathered.append(data)
            return
        self.ended = end_stream
        self._send_gathered()
        if self.passage is not None:
            self.passage.on_request_data(data, end=end_stream)

    def _pass_on(self, data: bytes) -> None:
        if self.passage is not None:
            self.passage.on_request_data(data, end=False)

    def count_reply(self) -> str:
        """Count bytes of the reply that are held; gives the budget they use up, "" for none."""
        ledger, change = self.ledger, self.held_size - self.sending_charge
        if ledger is None or not change:
            return ""
        self.sending_charge = self.held_size
        ledger.add_working(change)
        return ledger.too_much_work() if change > 0 else ""

    def on_end(self, trailers: Trailers | None) -> None:
        """A request's trailers mean nothing to gRPC."""
        self.on_data(b"", end_stream=True)

    @property
    def begun(self) -> bool:
        """Whether a plugin has the call, or has had it."""
        return self.passage is None or self.passage.begun

    def refuse(self) -> None:
        """Have the caller make the call again elsewhere."""
        if self.passage is not None:
            self.passage.refuse()

    def on_shutdown(self) -> None:
        """A call that a plugin has may end by itself."""

    def on_shutdown_timeout(self) -> None:
        if self.passage is not None:
            self.passage.cut()

    def fail(self, failure: purerpc.RpcFailedError) -> None:
        """The caller has cancelled, or is gone."""
        if self.failure is None:
            self.failure = failure
            if self.on_failure is not None:
                self.on_failure.cancel()
            if self.passage is not None:
                self.passage.on_caller_gone()


class PluginLeg(Leg):
    """The same call as it goes on to a plugin."""

    __slots__ = ()

    def on_head(self, head: ResponseHead) -> None:
        if self.passage is not None:
            self.passage.on_response_head(head)

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if len(data) < _SMALL:
            self._gathered.append(data)
        else:
            self._send_gathered()
            self._pass_on(data)
        if end_stream:
            self.on_end(None)

    def _pass_on(self, data: bytes) -> None:
        if self.passage is not None:
            self.passage.on_response_data(data)

    def on_end(self, trailers: Trailers | None) -> None:
        self._send_gathered()
        self.ended, self.trailers = True, trailers
        if self.passage is not None:
            self.passage.on_response_end(trailers)

    def fail(self, failure: purerpc.RpcFailedError) -> None:
        """The plugin has reset the call, or its connection is lost."""
        self._send_gathered()
        if self.failure is None and not self.ended:
            self.failure = failure
            if self.passage is not None:
                self.passage.on_plugin_gone(failure)
