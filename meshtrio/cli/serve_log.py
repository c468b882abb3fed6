"""The log of `serve`, written to stderr by a thread.

The reader of the log may be slow, stopped or gone, and the disk may be full. None of that may block
the mesh, which reads the plugins' output: lines that cannot be written are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from meshtrio.cli.console_formatter import ConsoleFormatter
from meshtrio.config import LogConfig, LogFormat
from meshtrio.telemetry.logs.formatters import JsonFormatter, TraceIdFilter, get_message
from meshtrio.util.log_level import silence_hpack

_MAX_QUEUED_RECORDS = 10_000
_MAX_QUEUED_CHARACTERS = 64 * 1024 * 1024
"""Maximum total length of queued records, each of which may have up to 64 KiB."""
_CLOSE_TIMEOUT = 2.0
"""Seconds to write the rest of the queue when the log is closed."""


class BackgroundLogHandler(logging.Handler):
    """A handler that writes to a descriptor from a thread and never blocks its callers."""

    def __init__(self, descriptor: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._descriptor = descriptor
        self._queue: deque[str] = deque()
        self._queued_characters = 0
        self._dropped = 0
        self._stopping = False
        self._line_is_partial = False
        """True if the last write ended within a line."""
        self._condition = threading.Condition()
        # It may block in write() for ever: a daemon, and no file object, whose lock it would hold.
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        text = self._format_safely(record)
        with self._condition:
            full = (
                len(self._queue) >= _MAX_QUEUED_RECORDS
                or self._queued_characters >= _MAX_QUEUED_CHARACTERS
            )
            if full or self._stopping:
                self._dropped += 1
                return
            self._queue.append(text)
            self._queued_characters += len(text)
            self._condition.notify()

    def drain_and_stop(self) -> None:
        """Write what is queued, within `_CLOSE_TIMEOUT`, and drop all that follows."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(_CLOSE_TIMEOUT)

    def _format_safely(self, record: logging.LogRecord) -> str:
        """Format a record; an error in its formatting must not reach the code that logs."""
        try:
            return self.format(record)
        except Exception as exc:
            problem = f"cannot format a record: {type(exc).__name__}: {get_message(record)}"
            return self.format(_make_record(record.levelno, problem))

    def _take_next(self) -> tuple[str | None, int]:
        """Return the next text, None at the end, and the number of records dropped before it."""
        with self._condition:
            while not self._queue and not self._stopping:
                self._condition.wait()
            dropped, self._dropped = self._dropped, 0
            if not self._queue:
                return None, dropped
            text = self._queue.popleft()
            self._queued_characters -= len(text)
            return text, dropped

    def _write_all(self) -> None:
        text: str | None = ""
        while text is not None:
            text, dropped = self._take_next()
            lines = [] if text is None else [text]
            if dropped:
                problem = f"dropped {dropped} lines of this log"
                lines.insert(0, self.format(_make_record(logging.WARNING, problem)))
            data = "".join(f"{line}\n" for line in lines)
            if not self._write(data.encode(errors="replace")):
                with self._condition:
                    self._dropped += dropped + (text is not None)

    def _write(self, data: bytes) -> bool:
        """Write `data`. Return False if that fails: the disk is full, or the reader is gone."""
        rest = b"\n" + data if self._line_is_partial else data
        whole = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self._line_is_partial = self._line_is_partial or len(rest) < whole
            return False
        self._line_is_partial = False
        return True


def _make_record(level: int, text: str) -> logging.LogRecord:
    """Make a record about the log itself."""
    return logging.LogRecord("meshtrio.mesh", level, __file__, 0, "%s", (text,), None)


@contextmanager
def log_to_descriptor(descriptor: int, config: LogConfig) -> Iterator[None]:
    """Write what is logged in the block to a file descriptor."""
    is_json = config.format is LogFormat.JSON
    handler = BackgroundLogHandler(descriptor, JsonFormatter() if is_json else ConsoleFormatter())
    handler.addFilter(TraceIdFilter())
    silence_hpack()
    logging.basicConfig(level=config.level.number, handlers=[handler])
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.drain_and_stop()
