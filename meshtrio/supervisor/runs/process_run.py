"""One run of an instance: one process, from its start to when it and its group are gone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import trio

from meshtrio.discovery.registry import Registry
from meshtrio.supervisor import events
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.supervisor.probe import Connect, HealthCheckResult
from meshtrio.supervisor.process.cleanup.leftover_killer import RunIdentity, get_boot_ticks
from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree
from meshtrio.supervisor.process.output.output_lines import LineBuffer
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.readiness.channels import ReportChannels, adopt_channels, open_channels
from meshtrio.supervisor.readiness.checks import HealthChecks
from meshtrio.supervisor.readiness.factory import CheckSources, make_checks
from meshtrio.supervisor.readiness.notify_channel import SavedChannel
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.runs.availability import RunAvailability
from meshtrio.supervisor.runs.launch import LAUNCH_ERRORS, Launch
from meshtrio.supervisor.runs.output_reader import OutputReader
from meshtrio.supervisor.runs.process_end import handle_internal_error
from meshtrio.supervisor.runs.run_failure import RunFailure
from meshtrio.supervisor.runs.supervision import ProcessSupervision, make_stop_details
from meshtrio.supervisor.server_identity import ServerVerifier
from meshtrio.util.address import Address


class ProcessRun:
    """Owns one process and its entry in the registry while `run` runs."""

    def __init__(
        self,
        spec: RunSpec,
        *,
        registry: Registry,
        effects: Effects,
        line_buffer: LineBuffer,
        emit: Callable[..., None],
        on_change: Callable[[], None],
    ) -> None:
        """Create a run; `run` starts its process.

        It is in the registry while it is ready. `emit(kind, **values)` is called for each lifecycle
        event of the instance, and `on_change` after each change of `state`.
        """
        config = spec.config
        self.config, self.number, self.socket = config, spec.number, spec.socket
        self.launch_id = spec.launch_id
        self.availability = RunAvailability(spec, registry, emit=emit, on_change=on_change)
        """Its state, and its entry in the registry."""
        self.process: PluginProcess | None = None
        self.identity: RunIdentity | None = None
        """What its processes are found by; None before there can be any."""
        self.exit: Exit | None = None
        """How it ended; set before its state is ENDED."""
        self.is_stop_requested = False
        """Whether `stop` was called."""
        self.rss = 0
        """Bytes of resident memory of its process group, when they were last read."""
        self.is_idle = False
        """Whether it was found to have no calls; the supervisor acts on that, and resets it."""
        self.last_connected_at = self.availability.started_at
        """When there was last found to be a connection to its socket."""
        self.supervised_since = self.availability.started_at
        """When this program has begun to supervise it: an upgrade may be later than its start."""
        self.max_age_factor: float | None = None
        """The random factor of its config's `max_age`; None until it is drawn."""
        self.applied_log_level = config.output.log_level
        """The log level that its process uses: at first, the one in its environment."""
        self.output_reader = OutputReader(config.output, line_buffer, emit)
        if config.idle_timeout is not None:
            self.output_reader.on_idle = self.report_idle
        self.spec = spec
        self._launcher = Launch(spec, effects)
        self._effects = effects
        self._emit = emit
        self._on_change = on_change
        self.channels = ReportChannels()
        """What its process reports by."""
        self.saved_channel: SavedChannel | None = None
        """What its process reported by before an upgrade."""
        self.supervision: ProcessSupervision | None = None
        """The supervision of its process; None before there is a process."""
        self.failure = RunFailure()
        """Why its process has to be ended by the mesh."""
        self.uids: frozenset[int] | None = None
        """The users of which its server has to have one; None for any."""
        self.server_uid: int | None = None
        """The user that its server was found to run as before an upgrade."""
        self._drain_delay = 0.0
        self._cancel_scope = trio.CancelScope()

    # -- views -------------------------------------------------------------------------------

    @property
    def state(self) -> InstanceState:
        """Its state."""
        return self.availability.state

    @property
    def is_ready(self) -> bool:
        """Whether it is ready."""
        return self.availability.is_ready

    @property
    def ready_at(self) -> float | None:
        """When it was first ready, None if it has not been yet."""
        return self.availability.ready_at

    @property
    def ready_after(self) -> float | None:
        """Seconds from its start until it was ready; None before."""
        return None if self.ready_at is None else self.ready_at - self.availability.started_at

    @property
    def uptime(self) -> float:
        """Seconds since it was started."""
        return self.availability.uptime

    @property
    def last_check(self) -> HealthCheckResult | None:
        """The result of its last health check."""
        return self.availability.last_check

    @property
    def is_kill_requested(self) -> bool:
        """Whether it is about to be ended for its memory, or for a server at its address."""
        return self.failure.is_end_requested

    @property
    def was_killed(self) -> bool:
        """Whether it did not stop in time on request, and was killed."""
        return self.supervision is not None and self.supervision.was_killed

    @property
    def status(self) -> str:
        """What the process reports that it is doing; "" if it does not."""
        return "" if self.channels.notify is None else self.channels.notify.status

    def stop_details(self) -> dict[str, Any]:
        """Return how it was stopped, as `events.Stopped` and `operations.DrainResult` have it."""
        reader, was_killed = self.output_reader, self.was_killed
        return make_stop_details(self.exit, self.availability, reader, was_killed=was_killed)

    # -- requests ----------------------------------------------------------------------------

    def stop(self, drain_delay: float) -> None:
        """Stop it: SIGTERM, then SIGKILL after its `stop_timeout`. `run` returns when it is gone.

        The delay, in seconds, is from leaving the registry to SIGTERM: calls that are on their way
        arrive. Plugins made with meshtrio serve those in any case; other servers may reject them.
        """
        self.is_stop_requested = True
        self._drain_delay = drain_delay
        self._cancel_scope.cancel()

    def record_rss(self, rss: int) -> None:
        """Record the resident memory of its process group; above the limit it is ended."""
        self.rss = rss
        limit = self.config.containment.memory
        if limit is not None and rss > limit:
            reason = f"used {rss:,} bytes of memory, and may use {limit:,}"
            self.failure.request_end(reason, ExitCause.MEMORY_LIMIT)

    def report_idle(self) -> None:
        """Have the supervisor stop it, if it is started again on demand: it has no calls."""
        self.is_idle = True
        self._on_change()

    @property
    def checks_begun(self) -> int:
        """Number of liveness checks so far."""
        return 0 if self.supervision is None else self.supervision.health.checks_begun

    @property
    def checks_ended(self) -> int:
        """Number of those that are over."""
        return 0 if self.supervision is None else self.supervision.health.checks_ended

    def check_socket(self) -> None:
        """Check its health at once if another file has taken the place of its socket."""
        if self.is_ready and self.supervision is not None:
            self.supervision.health.check_socket()

    # -- life cycle --------------------------------------------------------------------------

    async def run(self) -> None:
        """Start the process and supervise it to its end.

        Cancellation: Stops the process first, which takes up to its `stop_timeout`.
        """
        with self.spec.use_held_socket(), self._cancel_scope:
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                await self._launch()
            except (Exception, BaseExceptionGroup) as exc:
                # The process was stopped on the way here.
                self.exit = handle_internal_error(f"{self.config.name}/{self.number}", exc)
                with contextlib.suppress(Exception):  # The registry may be what has failed.
                    self.availability.registration.deregister(str(self.exit), self.exit)
        if self.exit is None:
            self.exit = Exit(reason="was stopped before it was started")
        self.availability.set_state(InstanceState.ENDED)

    async def _launch(self) -> None:
        process = self.process
        with contextlib.ExitStack() as stack:
            if process is not None:
                channels = adopt_channels(self.spec, self.saved_channel)
                self.channels = stack.enter_context(channels)
                await self._run_process(process, is_adopted=True)
                return
            self.availability.set_state(InstanceState.STARTING)
            try:
                self.uids = await self._launcher.prepare()
                self.channels = stack.enter_context(open_channels(self.spec))
                self.identity = RunIdentity(self.launch_id, get_boot_ticks())
                process = await self._launcher.spawn(self.channels.pipe)
            except LAUNCH_ERRORS as exc:
                self.exit = await self._launcher.make_exit(exc)
                self.availability.registration.deregister(str(self.exit))
                self._emit(events.NotStarted, exit=self.exit)
                return
            await self._run_process(process, is_adopted=False)

    async def _run_process(self, process: PluginProcess, *, is_adopted: bool) -> None:
        assert self.identity is not None
        if self.channels.pipe is not None:
            self.channels.pipe.close_write_end()
        self.process, self.availability.registration.pid = process, process.pid
        owner = ProcessTree(process.pid, self.launch_id)
        supervision = self.supervision = self._make_supervision(process, owner)
        self.identity = attrs.evolve(self.identity, session_id=process.pid)
        trees = set() if self.spec.held_socket is None else self.spec.held_socket.trees
        trees.add(owner)
        try:
            if not is_adopted:
                self._effects.guard.watch(process.pid, process.pidfd)
                started = {"launch_id": self.launch_id, "start": process.start_method}
                self.availability.emit_process_event(events.Starting, **started)
            await supervision.run(owner)
        finally:
            self.exit = supervision.exit
            if self.exit is None:  # An error came before it was supervised.
                with trio.CancelScope(shield=True):
                    await process.stop(0)
            trees.remove(owner)
            # A process that still runs, or is held as a zombie, is guarded until it is reaped.
            process.reap_later(partial(self._effects.guard.unwatch, process.pid))
            if process.is_reaped:
                self.identity = attrs.evolve(self.identity, session_end_ticks=get_boot_ticks())
            self.process = None

    def _make_supervision(self, process: PluginProcess, owner: ProcessTree) -> ProcessSupervision:
        verifier = ServerVerifier(
            self.spec.address,
            owner,
            self.uids,
            tls=self.config.tls,
            verify_process=self.config.verify_server,
            held_socket=self.spec.held_socket,
        )
        verifier.uid = self.server_uid
        return ProcessSupervision(
            spec=self.spec,
            process=process,
            verifier=verifier,
            checks=self._make_checks(verifier, owner),
            notify=self.channels.notify,
            availability=self.availability,
            failure=self.failure,
            output_reader=self.output_reader,
            effects=self._effects,
            get_drain_delay=lambda: self._drain_delay,
        )

    def _make_checks(self, verifier: ServerVerifier, owner: ProcessTree) -> HealthChecks:
        def connect_to(address: str) -> Connect:
            # A program may change its user before it listens. Its process is verified all the same,
            # and nothing is sent there that another one may not know.
            allowed = None if Address.parse(address).is_unix else self.uids
            verify_process = self.config.verify_server
            return ServerVerifier(address, owner, allowed, verify_process=verify_process).connect

        sources = CheckSources(
            probe=self._effects.probe,
            connect=verifier.connect,
            connect_to=connect_to,
            channels=self.channels,
        )
        return make_checks(self.spec, sources)
