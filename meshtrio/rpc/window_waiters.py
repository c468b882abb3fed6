"""Streams that wait for the connection's flow-control window, or for the kernel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from meshtrio.http2.streams import ConnectionWindows
from meshtrio.rpc.write_buffer import WriteBuffer

if TYPE_CHECKING:
    from meshtrio.rpc.connected_stream import ConnectedStream

_WINDOW_PER_WAKEUP = 4096
"""Size of the connection's window, in bytes, for which one waiting stream is woken."""


class WindowWaiters:
    """Wakes waiting streams in order, as many as the connection's window has room for.

    A stream with a task is woken and sends later; it then wakes the next one by `wake_next`. So a
    peer that opens the window by a single byte does not wake all streams.
    """

    __slots__ = (
        "_is_awaiting_low_water",
        "_is_waking",
        "_start_soon",
        "_windows",
        "_write_buffer",
        "streams",
    )

    def __init__(
        self,
        windows: ConnectionWindows,
        write_buffer: WriteBuffer,
        start_soon: Callable[[Callable[[], Awaitable[object]]], None],
    ) -> None:
        self._windows = windows
        self._write_buffer = write_buffer
        self._start_soon = start_soon
        self.streams: dict[ConnectedStream, None] = {}
        """The waiting streams, in order."""
        self._is_waking = False
        self._is_awaiting_low_water = False

    def wait_for_window(self, stream: ConnectedStream) -> None:
        """Wake a stream when the connection's window opens, unless it is open already."""
        if self._windows.send <= 0:
            self.streams[stream] = None
        else:
            self.wake_next(stream)

    def wait_until_writable(self, stream: ConnectedStream) -> None:
        """Wake a stream when the window is open and the write buffer below its high-water mark."""
        if self._write_buffer.above_high_water:
            self.streams[stream] = None
            self._start_low_water_waiter()
        else:
            self.wait_for_window(stream)

    def wake_next(self, stream: ConnectedStream) -> None:
        """Leave the rest of the window, which a stream did not use, to the next one."""
        if self.streams:
            self.streams.pop(stream, None)
            self.wake()

    def wake(self) -> None:
        """Wake as many streams as the window has room for."""
        room = self._windows.send
        if self._is_waking or room <= 0:
            return
        self._is_waking = True
        for stream in list(self.streams):
            if min(room, self._windows.send) <= 0:
                break
            if self._write_buffer.above_high_water:
                self._start_low_water_waiter()
                break
            del self.streams[stream]
            if not stream.sends_synchronously:
                room -= _WINDOW_PER_WAKEUP
            stream.on_writable()
        self._is_waking = False

    def _start_low_water_waiter(self) -> None:
        if not self._is_awaiting_low_water:
            self._is_awaiting_low_water = True
            self._start_soon(self._wake_at_low_water)

    async def _wake_at_low_water(self) -> None:
        await self._write_buffer.wait_below_high_water()
        self._is_awaiting_low_water = False
        self.wake()
