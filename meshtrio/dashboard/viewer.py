"""The bounded queue of one viewer."""

from __future__ import annotations

from collections import deque

import trio

from meshtrio.dashboard.json_messages import to_json

_MAX_ITEMS = 250
_MAX_SIZE = 256 * 1024
"""Maximum size in bytes of what is queued, in addition to one item."""


def make_event(name: str, data: bytes) -> bytes:
    """Return a Server-Sent Event; `data` is one line."""
    return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), data)


class Viewer:
    """What is to be sent to one viewer.

    Of a snapshot only the latest is kept. Other items are queued: `put` waits while there is no
    room, so that it is the mesh's own buffers that drop and count what is not read in time.
    """

    def __init__(self) -> None:
        self.has_ended = False
        """Whether the stream is to end, since the viewer has to begin again."""
        self._snapshots: dict[str, bytes] = {}
        self._items: deque[bytes] = deque()
        self._size = 0
        self._wake = trio.Event()
        self._room = trio.Event()
        self._turn = trio.Lock()

    def put_snapshot(self, topic: str, event: bytes) -> None:
        """Send an event in place of an earlier one of its topic that was not sent yet."""
        self._snapshots[topic] = event
        self._wake.set()

    async def put(self, name: str, value: object) -> None:
        """Send an event with a value of JSON types; waits for room, in turns with others."""
        async with self._turn:
            while len(self._items) >= _MAX_ITEMS or self._size > _MAX_SIZE:
                self._room = trio.Event()
                await self._room.wait()
            event = make_event(name, to_json(value))
            self._items.append(event)
            self._size += len(event)
            self._wake.set()

    def end(self) -> None:
        """End the stream after what is queued."""
        self.has_ended = True
        self._wake.set()

    async def take(self, max_wait: float) -> bytes:
        """Return all that is to be sent now; b"" if there is nothing within `max_wait` seconds."""
        with trio.move_on_after(max_wait):
            await self._wake.wait()
        self._wake = trio.Event()
        if self.has_ended:
            self._wake.set()
        data = b"".join([*self._snapshots.values(), *self._items])
        self._snapshots.clear()
        self._items.clear()
        self._size = 0
        self._room.set()
        return data
