"""A row of the supervisor's table: one instance, whose processes come and go."""

from __future__ import annotations

import math
from pathlib import Path

import attrs

from meshtrio.config import PluginConfig
from meshtrio.supervise.life import Life
from meshtrio.supervise.plan import Goal
from meshtrio.supervise.policy import History
from meshtrio.supervise.state import State


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
    """What the supervisor knows of an instance, and what it is to come to. See `plan.Entry`."""

    config: PluginConfig
    number: int
    socket: Path
    goal: Goal = Goal.RUN
    history: History = attrs.field(factory=History)
    life: Life | None = None
    rest: State = State.PENDING
    """Its state while it has no process."""
    due: float = -math.inf
    batch: int = 0
    reason: str = ""
    """How the last life ended."""

    @property
    def plugin(self) -> str:
        return self.config.name

    @property
    def running(self) -> bool:
        return self.life is not None

    @property
    def stopping(self) -> bool:
        return self.life is not None and self.life.asked

    @property
    def ready(self) -> bool:
        return self.life is not None and self.life.ready

    @property
    def state(self) -> State:
        return self.rest if self.life is None else self.life.state

    def status(self) -> Status:
        life = self.life
        process = life.process if life is not None else None
        return Status(
            name=self.plugin,
            instance=self.number,
            state=self.state,
            pid=process.pid if process is not None else None,
            restarts=self.history.restarts,
            uptime=life.uptime if life is not None and process is not None else None,
            socket=self.socket,
            reason="" if self.ready else self.reason,
        )
