"""What a connection has for sending: its engine, its transport, flushes, and their memory.

Data is written by the task that sends it, directly to the socket; another task writes only while
the kernel's buffer is full.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import trio

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.limits import Limits
from meshtrio.rpc.fairness import EventLoopShare
from meshtrio.rpc.message_limits import default_message_limits
from meshtrio.rpc.peer_accounts import ConnectionAccount
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.window_waiters import WindowWaiters
from meshtrio.rpc.write_buffer import WriteBuffer, WriteCoalescer
from meshtrio.transport.peer import Peer
from meshtrio.transport.transport import Transport
from meshtrio.util.message_buffers import MESSAGE_BUFFERS

if TYPE_CHECKING:
    from meshtrio.rpc.connected_stream import ConnectedStream

_log = logging.getLogger("meshtrio.rpc")

_TLS_HANDSHAKE_TIMEOUT = 10.0
"""Maximum time of a TLS handshake, in seconds."""


class ConnectionOutput:
    """Owns the transport, the engine and the write buffer of a connection."""

    streams: dict[int, ConnectedStream]
    """The streams of the calls that have not ended, by stream identifier."""

    is_client: ClassVar[bool]

    def __init__(self, transport: Transport, limits: Limits | None) -> None:
        role = Role.CLIENT if self.is_client else Role.SERVER
        self._engine = engine = GrpcConnection(role, limits)
        self.limits, self.windows = engine.limits, engine.windows
        self.peer_settings = engine.peer_settings
        # Bound once, because every message goes through them.
        self.is_send_open = engine.is_send_open
        self.send_headers = engine.send_headers
        self.send_data = engine.send_data
        self.try_send_message = engine.try_send_message
        self.set_receive_window = engine.set_receive_window
        self.message_limits = default_message_limits(engine.limits, is_client=self.is_client)
        self.counters = CallCounters()
        self.closed = False
        """Whether no call can be started or continued; sent data may still be flushed."""
        self.close_reason = "the peer closed the connection"
        """The reason reported to pending calls when the connection closes; updated until then."""
        self.transport = transport
        self._now = trio.lowlevel.current_clock().current_time
        """The same as `trio.current_time`, at half the cost."""
        self._opened_at = self._last_read_at = self._now()
        self._is_socket_kept_open = False
        """Whether a copy of the socket stays open until the process has exited."""
        self._is_handshake_done = False
        """Whether the transport accepts data."""
        self._nursery: trio.Nursery | None = None
        self.write_buffer = WriteBuffer(transport)
        self.write_coalescer = WriteCoalescer(self._now)
        self.window_waiters = WindowWaiters(engine.windows, self.write_buffer, self.start_soon)
        self.account: ConnectionAccount | None = None
        """The account of the memory that the connection's calls use, on a server."""
        self.loop_share = EventLoopShare()
        """The peer's share of the event loop."""
        self._write_buffer_charge = 0
        """Size of the write buffer that is charged to the account, in bytes."""

    def close(self, reason: str, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Send GOAWAY and close; open calls fail with `reason`. Does not wait."""
        raise NotImplementedError

    def remove_stream(self, stream_id: int, code: ErrorCode) -> None:
        """Remove a stream, and reset it unless the peer knows that it has ended."""
        raise NotImplementedError

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task that is cancelled with the connection; does nothing once it is closed."""
        if self.closed or self._nursery is None:
            return
        with contextlib.suppress(RuntimeError):  # The nursery is closing, and calls will fail.
            self._nursery.start_soon(task, *args)

    @cached_property
    def peer(self) -> Peer:
        """The peer, as the kernel or TLS identifies it; an empty `Peer` if it is gone already."""
        try:
            return self.transport.peer()
        except OSError:
            return Peer()

    def send_preface(self) -> None:
        """Send the connection preface before `run` does, a turn earlier, if no handshake is due."""
        if type(self.transport) is Transport:
            self._is_handshake_done = True
            self.flush()

    async def _handshake(self) -> bool:
        if self._is_handshake_done:
            return True
        try:
            with trio.fail_after(_TLS_HANDSHAKE_TIMEOUT):
                await self.transport.handshake()
        except trio.TooSlowError:
            self.close_reason = f"the TLS handshake took over {_TLS_HANDSHAKE_TIMEOUT:g} s"
        except OSError as exc:
            self.close_reason = f"the TLS handshake failed: {exc.strerror or exc}"
        else:
            self._is_handshake_done = True
            return True
        _log.info("%s", self.close_reason)
        return False

    def flush(self) -> None:
        """Write the engine's pending data to the socket or the write buffer. Never blocks."""
        if not self._is_handshake_done or (
            self.write_coalescer.expected_writers and self.write_coalescer.should_delay()
        ):
            return
        engine, write_buffer = self._engine, self.write_buffer
        if not engine.unsent:
            return
        buffers = engine.buffers_to_send()
        if write_buffer.write(buffers) and self._nursery is not None:
            self._nursery.start_soon(self._drain_write_buffer)
        if write_buffer.size and self.account is not None:
            self._charge_write_buffer()
        if write_buffer.error is not None and not (self.closed or self._engine.closed):
            self.close_reason = f"the connection broke: {write_buffer.error.strerror}"

    async def _drain_write_buffer(self) -> None:
        await self.write_buffer.drain()
        self._charge_write_buffer()

    def keep_sent_message(self, message: bytes) -> None:
        """Keep the memory of a large message that is sent, see `MessageBuffers.keep_sent`."""
        self._keep_message_buffers()
        MESSAGE_BUFFERS.keep_sent(message)

    def _keep_message_buffers(self) -> None:
        """Keep the memory of large messages until there are none for a while."""
        if not MESSAGE_BUFFERS.is_keeping:
            self.start_soon(MESSAGE_BUFFERS.release_when_unused)

    def _charge_write_buffer(self) -> None:
        change = self.write_buffer.size - self._write_buffer_charge
        if self.account is not None and change:
            self._write_buffer_charge += change
            self.account.add_working(change)
