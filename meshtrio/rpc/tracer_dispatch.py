"""Calling tracers, whose exceptions are logged and do not fail the traced call.

Tracers are called in place, from the tasks of callers and handlers, and from the read loop of a
connection, where an exception would end the connection with all its calls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from meshtrio.util.concurrency import find_exit_exception
from meshtrio.util.token_bucket import TokenBucket

_log = logging.getLogger("meshtrio.rpc")

_log_bucket = TokenBucket(burst=100, rate=1)
"""Limits the log of a tracer that fails for every message."""


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


def log_or_raise_exit(subject: str, exc: BaseException) -> None:
    """Log an exception of a tracer, and raise it if it is SystemExit or KeyboardInterrupt."""
    log_tracer_error(subject, exc)
    if find_exit_exception(exc) is not None:
        raise exc


def log_tracer_error(subject: str, exc: BaseException) -> None:
    """Log an exception of a tracer, unless there were too many."""
    if _log_bucket.try_acquire(time.monotonic()):
        _log.error("%s: call tracer raised", subject, exc_info=exc)
