"""A row of the supervisor's table: one instance, whose processes come and go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import attrs
import trio

from meshtrio.config import PluginConfig
from meshtrio.supervise.decisions.plan import Goal
from meshtrio.supervise.decisions.policy import Exit, History
from meshtrio.supervise.decisions.state import State
from meshtrio.supervise.life import Life
from meshtrio.supervise.processes.output import Ring
from meshtrio.supervise.processes.process import Process
from meshtrio.supervise.processes.remains import LeftProcess
from meshtrio.supervise.words import tail_of


@attrs.frozen
class Status:
    """An instance as it is now; times are seconds."""

    name: str
    instance: int
    state: State
    pid: int | None
    restarts: int
    uptime: float | None
    socket: Path
    reason: str


@attrs.define(eq=False)
class Child:
    """What the supervisor knows of an instance, and what it is to come to. See `plan.Entry`.

    It has one life at a time, but while it is renewed: then a successor is started beside it, and
    takes its place once it is ready.
    """

    config: PluginConfig
    number: int
    goal: Goal = Goal.RUN
    history: History = attrs.field(factory=History)
    life: Life | None = None
    successor: Life | None = None
    retired: list[Life] = attrs.field(factory=list)
    """Those whose place was taken, while they drain."""
    renewal: str = ""
    """Why it is to be renewed, while it is."""
    renewal_failure: str = ""
    """Why the last renewal came to nothing."""
    renewal_failures: int = 0
    """How many in a row came to nothing."""
    renewal_due: float = -math.inf
    """When it may be renewed again for its age or size, after one that came to nothing."""
    failed_starts: int = 0
    """How many of its processes ended by themselves, or were ended, before they were ready."""
    last_exit: Exit | None = None
    """Of the last process that it had."""
    rest: State = State.PENDING
    """Its state while it has no process."""
    due: float = -math.inf
    batch: int = 0
    reason: str = ""
    """How the last life ended."""
    left: tuple[LeftProcess, ...] = ()
    """Processes of it that cannot be killed and run on."""
    ring: Ring = attrs.field(factory=Ring)
    """What it wrote last."""
    place: int = 0
    """Which of its two sockets its life has; a successor has the other."""

    @property
    def plugin(self) -> str:
        return self.config.name

    @property
    def key(self) -> tuple[str, int]:
        """Its plugin and its number, which no other instance has both of."""
        return self.plugin, self.number

    @property
    def last_words(self) -> str:
        """What its last process wrote to stderr last, which in most languages names the error."""
        return "" if self.last_exit is None else tail_of(self.last_exit.stderr_tail)

    def follow(self, config: PluginConfig) -> None:
        """Go by another config, from the next process on; by its log level at once."""
        self.config = config
        for life in self.lives():
            life.listener.log_level = config.output.log_level

    def lives(self) -> list[Life]:
        """All there are, the one in office first."""
        found = [life for life in (self.life, self.successor) if life is not None]
        return found + self.retired

    @property
    def running(self) -> bool:
        return bool(self.lives())

    @property
    def stopping(self) -> bool:
        return all(life.asked for life in self.lives())

    @property
    def starting(self) -> bool:
        return self.life is not None and self.life.starting

    @property
    def ready(self) -> bool:
        return self.life is not None and self.life.ready

    @property
    def state(self) -> State:
        return self.rest if self.life is None else self.life.state

    @property
    def process(self) -> Process | None:
        return None if self.life is None else self.life.process

    def note_resident(self, by_group: Mapping[int, int]) -> None:
        for life in self.lives():
            if life.process is not None:
                life.uses(by_group.get(life.process.pid, 0))

    def overdue(self, rng: Random, is_removed: Callable[[Path], bool]) -> str:
        """Why a successor should take its place, "" where there is no reason to."""
        life, config = self.life, self.config
        if life is None or not life.ready or life.condemned:
            return ""
        if trio.current_time() < self.renewal_due:
            return ""
        if config.max_age is not None:
            if life.share_of_age is None:
                life.share_of_age = 1 + config.max_age_variance * (2 * rng.random() - 1)
            if life.uptime > config.max_age * life.share_of_age:
                return f"it is {life.uptime:.0f} s old"
        if config.renew_above is not None and life.resident > config.renew_above:
            return f"it uses {life.resident:,} bytes of memory"
        if config.listen is None and is_removed(life.socket):
            return f"somebody has removed {life.socket}"
        return ""

    def stop(self, notice: float) -> None:
        """See `Life.stop`."""
        self.renewal = ""
        for life in self.lives():
            life.stop(notice)

    def promote(self, notice: float) -> None:
        """Put the successor in office."""
        assert self.life is not None
        assert self.successor is not None
        self.life.stop(notice)
        self.retired.append(self.life)
        self.life, self.successor, self.renewal = self.successor, None, ""
        self.renewal_failures, self.renewal_due = 0, -math.inf
        self.place = 1 - self.place

    def bury(self, life: Life) -> bool:
        """Take out a life that has ended; True if nobody is in office any more because of it."""
        assert life.ended is not None
        if life is self.successor:
            self.successor, self.renewal = None, ""
            self.renewal_failure = f"{life.ended}{tail_of(life.ended.stderr_tail)}"
            self.renewal_failures += 1
            return False
        if life is self.life:
            self.last_exit = life.ended
            self.failed_starts += life.ready_at is None and not life.asked
        if life is not self.life:
            self.retired.remove(life)
        elif self.successor is not None:
            self.life, self.successor, self.renewal = self.successor, None, ""
            self.renewal_failures, self.renewal_due = 0, -math.inf
            self.place = 1 - self.place
        else:
            self.life, self.renewal = None, ""
            return True
        return False

    def status(self, socket: Path) -> Status:
        """`socket` is where it would be, were it not running."""
        life = self.life
        process = life.process if life is not None else None
        socket = life.socket if life is not None else socket
        reasons = ["" if self.ready else self.reason, *map(str, self.left)]
        return Status(
            name=self.plugin,
            instance=self.number,
            state=self.state,
            pid=process.pid if process is not None else None,
            restarts=self.history.restarts,
            uptime=life.uptime if life is not None and process is not None else None,
            socket=socket,
            reason="; ".join(filter(None, reasons)),
        )
