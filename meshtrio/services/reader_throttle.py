"""Limits the time that sending updates to many readers takes."""

from __future__ import annotations

import trio

_READER_TIME_SLICE = 0.0002
"""Delay, in seconds per connected reader, before the same reader is sent its next update."""


class ReaderThrottle:
    """Limits the time that updates of many readers take.

    After each update a reader waits for a time proportional to the number of readers, and then gets
    all that has changed meanwhile. A reader that has waited long enough is updated at once.
    """

    def __init__(self) -> None:
        self.readers = 0
        """Number of connected readers."""

    def __enter__(self) -> None:
        self.readers += 1

    def __exit__(self, *_: object) -> None:
        self.readers -= 1

    async def wait(self) -> None:
        """Wait before the next update of a reader."""
        await trio.sleep(self.readers * _READER_TIME_SLICE)
