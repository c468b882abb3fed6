"""A row of the supervisor's table: one instance, whose processes come and go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import attrs
import trio

from meshtrio.config import PluginConfig
from meshtrio.supervisor.event_text import format_last_stderr_line
from meshtrio.supervisor.policy.plan import DesiredState
from meshtrio.supervisor.policy.restart import Exit, RestartHistory
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.supervisor.process.cleanup.leftover_killer import UnkillableProcess
from meshtrio.supervisor.process.output.output_lines import LineBuffer
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process_run import ProcessRun


@attrs.frozen
class InstanceStatus:
    """An instance as it is now; times are seconds."""

    name: str
    instance: int
    state: InstanceState
    pid: int | None
    restarts: int
    uptime: float | None
    socket: Path
    reason: str


@attrs.define(eq=False)
class Instance:
    """What the supervisor knows of an instance, and what it is to come to. See `plan.Entry`.

    It has one life at a time, but while it is renewed: then a successor is started beside it, and
    takes its place once it is ready.
    """

    config: PluginConfig
    number: int
    desired_state: DesiredState = DesiredState.RUNNING
    history: RestartHistory = attrs.field(factory=RestartHistory)
    active_run: ProcessRun | None = None
    replacement: ProcessRun | None = None
    draining_runs: list[ProcessRun] = attrs.field(factory=list)
    """Those whose place was taken, while they drain."""
    replace_reason: str = ""
    """Why it is to be renewed, while it is."""
    last_replace_failure: str = ""
    """Why the last renewal came to nothing."""
    replace_failures: int = 0
    """How many in a row came to nothing."""
    next_replace_at: float = -math.inf
    """When it may be renewed again for its age or size, after one that came to nothing."""
    failed_starts: int = 0
    """How many of its processes ended by themselves, or were ended, before they were ready."""
    last_exit: Exit | None = None
    """Of the last process that it had."""
    idle_state: InstanceState = InstanceState.PENDING
    """Its state while it has no process."""
    start_at: float = -math.inf
    batch: int = 0
    exit_reason: str = ""
    """How the last life ended."""
    unkillable: tuple[UnkillableProcess, ...] = ()
    """Processes of it that cannot be killed and run on."""
    line_buffer: LineBuffer = attrs.field(factory=LineBuffer)
    """What it wrote last."""
    slot: int = 0
    """Which of its two sockets its life has; a successor has the other."""

    @property
    def plugin(self) -> str:
        return self.config.name

    @property
    def key(self) -> tuple[str, int]:
        """Its plugin and its number, which no other instance has both of."""
        return self.plugin, self.number

    @property
    def last_stderr_line(self) -> str:
        """What its last process wrote to stderr last, which in most languages names the error."""
        return "" if self.last_exit is None else format_last_stderr_line(self.last_exit.stderr_tail)

    def apply_config(self, config: PluginConfig) -> None:
        """Go by another config, from the next process on; by its log level at once."""
        self.config = config
        for life in self.runs():
            life.output_reader.log_level = config.output.log_level

    def runs(self) -> list[ProcessRun]:
        """All there are, the one in office first."""
        found = [life for life in (self.active_run, self.replacement) if life is not None]
        return found + self.draining_runs

    @property
    def is_running(self) -> bool:
        return bool(self.runs())

    @property
    def is_stopping(self) -> bool:
        return all(life.is_stop_requested for life in self.runs())

    @property
    def is_starting(self) -> bool:
        return self.active_run is not None and self.active_run.is_starting

    @property
    def is_ready(self) -> bool:
        return self.active_run is not None and self.active_run.is_ready

    @property
    def state(self) -> InstanceState:
        return self.idle_state if self.active_run is None else self.active_run.state

    @property
    def process(self) -> PluginProcess | None:
        return None if self.active_run is None else self.active_run.process

    def record_rss(self, rss_by_group: Mapping[int, int]) -> None:
        for life in self.runs():
            if life.process is not None:
                life.record_rss(rss_by_group.get(life.process.pid, 0))

    def find_replace_reason(self, rng: Random, is_socket_removed: Callable[[Path], bool]) -> str:
        """Why a successor should take its place, "" where there is no reason to."""
        life, config = self.active_run, self.config
        if life is None or not life.is_ready or life.is_kill_requested:
            return ""
        if trio.current_time() < self.next_replace_at:
            return ""
        if config.max_age is not None:
            if life.max_age_factor is None:
                life.max_age_factor = 1 + config.max_age_variance * (2 * rng.random() - 1)
            if life.uptime > config.max_age * life.max_age_factor:
                return f"it is {life.uptime:.0f} s old"
        if config.renew_above is not None and life.rss > config.renew_above:
            return f"it uses {life.rss:,} bytes of memory"
        if config.listen is None and is_socket_removed(life.socket):
            return f"somebody has removed {life.socket}"
        return ""

    def stop(self, drain_delay: float) -> None:
        """See `ProcessRun.stop`."""
        self.replace_reason = ""
        for life in self.runs():
            life.stop(drain_delay)

    def promote(self, drain_delay: float) -> None:
        """Put the successor in office."""
        assert self.active_run is not None
        assert self.replacement is not None
        self.active_run.stop(drain_delay)
        self.draining_runs.append(self.active_run)
        self.active_run, self.replacement, self.replace_reason = self.replacement, None, ""
        self.replace_failures, self.next_replace_at = 0, -math.inf
        self.slot = 1 - self.slot

    def handle_exit(self, run: ProcessRun) -> bool:
        """Take out a life that has ended; True if nobody is in office any more because of it."""
        assert run.exit is not None
        if run is self.replacement:
            self.replacement, self.replace_reason = None, ""
            self.last_replace_failure = f"{run.exit}{format_last_stderr_line(run.exit.stderr_tail)}"
            self.replace_failures += 1
            return False
        if run is self.active_run:
            self.last_exit = run.exit
            self.failed_starts += run.ready_at is None and not run.is_stop_requested
        if run is not self.active_run:
            self.draining_runs.remove(run)
        elif self.replacement is not None:
            self.active_run, self.replacement, self.replace_reason = self.replacement, None, ""
            self.replace_failures, self.next_replace_at = 0, -math.inf
            self.slot = 1 - self.slot
        else:
            self.active_run, self.replace_reason = None, ""
            return True
        return False

    def status(self, socket: Path) -> InstanceStatus:
        """`socket` is where it would be, were it not running."""
        life = self.active_run
        process = life.process if life is not None else None
        socket = life.socket if life is not None else socket
        reasons = ["" if self.is_ready else self.exit_reason, *map(str, self.unkillable)]
        return InstanceStatus(
            name=self.plugin,
            instance=self.number,
            state=self.state,
            pid=process.pid if process is not None else None,
            restarts=self.history.restarts,
            uptime=life.uptime if life is not None and process is not None else None,
            socket=socket,
            reason="; ".join(filter(None, reasons)),
        )
