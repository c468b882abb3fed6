"""What a plugin writes to stdout and stderr: cut into lines, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trio

CALL_CUT = "call cut at the end of its grace: "
"""What a draining plugin of meshtrio writes to stderr before the path of a call, one a line."""

MAX_LINE = 8 * 1024
"""Bytes of a line that are kept; what follows up to its end is counted and dropped."""

_READ_SIZE = 32 * 1024


class LineSplitter:
    """Cuts bytes into (line, bytes cut off it); holds at most `MAX_LINE` bytes."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._cut = 0

    def feed(self, data: bytes) -> Iterator[tuple[str, int]]:
        """Take bytes, give the lines they complete."""
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._keep(piece)
            yield self._take()
        self._keep(rest)

    def finish(self) -> Iterator[tuple[str, int]]:
        """Give the last line if it had no newline."""
        if self._held or self._cut:
            yield self._take()

    def _keep(self, piece: bytes) -> None:
        room = MAX_LINE - len(self._held)
        self._held += piece[:room]
        self._cut += max(len(piece) - room, 0)

    def _take(self) -> tuple[str, int]:
        line = self._held.decode("utf-8", "replace").rstrip("\r")
        cut, self._cut = self._cut, 0
        self._held.clear()
        return line, cut


async def read_lines(pipe: int, deliver: Callable[[str, int], None]) -> None:
    """Deliver each line read from a pipe until its end. Takes the file descriptor over."""
    splitter = LineSplitter()
    async with trio.lowlevel.FdStream(pipe) as stream:
        try:
            while data := await stream.receive_some(_READ_SIZE):
                for line, cut in splitter.feed(data):
                    deliver(line, cut)
        finally:
            for line, cut in splitter.finish():
                deliver(line, cut)
