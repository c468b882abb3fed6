"""One instance of a plugin: its phase, its runs, and what is known of those before."""

from __future__ import annotations

import math

import attrs

from meshtrio.config import PluginConfig
from meshtrio.supervisor.attachment import Attachment
from meshtrio.supervisor.demand import DemandWatch
from meshtrio.supervisor.event_text import format_last_stderr_line
from meshtrio.supervisor.held_socket import HeldSockets
from meshtrio.supervisor.policy.restart import Exit, RestartHistory
from meshtrio.supervisor.policy.state import InstanceEvent, InstancePhase, InstanceState, next_phase
from meshtrio.supervisor.process.cleanup.leftover_killer import UnkillableProcess
from meshtrio.supervisor.process.output.output_lines import LineBuffer
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.runs.process_run import ProcessRun

_STATES_WITHOUT_RUN = {
    InstancePhase.WAITING: InstanceState.PENDING,
    InstancePhase.IDLE: InstanceState.IDLE,
    InstancePhase.BACKOFF: InstanceState.BACKOFF,
    InstancePhase.STOPPED: InstanceState.STOPPED,
    InstancePhase.EXITED: InstanceState.EXITED,
    InstancePhase.FAILED: InstanceState.FAILED,
}
"""How an instance without an active run is shown, by its phase; otherwise its last runs drain."""


@attrs.define(eq=False)
class Replacement:
    """A request to replace the active run of an instance, until it is carried out or fails."""

    reason: str
    """Why the run is to be replaced, as a phrase."""
    failure: str | None = None
    """Why the run was not replaced, as a sentence; "" if it was; None until there is an outcome."""


