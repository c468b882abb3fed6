"""Calls of tracers: whatever one raises costs a line of the log, not the call that it traces.

Tracers are called in place, from the tasks of callers and handlers, and from the loop that reads a
connection, where an exception would end the connection with all of its calls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from meshtrio.util.concurrency import find_exit_exception
from meshtrio.util.token_bucket import TokenBucket

_log = logging.getLogger("meshtrio.rpc")

_log_bucket = TokenBucket(burst=100, rate=1)
"""A tracer that fails for each message shall not fill the log."""


def notify_tracer(subject: str, method: Callable[..., None], *args: object) -> None:
    """Call a tracer from the task of a caller or a handler.

    Args:
        where: What the log is to say it was about: the path of a call, or a target.
        method: Of the tracer.
        args: What it is called with.

    Raises:
        SystemExit, KeyboardInterrupt: As the tracer did; all else is logged.
    """
    try:
        method(*args)
    except BaseException as exc:
        log_or_raise_exit(subject, exc)


def notify_tracer_in_read_loop(subject: str, method: Callable[..., None], *args: object) -> None:
    """The same from where nothing may be raised."""
    try:
        method(*args)
    except BaseException as exc:
        log_tracer_error(subject, exc)


def log_or_raise_exit(subject: str, exc: BaseException) -> None:
    """Log what a tracer raised. Raises it if it is SystemExit or KeyboardInterrupt."""
    log_tracer_error(subject, exc)
    if find_exit_exception(exc) is not None:
        raise exc


def log_tracer_error(subject: str, exc: BaseException) -> None:
    """Log what a tracer raised, as far as there have not been too many."""
    if _log_bucket.try_acquire(time.monotonic()):
        _log.error("%s: call tracer raised", subject, exc_info=exc)
