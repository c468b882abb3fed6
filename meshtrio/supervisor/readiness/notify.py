"""Readiness and liveness of a process that reports both by sd_notify(3)."""

from __future__ import annotations

import attrs
import trio

from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.probe import (
    SERVING,
    HealthCheckResult,
    NotReadyError,
    make_failed_result,
    was_stalled,
)
from meshtrio.supervisor.readiness.notify_channel import NotifyChannel


@attrs.frozen
class NotifiedReadiness:
    """Waits for READY=1; EXTEND_TIMEOUT_USEC= extends the timeout."""

    _channel: NotifyChannel

    async def wait_ready(self, max_time: float) -> None:
        """Wait for READY=1."""
        deadline = trio.current_time() + max_time
        while True:
            with trio.move_on_after(max_time) as scope:
                with self._channel.extending(scope, counts_earlier=True):
                    await self._channel.ready.wait()
                    return
            if not was_stalled(scope):
                break
        missing = "it has not sent READY=1"
        if scope.deadline > deadline:
            missing += ", nor asked for more time again"
        if self._channel.status:
            missing += f"; its status is: {self._channel.status}"
        raise NotReadyError(max_time, missing)


@attrs.frozen
class Watchdog:
    """Checks that a process sends WATCHDOG=1 in time."""

    _channel: NotifyChannel
    _interval: float
    """Seconds for which it may send nothing, unless it changes them by WATCHDOG_USEC=."""
    _is_required: bool
    """Whether a process is checked that has never sent WATCHDOG=1."""

    async def check(self, max_time: float) -> HealthCheckResult:
        """Check when it was last sent; if that is too long ago, wait for the next one."""
        await trio.lowlevel.checkpoint()
        channel = self._channel
        interval = channel.watchdog_interval or self._interval
        while True:
            if not self._is_required and not channel.is_watched:
                return SERVING
            if trio.current_time() - channel.last_alive_at <= interval:
                return SERVING
            with trio.move_on_after(max_time) as scope:
                await channel.wait_alive()
                return SERVING
            if not was_stalled(scope):
                silence = trio.current_time() - channel.last_alive_at
                return make_failed_result(
                    f"it has not sent WATCHDOG=1 for {silence:.3g} s", Condition.STUCK
                )
