"""Waiting for what this process logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class _EventHandler(logging.Handler):
    """Sets an event when a message with a text in it is logged."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.logged = trio.Event()
        self._text = text

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.logged.set()


@contextmanager
def watch_log(text: str, logger: str = "meshtrio") -> Iterator[trio.Event]:
    """Yield an event that is set once a message with `text` in it is logged during the block.

    Args:
        text: Part of the message.
        logger: Name of the logger; records of those below it count. They have to be enabled, for
            example by `caplog.set_level`, and logged in trio's thread.
    """
    handler = _EventHandler(text)
    logging.getLogger(logger).addHandler(handler)
    try:
        yield handler.logged
    finally:
        logging.getLogger(logger).removeHandler(handler)
