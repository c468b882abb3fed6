"""Reports the state of a mesh to the service manager, as sd_notify(3) has it.

The supervisor loop calls `on_turn`; see the package. Sent are, in this order:

    READY=1                               the start is over
    RELOADING=1, then READY=1             around each reload
    STOPPING=1                            shutdown begins
    STATUS=…                              whenever the text changes, at most once a second
    WATCHDOG=1                            twice per WatchdogSec
    EXTEND_TIMEOUT_USEC=…                 while the mesh starts, reloads or stops
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meshtrio.systemd.notify_socket import NotifySocket
from meshtrio.systemd.readiness import find_unsettled
from meshtrio.systemd.status_text import describe_mesh, shorten_line
from meshtrio.util.concurrency import split_cancelled
from meshtrio.util.errors import unwrap_exception_group

if TYPE_CHECKING:
    from meshtrio.supervisor.supervisor import Supervisor

_log = logging.getLogger("meshtrio.mesh")

_STATUS_INTERVAL = 1.0
"""Seconds between two changes of STATUS."""
_EXTENSION = 30.0
"""Seconds that systemd is asked to wait for the next message, in addition to what the servers of
the mesh take to drain."""
_EXTENSION_INTERVAL = 10.0
"""Seconds between two such requests."""
_RETRY_DELAY = 0.5
"""Seconds after which a message is sent again that the socket has not accepted."""
_MAX_UNSENT = 16
"""State changes that are kept while the socket accepts none; of more the oldest are dropped."""


class Notifier:
    """Reports the state of one supervisor."""

    def __init__(
        self, notify: NotifySocket, supervisor: Supervisor, ping_interval: float | None
    ) -> None:
        """Initialize. `ping_interval`: seconds between messages to the watchdog, None for none."""
        self._notify = notify
        self._supervisor = supervisor
        self._ping_interval = ping_interval
        self._were_ready: set[tuple[str, int]] = set()
        self._is_started = False
        """Whether the start is over."""
        self._is_stopping = False
        self._reloads = 0
        """Number of reloads that have been announced and are in progress."""
        self._reload_failure = ""
        self._has_failed = False
        """Whether a bug has been logged."""
        self._unsent: deque[tuple[str, ...]] = deque(maxlen=_MAX_UNSENT)
        self._sent_status = ""
        self._next_status = self._next_ping = self._next_extension = -math.inf

    def on_turn(self, now: float) -> float:
        """Report what has changed; return when the loop has to go round at the latest.

        Times are in seconds of the monotonic clock.
        """
        try:
            self._find_state_changes(now)
            if not self._send_unsent():
                return now + _RETRY_DELAY
            next_turn = min(self._extend_timeout(now), self._send_status(now))
        except Exception:
            self._log_bug()
            next_turn = now + _STATUS_INTERVAL
        return min(next_turn, self._send_ping(now))

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Report the block as a reload.

        A reload during the start is a part of it, and one during the stop is not reported either:
        READY=1 would end both.
        """
        is_reported = self._is_started and not self._is_stopping
        if is_reported:
            self._reloads += 1
            self._next_extension = -math.inf
            # systemd compares this with when it has asked for a reload (Type=notify-reload).
            microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._change_state("RELOADING=1", f"MONOTONIC_USEC={microseconds}")
        try:
            yield
        except (Exception, BaseExceptionGroup) as exc:
            _, error = split_cancelled(exc)
            if error is not None:
                self._reload_failure = shorten_line(str(unwrap_exception_group(error)))
            raise
        else:
            self._reload_failure = ""
        finally:
            if is_reported:
                self._reloads -= 1
                if not self._reloads and not self._is_stopping:
                    self._change_state("READY=1")

    def _log_bug(self) -> None:
        """Log the current exception, once: a bug in what is reported must not end the mesh."""
        if not self._has_failed:
            _log.exception("cannot report the state of the mesh to systemd")
        self._has_failed = True

    # -- state -------------------------------------------------------------------------------

    def _find_state_changes(self, now: float) -> None:
        supervisor = self._supervisor
        if supervisor.shutdown_started.is_set():
            if not self._is_stopping:
                self._is_stopping, self._next_extension = True, -math.inf
                self._change_state("STOPPING=1")
            elif not any(each.is_running for each in supervisor.instances):
                self._next_status = -math.inf  # There may be no other turn.
        elif not self._is_started:
            self._were_ready.update(each.key for each in supervisor.instances if each.is_available)
            explainer = supervisor.explain_dependencies()
            if not find_unsettled(
                supervisor.instances,
                supervisor.dependencies,
                self._were_ready,
                lambda plugin: bool(explainer.explain_failure(plugin)),
            ):
                self._is_started = True
                self._change_state("READY=1")

    def _change_state(self, *assignments: str) -> None:
        """Send a change of state, together with the status; it is sent again if it is not taken."""
        text = self._status_text()
        self._unsent.append((*assignments, f"STATUS={text}"))
        if self._send_unsent():
            self._sent_status = text

    def _send_unsent(self) -> bool:
        """Send the state changes in order; return whether none is left."""
        while self._unsent and self._notify.send(*self._unsent[0]):
            self._unsent.popleft()
        return not self._unsent

    # -- repeated messages -------------------------------------------------------------------

    def _send_ping(self, now: float) -> float:
        if self._ping_interval is None:
            return math.inf
        if now >= self._next_ping:
            is_sent = self._notify.send("WATCHDOG=1")
            self._next_ping = now + (
                self._ping_interval if is_sent else min(self._ping_interval, _RETRY_DELAY)
            )
        return self._next_ping

    def _extend_timeout(self, now: float) -> float:
        """Have systemd wait for as long as this loop goes round while the mesh is changing.

        Each step is limited: a start by `ready_timeout`, a stop by `stop_timeout`.
        """
        if self._is_started and not self._is_stopping and not self._reloads:
            return math.inf
        if now >= self._next_extension:
            seconds = _EXTENSION + self._supervisor.config.gateway.drain_timeout
            is_sent = self._notify.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")
            self._next_extension = now + (_EXTENSION_INTERVAL if is_sent else _RETRY_DELAY)
        return self._next_extension

    def _send_status(self, now: float) -> float:
        if now < self._next_status:
            return self._next_status
        text = self._status_text()
        if text == self._sent_status:
            return math.inf
        if self._notify.send(f"STATUS={text}"):
            self._sent_status = text
        self._next_status = now + _STATUS_INTERVAL
        return self._next_status

    def _status_text(self) -> str:
        try:
            text = describe_mesh(self._supervisor.instances, is_stopping=self._is_stopping)
        except Exception:
            self._log_bug()
            return self._sent_status
        if self._reloads:
            text = f"reloading; {text}"
        if self._reload_failure and not self._is_stopping:
            text = f"{text}; the last reload failed: {self._reload_failure}"
        return text
