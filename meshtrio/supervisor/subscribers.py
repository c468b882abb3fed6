"""Calls subscribers with lifecycle events.

Subscribers are called from the tasks that own the plugins, so an exception of one of them is logged
and goes no further.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Callable

import attrs
import trio

from meshtrio.supervisor.events import LifecycleEvent, Subscriber
from meshtrio.util.concurrency import find_exit_exception

_log = logging.getLogger("meshtrio.mesh")

_LOG_INTERVAL = 60.0
"""Seconds between two log records about one subscriber, which may raise for each line of output."""


@attrs.define(eq=False)
class Subscribers:
    """Calls each subscriber with each event, in the order that they were added."""

    _subscribers: list[Subscriber]
    _on_exit: Callable[[BaseException], None]
    """Called with a SystemExit or KeyboardInterrupt of one."""
    _last_logged: dict[Subscriber, tuple[float, int]] = attrs.field(factory=dict, init=False)
    """When the failures of a subscriber were last logged, and how many there were since."""

    def add(self, subscriber: Subscriber) -> None:
        """Add a subscriber, which is called after those before it."""
        self._subscribers.append(subscriber)

    def emit(self, event: LifecycleEvent) -> None:
        """Call all subscribers, in place."""
        ours = sys.exception()
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except BaseException as exc:
                _cut_context(exc, ours)
                self._handle_exception(subscriber, event, exc)

    def _handle_exception(
        self, subscriber: Subscriber, event: LifecycleEvent, exc: BaseException
    ) -> None:
        if find_exit_exception(exc) is not None:
            self._on_exit(exc)
            return
        now = trio.current_time()
        logged, more = self._last_logged.get(subscriber, (-math.inf, 0))
        if now - logged < _LOG_INTERVAL:
            self._last_logged[subscriber] = (logged, more + 1)
            return
        self._last_logged[subscriber] = (now, 0)
        # The subscriber may be the one that logs, and whose handler is broken.
        with contextlib.suppress(Exception):
            text = (
                "subscriber of lifecycle events raised for %s (and %d times since last logged): %r"
            )
            name = f"{type(event).__name__} of {event.plugin}/{event.instance}"
            _log.error(text, name, more, subscriber, exc_info=exc)


def _cut_context(exc: BaseException, ours: BaseException | None) -> None:
    """Take `ours`, which was being handled before, out of the context of `exc`.

    Otherwise the log would show the mesh's own exceptions, such as cancellation, as a part of it.
    """
    while exc.__context__ is not None and exc.__context__ is not ours:
        exc = exc.__context__
    exc.__context__ = None
