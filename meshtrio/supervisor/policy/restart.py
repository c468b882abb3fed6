"""What to do when a plugin's process has ended: pure functions, no clock, no processes."""

from __future__ import annotations

import signal
from enum import Enum
from random import Random

import attrs

from meshtrio.config import PluginConfig, RestartPolicy


class ExitCause(Enum):
    """Why a process is gone that nobody asked to stop, in a word that can be counted by."""

    EXITED = "exit"
    KILLED = "signal"
    NOT_STARTED = "not_started"
    NOT_READY = "not_ready"
    UNHEALTHY = "liveness"
    MEMORY_LIMIT = "memory"
    WRONG_SERVER = "wrong_server"
    INTERNAL_ERROR = "internal_error"
    """The mesh itself failed to look after it."""


@attrs.frozen
class Exit:
    """How one life of an instance ended.

    `status` or `signal` as the kernel told it; neither for a process that could not be started.
    `reason` is set where the mesh ended it: it was not ready in time, say.
    """

    status: int | None = None
    signal: int | None = None
    reason: str = ""
    is_unkillable: bool = False
    """It could not even be killed, and is still there."""
    stderr_tail: tuple[str, ...] = ()
    explicit_cause: ExitCause | None = None
    """Why the mesh ended it, where it did."""
    is_resource_exhaustion: bool = False
    """It could not be started for lack of descriptors, memory or processes, which is not its own
    failure."""

    @property
    def cause(self) -> ExitCause:
        if self.explicit_cause is not None:
            return self.explicit_cause
        return ExitCause.EXITED if self.signal is None else ExitCause.KILLED

    @property
    def is_clean(self) -> bool:
        return self.status == 0 and not self.reason

    def __str__(self) -> str:
        """A phrase that follows "instance 0 (pid 4711) …"."""
        if self.signal is not None:
            ended = f"was killed by {signal_name(self.signal)}"
        elif self.status is not None:
            ended = f"exited with status {self.status}"
        else:
            ended = ""
        if self.reason and ended:
            return f"{self.reason}; it {ended}"
        return self.reason or ended


@attrs.frozen
class RunFailure:
    """Why the mesh ends a process without a request to stop it."""

    reason: str
    """What is wrong, as a phrase that follows "instance 0 (pid 4711)"; "" if nothing is."""
    cause: ExitCause | None = None
    """The cause by which such ends are counted."""

    @property
    def is_stuck(self) -> bool:
        """Whether the process gets no time to drain."""
        return self.cause in (ExitCause.UNHEALTHY, ExitCause.MEMORY_LIMIT)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@attrs.frozen
class RestartHistory:
    """What an instance has been through."""

    restarts: int = 0
    """How often it was started again, in all."""
    consecutive_failures: int = 0
    """In a row."""
    recent_restarts: tuple[float, ...] = ()
    """When it was started again, as far back as `restart_period`, where that is bounded."""


@attrs.frozen
class Restart:
    """Start it again after `delay` seconds."""

    delay: float
    history: RestartHistory


@attrs.frozen
class Finish:
    """Leave it as it is; `failed` tells a failure from being done."""

    is_failure: bool


@attrs.frozen
class GiveUp:
    """It was started again so often within its period that another time will not help."""

    restarts: int
    period: float


Decision = Restart | Finish | GiveUp


def decide(
    config: PluginConfig,
    history: RestartHistory,
    exit: Exit,
    since_ready: float | None,
    now: float,
    rng: Random,
) -> Decision:
    """Choose what follows a process that ended by itself at `now` (seconds).

    `since_ready`: seconds from when it was first ready to its end, None if it never was. Only a
    process that was ready for `min_uptime` ends a row of failures: one that never gets ready may
    well live longer than that.
    """
    if not _should_restart(config, exit):
        return Finish(is_failure=not exit.is_clean)
    recent: tuple[float, ...] = ()
    if exit.is_resource_exhaustion:
        recent = history.recent_restarts
    elif config.max_restarts is not None:
        recent = (*recent_times(history.recent_restarts, config.restart_period, now), now)
        if len(recent) > config.max_restarts:
            return GiveUp(config.max_restarts, config.restart_period)
    lasted = since_ready is not None and since_ready >= config.min_uptime
    failures = 1 if lasted else history.consecutive_failures + 1
    following = RestartHistory(history.restarts + 1, failures, recent)
    return Restart(config.backoff.delay(failures, rng), following)


def _should_restart(config: PluginConfig, exit: Exit) -> bool:
    # A status it left with because the mesh ended it was not its own choice.
    status = None if exit.reason else exit.status
    if status is not None and status in config.never_restart_on:
        return False
    if status is not None and status in config.always_restart_on:
        return True
    if config.restart is RestartPolicy.ON_FAILURE:
        return not exit.is_clean
    return config.restart is RestartPolicy.ALWAYS


def recent_times(times: tuple[float, ...], period: float, now: float) -> tuple[float, ...]:
    """Those of the last `period` seconds."""
    return tuple(time for time in times if now - time < period)
