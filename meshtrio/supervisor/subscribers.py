"""Who is called with the lifecycle events of a mesh.

Subscribers are code of others, or touch things that fail, and they are called from the tasks that
own the plugins: an exception of one of them is logged and goes no further.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable

import trio

from meshtrio.supervisor.events import LifecycleEvent, Subscriber
from meshtrio.util.concurrency import find_exit_exception

_log = logging.getLogger("meshtrio.mesh")

_LOG_INTERVAL = 60.0
"""Seconds between two log records about one subscriber that raises for each line of output."""


class Subscribers:
    """Calls each subscriber with each event, in the order that they were added."""

    def __init__(
        self, subscribers: Iterable[Subscriber], on_exit: Callable[[BaseException], None]
    ) -> None:
        """`exit_with`: called with a SystemExit or KeyboardInterrupt that a subscriber raised."""
        self._subscribers = list(subscribers)
        self._on_exit = on_exit
        self._last_logged: dict[Subscriber, tuple[float, int]] = {}
        """When the failures of a subscriber were last logged, and how many followed."""

    def add(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def emit(self, event: LifecycleEvent) -> None:
        """Call all of them; they are called in place and may not block."""
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except BaseException as exc:
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
            _log.error(
                "a subscriber of lifecycle events raised for %s of %s/%d (%d times more since this "
                "was last logged): %r",
                type(event).__name__,
                event.plugin,
                event.instance,
                more,
                subscriber,
                exc_info=exc,
            )
