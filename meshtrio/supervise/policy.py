"""What to do when a plugin's process has ended: pure functions, no clock, no processes."""

from __future__ import annotations

import signal
from random import Random

import attrs

from meshtrio.config import PluginConfig, RestartPolicy


@attrs.frozen
class Exit:
    """How one life of an instance ended.

    `status` or `signal` as the kernel told it; neither for a process that could not be started.
    `reason` is set where the mesh ended it: it was not ready in time, say.
    """

    status: int | None = None
    signal: int | None = None
    reason: str = ""
    stderr_tail: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
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


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@attrs.frozen
class History:
    """What an instance has been through: how often it was started again, failures in a row."""

    restarts: int = 0
    failures: int = 0


@attrs.frozen
class Restart:
    """Start it again after `delay` seconds."""

    delay: float
    history: History


@attrs.frozen
class Finish:
    """Leave it as it is; `failed` tells a plugin that gave up from one that was done."""

    failed: bool


Decision = Restart | Finish


def decide(
    config: PluginConfig, history: History, ended: Exit, uptime: float, rng: Random
) -> Decision:
    """Choose what follows a life of `uptime` seconds that ended by itself."""
    if config.restart is RestartPolicy.NEVER:
        return Finish(failed=not ended.clean)
    if config.restart is RestartPolicy.ON_FAILURE and ended.clean:
        return Finish(failed=False)
    failures = 1 if uptime >= config.backoff.reset_after else history.failures + 1
    following = History(restarts=history.restarts + 1, failures=failures)
    return Restart(config.backoff.delay(failures, rng), following)