@attrs.define(eq=False)
class Instance:
    """One instance of a plugin: see `policy.state` for its phases, and `plan.InstanceView`.

    It has one run at a time, except while that is replaced: then a replacement is started in
    addition, and becomes the active run once it is ready. Requests (`request_...`) and what the
    supervisor carries out change the phase; only the supervisor launches and terminates runs.
    """

    config: PluginConfig
    """The configuration that its next process gets."""
    number: int
    """Its number among the instances of its plugin, from 0."""
    phase: InstancePhase = attrs.field()
    """What the supervisor is doing with it."""
    demand_watch: DemandWatch | None = None
    """What waits for a connection while it is idle."""
    is_demanded: bool = False
    """Whether it is being started since a connection or a call needs it."""
    is_demand_deferred: bool = False
    """Whether calls do not wait for it before `start_at`: its last process has exited with status 0
    before it was ready."""
    active_run: ProcessRun | None = None
    """The run that serves, or is to serve."""
    replacement_run: ProcessRun | None = None
    """The run that is to become the active one."""
    draining_runs: list[ProcessRun] = attrs.field(factory=list)
    """Runs that are neither: their end is awaited."""
    attachment: Attachment | None = None
    """What holds its place for another process, or is about to; it has no new runs meanwhile."""
    replacement: Replacement | None = None
    """The request to replace the active run, while there is one."""
    replace_failures: int = 0
    """Number of replacements in a row that failed."""
    next_replace_at: float = -math.inf
    """The earliest time of the next replacement for age or size, after one that failed."""
    history: RestartHistory = attrs.field(factory=RestartHistory)
    """Its restarts and failures, as the restart policy counts them."""
    start_at: float = -math.inf
    """The earliest time of its next start, in seconds of the monotonic clock."""
    batch: int = 0
    """The instances that are restarted with it have the same number; 0 for none."""
    failed_starts: int = 0
    """Number of its processes that ended before they were ready, without a request to stop."""
    last_exit: Exit | None = None
    """How the last process that was active ended."""
    exit_reason: str = ""
    """How the last process ended, as a phrase, or why it is not started again."""
    unkillable: tuple[UnkillableProcess, ...] = ()
    """Processes of it that cannot be killed and still run."""
    line_buffer: LineBuffer = attrs.field(factory=LineBuffer)
    """The last lines that its processes wrote."""
    held_sockets: HeldSockets = attrs.field(factory=HeldSockets)
    """The listening socket that its processes inherit, with `listen_fds`."""
    slot: int = 0
    """Which of its two addresses the active run has; a replacement gets the other one."""

    @phase.default
    def _first_phase(self) -> InstancePhase:
        is_on_demand = self.config.start.is_on_demand
        return InstancePhase.IDLE if is_on_demand else InstancePhase.WAITING

    @property
    def plugin(self) -> str:
        """The name of its plugin."""
        return self.config.name

    @property
    def key(self) -> tuple[str, int]:
        """The name of its plugin and its number, which identify it."""
        return self.plugin, self.number

    @property
    def name(self) -> str:
        """Its name in messages, `plugin/number`."""
        return f"{self.plugin}/{self.number}"

    @property
    def last_stderr_line(self) -> str:
        """What to append to a message about its last process: the last line of its stderr."""
        return "" if self.last_exit is None else format_last_stderr_line(self.last_exit.stderr_tail)

    def close_unused_sockets(self) -> None:
        """Close the listening sockets that the mesh holds for it in vain."""
        self.held_sockets.close_unused(is_down=self.phase.is_final or not self.config.listen_fds)

    def apply_config(self, config: PluginConfig) -> None:
        """Use `config` for the next process; its log level applies to the running ones, too."""
        self.config = config
        for run in self.runs():
            run.output_reader.log_level = config.output.log_level
        if not config.start.is_on_demand:
            self._apply(InstanceEvent.DEMAND)

    # -- state -------------------------------------------------------------------------------

    def runs(self) -> list[ProcessRun]:
        """Return all runs that have not ended, the active one first."""
        serving = (self.active_run, self.replacement_run)
        return [*(run for run in serving if run is not None), *self.draining_runs]

    @property
    def is_running(self) -> bool:
        """Whether it has any run, or another process is in its place."""
        return self.attachment is not None or bool(self.runs())

    @property
    def is_starting(self) -> bool:
        """Whether its active run has not been ready yet."""
        starting = (InstanceState.PENDING, InstanceState.STARTING)
        return self.active_run is not None and self.active_run.state in starting

    @property
    def is_ready(self) -> bool:
        """Whether its active run is ready, or the process in its place."""
        if self.attachment is not None and self.attachment.is_ready:
            return True
        return self.active_run is not None and self.active_run.is_ready

    @property
    def is_available(self) -> bool:
        """Whether it is ready, or its socket accepts connections, the first of which starts it."""
        watch = self.demand_watch
        is_held = self.phase is InstancePhase.IDLE and watch is not None and watch.is_open
        return self.is_ready or is_held

    @property
    def awaits_demand(self) -> bool:
        """Whether calls are to wait for it, which are reported: it is idle, or being started
        because of one, and has not failed to."""
        if self.is_demand_deferred:
            return False
        if self.phase.is_idle:
            return True
        run = self.active_run
        is_starting = run is None or run.ready_at is None or self.phase.is_restarting
        return self.is_demanded and is_starting

    @property
    def state(self) -> InstanceState:
        """Its state as it is shown."""
        if self.attachment is not None and not self.runs():
            return InstanceState.ATTACHED
        shown = _STATES_WITHOUT_RUN.get(self.phase, InstanceState.STOPPING)
        return shown if self.active_run is None else self.active_run.state

    @property
    def process(self) -> PluginProcess | None:
        """The process of its active run, None if it has none."""
        return None if self.active_run is None else self.active_run.process

    # -- requests ----------------------------------------------------------------------------

    def request_start(self) -> None:
        """Have it run; an instance that is being stopped is started again after that."""
        if self.phase.is_final:
            self.reset_history()
        self._apply(InstanceEvent.START)
        if self.phase.is_waiting:
            self.start_at = -math.inf

    def request_demand(self) -> None:
        """Have it run if it is idle, since a connection or a call needs it."""
        self.is_demanded = self.is_demanded or self.phase.is_idle
        self._apply(InstanceEvent.DEMAND)

    def request_stop(self) -> None:
        """Have it down until `request_start`."""
        self._apply(InstanceEvent.STOP)
        self.is_demanded = False
        self._cancel_replacement()
        if self.attachment is not None:
            self.attachment.revoke(f"{self.name} is to stop")

    def attach(self, attachment: Attachment) -> None:
        """Have its runs stopped, and no new one before `detach`."""
        if self.runs():
            self.request_restart(0)
        self.attachment, self.batch = attachment, 0

    def detach(self) -> None:
        """Have it started again at once, unless it is to be down."""
        self.attachment = None
        if self.phase.is_waiting:
            self.start_at = -math.inf

    def request_restart(self, batch: int) -> None:
        """Have it stopped and started again with the others of `batch`, unless it is to be down.

        Another process in its place is left there.
        """
        if self.attachment is not None:
            return
        self._apply(InstanceEvent.RESTART)
        if self.phase.is_waiting or self.phase.is_restarting:
            self.batch = batch
            self._cancel_replacement()
        elif self.phase is InstancePhase.IDLING:
            self.batch = batch

    def request_replacement(self, reason: str) -> Replacement:
        """Have the active run replaced; joins the replacement that is in progress, if any."""
        self._apply(InstanceEvent.REPLACE)
        if self.replacement is None:
            self.replacement = Replacement(reason)
        return self.replacement

    def restart_for_replacement(self) -> None:
        """Have it stopped and started again, since no replacement may run in addition to it."""
        self._apply(InstanceEvent.RESTART)
        self._finish_replacement()

    def reset_history(self) -> None:
        """Forget past failures; only the total of restarts is kept."""
        self.history = RestartHistory(restarts=self.history.restarts)

    def _cancel_replacement(self) -> None:
        if self.replacement_run is not None:
            self.draining_runs.append(self.replacement_run)
            self.replacement_run = None
        self._finish_replacement(f"{self.name} was stopped before it was replaced")

    def _finish_replacement(self, failure: str = "") -> None:
        if self.replacement is not None:
            self.replacement.failure = failure
            self.replacement = None

    # -- what the supervisor carries out -----------------------------------------------------

    def launch(self, run: ProcessRun) -> None:
        """Make a new run the active one, or the replacement of the active one."""
        self._apply(InstanceEvent.LAUNCH)
        if self.phase is InstancePhase.REPLACING:
            self.replacement_run = run
        else:
            self.active_run, self.batch = run, 0

    def idle(self, drain_delay: float) -> None:
        """Stop its run, which has no calls; see `ProcessRun.stop`. The next demand starts it."""
        self._apply(InstanceEvent.IDLE)
        self.is_demanded = False
        for run in self.runs():
            run.stop(drain_delay)

    def promote(self, drain_delay: float) -> None:
        """Make the replacement the active run, and stop the other; see `ProcessRun.stop`."""
        assert self.active_run is not None
        self.active_run.stop(drain_delay)
        self.draining_runs.append(self.active_run)
        self._activate_replacement()

    def terminate(self, drain_delay: float) -> None:
        """Stop all runs; see `ProcessRun.stop`."""
        self._apply(InstanceEvent.TERMINATE)
        for run in self.runs():
            run.stop(drain_delay)

    def _activate_replacement(self) -> None:
        self._apply(InstanceEvent.PROMOTE)
        self.active_run, self.replacement_run = self.replacement_run, None
        self.replace_failures, self.next_replace_at = 0, -math.inf
        self.slot = 1 - self.slot
        self._finish_replacement()

    # -- ends of runs ------------------------------------------------------------------------

    def handle_exit(self, run: ProcessRun) -> bool:
        """Remove a run that has ended; return whether the restart policy decides what follows.

        It does, by `retry` or `finish`, if the active run has ended without a request and
        without a replacement.
        """
        assert run.exit is not None
        is_active, is_replacement = run is self.active_run, run is self.replacement_run
        if is_active:
            self.last_exit = run.exit
            self.failed_starts += run.ready_at is None and not run.is_stop_requested
        if is_active and self.phase is InstancePhase.REPLACING:
            self._activate_replacement()
            return False
        if is_active:
            self.active_run = None
        elif is_replacement:
            self.replacement_run = None
        else:
            self.draining_runs.remove(run)
        if self.phase.is_leaving:
            if not self.runs():
                self.exit_reason = str(run.exit)
                self._apply(InstanceEvent.ALL_EXITED)
            return False
        if is_replacement:
            self.replace_failures += 1
            self._apply(InstanceEvent.ABANDON)
            ended = f"{run.exit}{format_last_stderr_line(run.exit.stderr_tail)}"
            text = f"the replacement of {self.name} {ended}; the active process keeps running"
            self._finish_replacement(text)
        return is_active

    def retry(self, history: RestartHistory, start_at: float) -> None:
        """Start it again at `start_at` (seconds, monotonic)."""
        self._handle_active_exit(InstanceEvent.RETRY)
        self.history, self.start_at = history, start_at

    def await_demand(self, history: RestartHistory, start_at: float, *, was_ready: bool) -> None:
        """Start it again on demand, at `start_at` (seconds, monotonic) at the earliest."""
        self._handle_active_exit(InstanceEvent.AWAIT_DEMAND)
        self.history, self.start_at = history, start_at
        self.is_demand_deferred = not was_ready

    def finish(self, *, is_failure: bool) -> None:
        """Leave it down, as failed or with its work done."""
        self._handle_active_exit(InstanceEvent.FAIL if is_failure else InstanceEvent.COMPLETE)

    def _handle_active_exit(self, event: InstanceEvent) -> None:
        self._apply(event)
        self.is_demanded = False
        self.exit_reason = str(self.last_exit)
        self._finish_replacement(f"{self.name} {self.last_exit} before it was replaced")

    def _apply(self, event: InstanceEvent) -> None:
        self.phase = next_phase(self.phase, event)
