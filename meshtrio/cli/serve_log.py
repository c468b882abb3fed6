"""The log of `serve`, on stderr, in a thread of its own.

Whoever reads the log may be slow, stopped or gone, and its disk may be full. None of that may hold
up the mesh, which reads the plugins' output: lines that cannot be written are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_MOST_WAITING = 10_000
_LAST_WORDS = 2.0
"""Seconds that what is left has to be written in at the end."""


class WaitingHandler(logging.Handler):
    """Writes to a descriptor, and never blocks who logs."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._waiting: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)
        self._dropped = 0
        # A daemon, and no file object whose lock it could hold: it may never come back.
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def finish(self) -> None:
        """Write what is waiting, for a while, and nothing after that."""
        try:
            self._waiting.put(None, timeout=_LAST_WORDS)
        except queue.Full:
            return
        self._thread.join(_LAST_WORDS)

    def _write_all(self) -> None:
        while (text := self._waiting.get()) is not None:
            dropped, self._dropped = self._dropped, 0
            if dropped:
                text = f"{dropped} lines of this log could not be written\n{text}"
            if not self._write(f"{text}\n".encode(errors="replace")):
                self._dropped += dropped + 1

    def _write(self, data: bytes) -> bool:
        """False where it could not be: the disk is full, or the reader is gone."""
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return False
        return True


class Formatter(logging.Formatter):
    """One line a record; a plugin's output is marked with its name, the mesh's own is not."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(mark)s%(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        if record.name.startswith("meshtrio.plugin."):
            plugin, instance = record.__dict__["plugin"], record.__dict__["instance"]
            record.mark = f"{plugin}/{instance} | "
        else:
            level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            record.mark = f"mesh: {level}"
        return super().format(record)


@contextmanager
def logging_to(descriptor: int) -> Iterator[None]:
    """Have what is logged in the block written to a file descriptor."""
    handler = WaitingHandler(descriptor)
    handler.setFormatter(Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.finish()
