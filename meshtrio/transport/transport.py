"""The byte stream under a connection: a non-blocking socket.

The standard library's socket is used directly, and trio only waits on it: a write that the kernel
takes at once, as it does nearly always, costs one system call and no trip through the scheduler.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import trio

from meshtrio.transport.busy_poll import BusyPoll, Phase
from meshtrio.transport.peer import Peer, peer_of
from meshtrio.transport.wait import Wait
from meshtrio.util.malloc_tuning import MALLOC_TUNING, MallocTuning

if TYPE_CHECKING:
    import ssl  # few processes need it

_SEND_BUFFER_SIZE = 1024 * 1024
_MIN_RECEIVE_SIZE = 16 * 1024
_LARGE_RECEIVE_SIZE = 256 * 1024
"""Size of a read, in bytes, that only large messages fill."""
_MAX_UNTUNED_RECEIVE_SIZE = 64 * 1024
"""Maximum size of a read, in bytes, in a process whose malloc is left as it is: glibc would return
the pages of each larger one to the kernel, which costs more than reading more often."""

_READS_PER_PASS = 8
"""Number of attempts to read in each pass of trio's scheduler while a connection polls. A pass
takes as long as four of them, and other tasks wait for 0.01 ms."""

Buffer = bytes | memoryview


class Transport:
    """The byte stream under a connection, which owns its socket; `TlsTransport` adds TLS to it."""

    has_pending_data = False
    """Whether data that `try_send` has taken still waits for the kernel."""
    ssl_object: ssl.SSLObject | None = None
    """The TLS state, for inspection; None without TLS."""

    def __init__(
        self,
        sock: socket.socket,
        busy_poll: BusyPoll | None = None,
        malloc_tuning: MallocTuning = MALLOC_TUNING,
    ) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            # The kernel's default of 200 KB would split a large message, with a context switch for
            # each part. A larger buffer costs nothing while it is not used.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_SIZE)
        self.sock = sock
        """The socket, for inspection."""
        self._receive_size = _MIN_RECEIVE_SIZE
        self._overflow = b""
        self.busy_poll = busy_poll or BusyPoll()
        """Decides for how long `receive` and `poll` poll."""
        self._is_receiving = False
        """Whether a task is in `receive`, without a buffer of its own."""
        self._is_polled = False
        """Whether a task is in `poll`, so that the one in `receive` sleeps."""
        self._wait = Wait()
        """The wait for the next data, or that for the last."""
        self._receive_error: OSError | None = None
        """An error that `poll` has met, for `receive` to raise."""
        self.malloc_tuning = malloc_tuning
        """The tuning of this process, which large messages cause."""

    async def handshake(self) -> None:
        """Do what precedes the first byte, such as a TLS handshake. Raises OSError."""

    def take_overflow(self) -> bytes:
        """Return what `receive` has received beyond its buffer, which was full."""
        data, self._overflow = self._overflow, b""
        return data

    @overload
    async def receive(self, max_bytes: int) -> bytes: ...

    @overload
    async def receive(self, max_bytes: int, buffer: memoryview) -> memoryview: ...

    async def receive(self, max_bytes: int, buffer: memoryview | None = None) -> Buffer:
        """Wait for at most `max_bytes` bytes; return b"" at the end of the stream.

        If there is a buffer, of any size, receive into it and return the part that was filled. What
        was received after that, `take_overflow` returns.

        It waits before it reads, so that each call is a checkpoint and a peer that never pauses
        cannot starve other tasks.

        Raises:
            OSError: The connection is broken.

        Cancellation: no data is lost.
        """
        policy = self.busy_poll
        if not policy.max_poll:
            return await self._sleep(max_bytes, buffer)
        self._is_receiving, data = buffer is None, None
        try:
            if policy.phase is Phase.POLLING:
                await trio.lowlevel.checkpoint()
                data = self._try_receive(max_bytes, buffer)
                if data is not None:
                    return data  # It was there already, which is no wait.
            self._wait = Wait()
            if policy.poll_time and not self._is_polled:
                data = await self._poll_for_receive(policy.poll_time, max_bytes, buffer)
            if data is None:
                data = await self._sleep(max_bytes, buffer)
            self._wait.record(policy)
            return data
        finally:
            self._is_receiving = False

    async def _sleep(self, max_bytes: int, buffer: memoryview | None) -> Buffer:
        data = None
        while data is None:
            await trio.lowlevel.wait_readable(self.sock)
            if self._receive_error is not None:
                raise self._receive_error
            data = self._try_receive(max_bytes, buffer)
        return data

    async def _poll_for_receive(
        self, poll_time: float, max_bytes: int, buffer: memoryview | None
    ) -> Buffer | None:
        """Poll for a time. Other tasks run meanwhile; only the process does not sleep."""
        wait, data = self._wait, None
        wait.start_poll(poll_time)
        while data is None and not self._is_polled and not wait.is_poll_over:
            await trio.lowlevel.checkpoint()
            for _ in range(_READS_PER_PASS):
                data = self._try_receive(max_bytes, buffer)
                if data is not None:
                    break
        wait.end_poll()
        return data

    @property
    def can_poll(self) -> bool:
        """Whether `poll` may be called now."""
        return self.busy_poll.poll_time > 0 and self._is_receiving and not self._is_polled

    async def poll(
        self, max_bytes: int, process: Callable[[bytes], bool], is_done: Callable[[], bool]
    ) -> None:
        """Poll in the task that waits for what the data brings, while another is in `receive`.

        The other task sleeps meanwhile, and need not wake this one. That saves a pass of the
        scheduler in each round trip. Compare gRPC core, where the thread that waits on a completion
        queue polls.

        Args:
            max_bytes: The maximum size of a read.
            process: Processes the data of each read; returns whether polling may go on.
            is_done: Whether what this task waits for has come, also by a read of `receive`.

        Returns when `is_done()`, or when the rest of the wait is left to `receive`: the poll has
        taken its time, or the stream has ended.

        Cancellation: no data is lost. Always a checkpoint.
        """
        policy, self._is_polled = self.busy_poll, True
        try:
            while policy.poll_time:
                if self._wait.is_over:
                    self._wait = Wait()
                wait = self._wait
                wait.start_poll(policy.poll_time)
                try:
                    data = await self._poll_once(wait, max_bytes, is_done)
                finally:
                    wait.end_poll()
                if not data:
                    return
                wait.record(policy)
                if not process(data) or is_done():
                    return
                del data  # It is not kept alive during the next poll.
        finally:
            self._is_polled = False

    async def _poll_once(self, wait: Wait, max_bytes: int, is_done: Callable[[], bool]) -> Any:
        """Return the next data; None or b"" if it is left to `receive`, or not waited for."""
        while True:
            await trio.lowlevel.checkpoint()
            # `receive` may have read something in its turn, which it processes by itself.
            if is_done() or wait.is_over or not self._is_receiving:
                return None
            for _ in range(_READS_PER_PASS):
                try:
                    data = self._try_receive(max_bytes, None)
                except OSError as exc:
                    self._receive_error = exc
                    return None
                if data is not None:
                    return data
            if wait.is_poll_over:
                return None

    def _try_receive(self, max_bytes: int, buffer: memoryview | None) -> Buffer | None:
        """Return available data; None if there is none."""
        size = self._receive_size
        try:
            if buffer is not None:
                return self._receive_into(buffer)
            data = self.sock.recv(min(max_bytes, size))
        except (BlockingIOError, InterruptedError):
            return None
        # Python allocates the size that is asked for, so it follows the size of recent reads.
        if len(data) == self._receive_size:
            if self._receive_size < _MAX_UNTUNED_RECEIVE_SIZE or self.malloc_tuning.is_allowed:
                self._receive_size *= 4
            if self._receive_size > _LARGE_RECEIVE_SIZE:
                self.malloc_tuning.tune()
        elif self._receive_size > _MIN_RECEIVE_SIZE and len(data) * 4 < self._receive_size:
            self._receive_size //= 4
        return data

    def _receive_into(self, buffer: memoryview) -> memoryview:
        # The next read is small: it has the beginning of a frame, whose rest is received likewise.
        self._receive_size = _MIN_RECEIVE_SIZE
        following = bytearray(_MIN_RECEIVE_SIZE)
        size, *_ = self.sock.recvmsg_into((buffer, following))
        self._overflow = bytes(memoryview(following)[: max(size - len(buffer), 0)])
        return buffer[:size]

    def try_send(self, buffers: list[Buffer]) -> int:
        """Send what the kernel takes now; return the number of bytes taken. Raises OSError."""
        try:
            if len(buffers) == 1:
                return self.sock.send(buffers[0])
            return self.sock.sendmsg(buffers)
        except (BlockingIOError, InterruptedError):
            return 0

    async def wait_writable(self) -> None:
        """Wait until the kernel takes more data. Raises OSError."""
        await trio.lowlevel.wait_writable(self.sock)

    def peer(self) -> Peer:
        """Return the peer. Raises OSError if the connection is closed."""
        tls = self.ssl_object
        return peer_of(self.sock, None if tls is None else tls.getpeercert())

    def send_eof(self) -> None:
        """Shut down the sending side. Raises OSError."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket and wake tasks that wait for it; a second call does nothing."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()
