"""The tracer of a stream's messages, and calling tracers, whose exceptions do not fail a call.

Tracers are called in place, from the tasks of callers and handlers, and from the read loop of a
connection, where an exception would end the connection with all its calls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from meshtrio.grpc.headers import ResponseHeaders
from meshtrio.util.concurrency import find_exit_exception
from meshtrio.util.token_bucket import TokenBucket

T = TypeVar("T")

_log = logging.getLogger("meshtrio.rpc")

_log_bucket = TokenBucket(burst=100, rate=1)
"""Limits the log of a tracer that fails for every message."""


class MessageTracer:
    """Reports the messages of one stream.

    A tracer that wants these events sets itself as the stream's `message_tracer`, in
    `ServerTracer.start_call` or `AttemptTracer.endpoint_picked`. All methods are called in place
    and must not block.
    """

    __slots__ = ()

    def message_sent(self, message: bytes, wire_size: int) -> None:
        """Report a message that is about to be sent; `wire_size` is its size once compressed."""

    def message_received(self, message: bytes, wire_size: int) -> None:
        """Report a message that was received; `wire_size` is its size before decompression."""

    def half_closed(self) -> None:
        """Report that a client has ended its side of the call (END_STREAM)."""

    def half_close_received(self) -> None:
        """Report that a server has received the last message of the client."""

    def headers_received(self, headers: ResponseHeaders) -> None:
        """Report that a client has received response headers that are not Trailers-Only."""


def notify_tracer(subject: str, method: Callable[..., None], *args: object) -> None:
    """Call a tracer from the task of a caller or a handler; the log names the subject if it raises.

    SystemExit and KeyboardInterrupt are raised, other exceptions are logged only.
    """
    try:
        method(*args)
    except BaseException as exc:
        log_or_raise_exit(subject, exc)


def notify_tracer_in_read_loop(subject: str, method: Callable[..., None], *args: object) -> None:
    """Call a tracer from the read loop of a connection. Raises nothing."""
    try:
        method(*args)
    except BaseException as exc:
        log_tracer_error(subject, exc)


def start_tracer(start: Callable[..., T], default: Callable[[], T], *args: object) -> T:
    """Return the tracer that `start` returns for its arguments, or one that does nothing.

    If `start` raises, that is logged.
    """
    try:
        return start(*args)
    except BaseException as exc:
        log_or_raise_exit(getattr(start, "__qualname__", type(start).__qualname__), exc)
        return default()


def log_or_raise_exit(subject: str, exc: BaseException) -> None:
    """Log an exception of a tracer, and raise it if it is SystemExit or KeyboardInterrupt."""
    log_tracer_error(subject, exc)
    if find_exit_exception(exc) is not None:
        raise exc


def log_tracer_error(subject: str, exc: BaseException) -> None:
    """Log an exception of a tracer, unless there were too many."""
    if _log_bucket.try_acquire(time.monotonic()):
        _log.error("%s: call tracer raised", subject, exc_info=exc)
