"""The log of `serve`, on stderr, in a thread of its own.

Whoever reads the log may be slow, stopped or gone, and its disk may be full. None of that may hold
up the mesh, which reads the plugins' output: lines that cannot be written are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from meshtrio.cli.console import ConsoleFormatter
from meshtrio.config import LogConfig, LogFormat
from meshtrio.levels import hush_hpack
from meshtrio.telemetry.logs.records import JsonFormatter, TraceIds, message_of

_MOST_WAITING = 10_000
_MOST_CHARACTERS = 64 * 1024 * 1024
"""Of what is waiting: a record may be as long as 64 KiB."""
_LAST_WORDS = 2.0
"""Seconds that what is left has to be written in at the end."""


class WaitingHandler(logging.Handler):
    """Writes to a descriptor, and never blocks who logs."""

    def __init__(self, descriptor: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._descriptor = descriptor
        self._waiting: deque[str] = deque()
        self._characters = 0
        self._dropped = 0
        self._finished = False
        self._torn = False
        """The last line was written in part."""
        self._news = threading.Condition()
        # A daemon, and no file object whose lock it could hold: it may never come back.
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        text = self._formatted(record)
        with self._news:
            full = len(self._waiting) >= _MOST_WAITING or self._characters >= _MOST_CHARACTERS
            if full or self._finished:
                self._dropped += 1
                return
            self._waiting.append(text)
            self._characters += len(text)
            self._news.notify()

    def finish(self) -> None:
        """Write what is waiting, for a while, and nothing after that."""
        with self._news:
            self._finished = True
            self._news.notify()
        self._thread.join(_LAST_WORDS)

    def _formatted(self, record: logging.LogRecord) -> str:
        """Whoever logs is not to fail for what he logs."""
        try:
            return self.format(record)
        except Exception as exc:
            said = f"a record cannot be written: {type(exc).__name__}: {message_of(record)}"
            return self.format(_record(record.levelno, said))

    def _next(self) -> tuple[str | None, int]:
        """The next text, None at the end, and how many could not be written before it."""
        with self._news:
            while not self._waiting and not self._finished:
                self._news.wait()
            dropped, self._dropped = self._dropped, 0
            if not self._waiting:
                return None, dropped
            text = self._waiting.popleft()
            self._characters -= len(text)
            return text, dropped

    def _write_all(self) -> None:
        text: str | None = ""
        while text is not None:
            text, dropped = self._next()
            lines = [] if text is None else [text]
            if dropped:
                said = f"{dropped} lines of this log could not be written"
                lines.insert(0, self.format(_record(logging.WARNING, said)))
            data = "".join(f"{line}\n" for line in lines)
            if not self._write(data.encode(errors="replace")):
                with self._news:
                    self._dropped += dropped + (text is not None)

    def _write(self, data: bytes) -> bool:
        """False where it could not be: the disk is full, or the reader is gone."""
        rest = b"\n" + data if self._torn else data
        whole = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self._torn = self._torn or len(rest) < whole
            return False
        self._torn = False
        return True


def _record(level: int, text: str) -> logging.LogRecord:
    """A record of the log about itself."""
    return logging.LogRecord("meshtrio.mesh", level, __file__, 0, "%s", (text,), None)


@contextmanager
def logging_to(descriptor: int, config: LogConfig) -> Iterator[None]:
    """Have what is logged in the block written to a file descriptor."""
    is_json = config.format is LogFormat.JSON
    handler = WaitingHandler(descriptor, JsonFormatter() if is_json else ConsoleFormatter())
    handler.addFilter(TraceIds())
    hush_hpack()
    logging.basicConfig(level=config.level.number, handlers=[handler])
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.finish()
