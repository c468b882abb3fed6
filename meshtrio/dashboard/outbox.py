"""What waits to be sent to one viewer: bounded, however slowly the viewer reads."""

from __future__ import annotations

from collections import Counter, deque

import trio

from meshtrio.dashboard.requests import encode_json

_MAX_MESSAGES = 5000
_MAX_BYTES = 2 * 1024 * 1024


class Outbox:
    """The messages of a stream of Server-Sent Events that were not sent yet.

    Of a snapshot, such as the statistics, only the latest one is kept. Of anything else the oldest
    are dropped if there are too many, and the viewer is told how many.
    """

    def __init__(self) -> None:
        self._snapshots: dict[str, bytes] = {}
        self._messages: deque[tuple[str, bytes]] = deque()
        self._size = 0
        self._lost: Counter[str] = Counter()
        self._changed = trio.Event()

    def put_snapshot(self, name: str, message: bytes) -> None:
        """Replace what is to be sent of a snapshot; `message` is encoded by `encode_message`."""
        self._snapshots[name] = message
        self._changed.set()

    def put(self, name: str, message: bytes) -> None:
        """Add a message."""
        self._messages.append((name, message))
        self._size += len(message)
        while len(self._messages) > _MAX_MESSAGES or self._size > _MAX_BYTES:
            dropped, oldest = self._messages.popleft()
            self._size -= len(oldest)
            self._lost[dropped] += 1
        self._changed.set()

    def add_lost(self, name: str, count: int) -> None:
        """Report messages of a stream that were lost before they came here."""
        self._lost[name] += count

    async def take_all(self, max_wait: float) -> bytes:
        """Wait for messages and return all of them; b"" after `max_wait` seconds without one."""
        with trio.move_on_after(max_wait):
            await self._changed.wait()
        self._changed = trio.Event()
        lost = [
            encode_message("lost", {"stream": name, "missed": count})
            for name, count in self._lost.items()
        ]
        data = b"".join([*lost, *(each for _, each in self._messages), *self._snapshots.values()])
        self._messages.clear()
        self._snapshots.clear()
        self._lost.clear()
        self._size = 0
        return data


def encode_message(name: str, value: object) -> bytes:
    """Encode a Server-Sent Event. JSON has no line ends."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode_json(value))
