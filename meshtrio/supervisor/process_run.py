"""One run of an instance: one process, from its start to when it and its group are gone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import trio
from trio_util import wait_any

from meshtrio.config.ready import StartedCheck
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor import events
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.health_monitor import HealthMonitor
from meshtrio.supervisor.launch import LAUNCH_ERRORS, Launch
from meshtrio.supervisor.output_reader import OutputReader
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.supervisor.policy.state import InstanceState, next_run_state
from meshtrio.supervisor.probe import Connect, HealthCheckResult
from meshtrio.supervisor.process.cleanup.leftover_killer import RunIdentity, get_boot_ticks
from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree
from meshtrio.supervisor.process.output.output_lines import LineBuffer
from meshtrio.supervisor.process.saved_processes import from_monotonic, to_monotonic
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process.spawn.start_failures import EXEC_FAILED_STATUSES
from meshtrio.supervisor.process_end import handle_internal_error, make_process_exit
from meshtrio.supervisor.readiness.channels import ReportChannels, adopt_channels, open_channels
from meshtrio.supervisor.readiness.checks import HealthChecks
from meshtrio.supervisor.readiness.factory import CheckSources, make_checks
from meshtrio.supervisor.readiness.notify_channel import SavedChannel
from meshtrio.supervisor.registration import Registration
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.saved_state import SavedRun
from meshtrio.supervisor.server_identity import ServerVerifier
from meshtrio.util.address import Address

_STEADY_STATES = (InstanceState.STARTING, InstanceState.READY, InstanceState.UNREADY)
"""The states in which a run can be handed over."""
_OUTPUT_TIMEOUT = 0.02
"""Seconds in which the last output of a dead process is read before callers learn of its exit."""


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
        self.state = InstanceState.PENDING
        self.process: PluginProcess | None = None
        self.identity: RunIdentity | None = None
        """What its processes are found by; None before there can be any."""
        self.started_at = trio.current_time()
        self.ready_at: float | None = None
        """When it was first ready, None if it has not been yet."""
        self.exit: Exit | None = None
        """How it ended; set before its state is ENDED."""
        self.is_stop_requested = False
        """Whether `stop` was called."""
        self.was_killed = False
        """Whether it did not stop in time on request, and was killed."""
        self.last_check: HealthCheckResult | None = None
        """The result of its last health check."""
        self.rss = 0
        """Bytes of resident memory of its process group, when they were last read."""
        self.is_idle = False
        """Whether it was found to have no calls; the supervisor acts on that, and resets it."""
        self.last_connected_at = self.started_at
        """When there was last found to be a connection to its socket."""
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
        self._registration = Registration(registry, spec)
        self._channels = ReportChannels()
        self._saved_channel: SavedChannel | None = None
        self._health: HealthMonitor | None = None
        self._drain_delay = 0.0
        self._failure = Exit()
        """Why the process has to be ended, unless it has ended by itself."""
        self._kill_requested = trio.Event()
        self._cancel_scope = trio.CancelScope()
        self._uids: frozenset[int] | None = None
        """The users of which its server has to have one; None for any."""
        self._server_uid: int | None = None
        """The user that its server was found to run as before an upgrade."""

    # -- upgrades ----------------------------------------------------------------------------

    def adopt(self, saved: SavedRun) -> None:
        """Take over the process that the mesh had before it has executed its new code."""
        self.state = saved.state
        self.process = PluginProcess.adopt(saved.process)
        self.identity = RunIdentity(self.launch_id, saved.started_ticks, saved.process.pid)
        self.started_at = from_monotonic(saved.started_at)
        self.ready_at = None if saved.ready_at is None else from_monotonic(saved.ready_at)
        self.rss, self.max_age_factor = saved.rss, saved.max_age_factor
        self.applied_log_level = saved.applied_log_level
        self._uids = None if saved.uids is None else frozenset(saved.uids)
        self._server_uid = saved.server_uid
        self._saved_channel = saved.notifications
        self.output_reader.adopt(saved.process, saved.stderr_lines)
        self.output_reader.cut_calls.extend(saved.cut_calls)
        self.output_reader.has_drain_report = saved.has_drain_report
        self._effects.adopt_marker_limit(self.launch_id, saved.marker_limit)
        self._registration.pid = saved.process.pid
        self._registration.times_ready = saved.times_ready
        if self.is_ready:
            self._registration.adopt(saved.server_uid)

    @property
    def is_steady(self) -> bool:
        """Whether its process is neither being started nor ended, so that it can be handed over."""
        if self.state not in _STEADY_STATES or self.is_stop_requested or self.is_kill_requested:
            return False
        if self.ready_at is None and self._channels.pipe is not None:
            return False  # It is to write to a pipe, which is not handed over.
        process = self.process
        is_supervised = self._health is not None and self.output_reader.is_reading
        return process is not None and is_supervised and not process.leader_exited.is_set()

    def save(self) -> SavedRun:
        """Return what an upgrade hands over of a run that is steady."""
        process, identity = self.process, self.identity
        assert process is not None
        assert identity is not None
        assert self._health is not None
        return SavedRun(
            config=self.config,
            slot=self.spec.slot,
            launch_id=self.launch_id,
            socket=self.socket,
            state=self.state,
            process=process.save(*self.output_reader.save()),
            started_at=to_monotonic(self.started_at),
            ready_at=None if self.ready_at is None else to_monotonic(self.ready_at),
            started_ticks=identity.started_ticks,
            marker_limit=self._effects.get_marker_limit(self.launch_id),
            notifications=None if self._channels.notify is None else self._channels.notify.save(),
            uids=None if self._uids is None else tuple(self._uids),
            server_uid=self._health.verifier.uid,
            times_ready=self._registration.times_ready,
            rss=self.rss,
            max_age_factor=self.max_age_factor,
            applied_log_level=self.applied_log_level,
            cut_calls=tuple(self.output_reader.cut_calls),
            has_drain_report=self.output_reader.has_drain_report,
            stderr_lines=self.output_reader.stderr_lines,
        )

    # -- views -------------------------------------------------------------------------------

    @property
    def is_kill_requested(self) -> bool:
        """Whether it is about to be ended for its memory, or for a server at its address."""
        return self._kill_requested.is_set()

    @property
    def is_ready(self) -> bool:
        """Whether it is ready."""
        return self.state is InstanceState.READY

    @property
    def uptime(self) -> float:
        """Seconds since it was started."""
        return trio.current_time() - self.started_at

    @property
    def ready_after(self) -> float | None:
        """Seconds from its start until it was ready; None before."""
        return None if self.ready_at is None else self.ready_at - self.started_at

    @property
    def status(self) -> str:
        """What the process reports that it is doing; "" if it does not."""
        return "" if self._channels.notify is None else self._channels.notify.status

    @property
    def _may_have_calls(self) -> bool:
        """Whether it has been ready, and has a service."""
        return self.ready_at is not None and self.config.has_service

    def stop_details(self) -> dict[str, Any]:
        """Return how it was stopped, as `events.Stopped` and `operations.DrainResult` have it."""
        reader = self.output_reader
        return {
            "exit": self.exit,
            "was_killed": self.was_killed,
            "cut_calls": tuple(sorted(reader.cut_calls)),
            "cut_calls_known": not self._may_have_calls or reader.has_drain_report,
        }

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
            self._request_kill(reason, ExitCause.MEMORY_LIMIT)

    def report_idle(self) -> None:
        """Have the supervisor stop it, if it is started again on demand: it has no calls."""
        self.is_idle = True
        self._on_change()

    def check_socket(self) -> None:
        """Check its health at once if another file has taken the place of its socket."""
        if self.is_ready and self._health is not None:
            self._health.check_socket()

    def _request_kill(self, reason: str, cause: ExitCause) -> None:
        self._failure = Exit(reason=reason, explicit_cause=cause)
        self._kill_requested.set()

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
                self.exit = self._internal_failure(exc)
                with contextlib.suppress(Exception):  # The registry may be what has failed.
                    self._registration.deregister(str(self.exit), self.exit)
        if self.exit is None:
            self.exit = Exit(reason="was stopped before it was started")
        self._set_state(InstanceState.ENDED)

    def _internal_failure(self, exc: BaseException) -> Exit:
        return handle_internal_error(f"{self.config.name}/{self.number}", exc)

    async def _launch(self) -> None:
        process = self.process
        with contextlib.ExitStack() as stack:
            if process is not None:
                channels = adopt_channels(self.spec, self._saved_channel)
                self._channels = stack.enter_context(channels)
                await self._run_process(process, is_adopted=True)
                return
            self._set_state(InstanceState.STARTING)
            try:
                self._uids = await self._launcher.prepare()
                self._channels = stack.enter_context(open_channels(self.spec))
                self.identity = RunIdentity(self.launch_id, get_boot_ticks())
                process = await self._launcher.spawn(self._channels.pipe)
            except LAUNCH_ERRORS as exc:
                self.exit = await self._launcher.make_exit(exc)
                self._registration.deregister(str(self.exit))
                self._emit(events.NotStarted, exit=self.exit)
                return
            await self._run_process(process, is_adopted=False)

    async def _run_process(self, process: PluginProcess, *, is_adopted: bool) -> None:
        assert self.identity is not None
        if self._channels.pipe is not None:
            self._channels.pipe.close_write_end()
        self.process, self._registration.pid = process, process.pid
        owner, config = ProcessTree(process.pid, self.launch_id), self.config
        address, is_verified = self.spec.address, config.verify_server
        verifier = ServerVerifier(
            address,
            owner,
            self._uids,
            tls=config.tls,
            verify_process=is_verified,
            held_socket=self.spec.held_socket,
        )
        verifier.uid = self._server_uid
        self._health = HealthMonitor(
            self.spec,
            process.pid,
            verifier,
            self._make_checks(verifier, owner),
            self._effects,
            on_ready=self._handle_first_ready,
            on_result=self._on_check_result,
            was_ready=self.ready_at is not None,
        )
        self.identity = attrs.evolve(self.identity, session_id=process.pid)
        trees = set() if self.spec.held_socket is None else self.spec.held_socket.trees
        trees.add(owner)
        try:
            if not is_adopted:
                self._effects.guard.watch(process.pid, process.pidfd)
                start = process.start_method
                self._emit_process_event(events.Starting, launch_id=self.launch_id, start=start)
            async with (
                self.output_reader.reading(process) as output_ended,
                self._receiving_notifications(owner),
            ):
                await self._supervise_to_end(process, self._health, output_ended)
        finally:
            if self.exit is None:  # An error came before it was supervised.
                with trio.CancelScope(shield=True):
                    await process.stop(0)
            trees.remove(owner)
            # A process that still runs, or is held as a zombie, is guarded until it is reaped.
            process.reap_later(partial(self._effects.guard.unwatch, process.pid))
            if process.is_reaped:
                self.identity = attrs.evolve(self.identity, session_end_ticks=get_boot_ticks())
            self.process = None

    def _receiving_notifications(
        self, owner: ProcessTree
    ) -> contextlib.AbstractAsyncContextManager[None]:
        channel = self._channels.notify
        if channel is None:
            return contextlib.nullcontext()
        channel.on_stopping = self._handle_announced_stop
        channel.on_failed = self._handle_reported_failure
        return channel.receiving(owner)

    def _make_checks(self, verifier: ServerVerifier, owner: ProcessTree) -> HealthChecks:
        def connect_to(address: str) -> Connect:
            # A program may change its user before it listens. Its process is verified all the same,
            # and nothing is sent there that another one may not know.
            allowed = None if Address.parse(address).is_unix else self._uids
            verify_process = self.config.verify_server
            return ServerVerifier(address, owner, allowed, verify_process=verify_process).connect

        sources = CheckSources(
            probe=self._effects.probe,
            connect=verifier.connect,
            connect_to=connect_to,
            channels=self._channels,
        )
        return make_checks(self.spec, sources)

    async def _supervise_to_end(
        self, process: PluginProcess, health: HealthMonitor, output_ended: trio.Event
    ) -> None:
        try:
            try:
                failure = await self._supervise(process, health)
            except (Exception, BaseExceptionGroup) as exc:
                failure = self._internal_failure(exc)
        except BaseException:
            await self._stop(process, output_ended)
            raise
        if not process.has_exited:
            failure = await self._terminate(process, failure)
        with trio.move_on_after(_OUTPUT_TIMEOUT, shield=True):
            await output_ended.wait()
        never_ran = process.returncode in EXEC_FAILED_STATUSES
        was_ready = self.ready_at is not None and not isinstance(
            self.spec.ready_check, StartedCheck
        )
        if not failure.reason and never_ran and not was_ready:
            problem = await self._effects.diagnose_program(self.config)
            failure = attrs.evolve(failure, reason=problem)
        self.exit = self._make_exit(process, failure)
        self._registration.deregister(str(self.exit), self.exit)
        self._emit_process_event(events.Exited, exit=self.exit)

    async def _supervise(self, process: PluginProcess, health: HealthMonitor) -> Exit:
        """Probe the process and wait for its end; return why it has to be ended, if it has to."""

        async def check_health() -> None:
            self._failure = await health.run()

        await wait_any(
            check_health,
            self._kill_requested.wait,
            self._wait_for_announced_stop,
            process.wait,
        )
        return Exit() if process.has_exited else self._failure

    async def _terminate(self, process: PluginProcess, failure: Exit) -> Exit:
        """End a process that has failed; one that is stuck is made to dump its stacks first."""
        self._set_state(InstanceState.STOPPING)
        with trio.CancelScope(shield=True):
            if not failure.is_stuck:
                await self._stop_process(process)
                return failure
            tracer = process.find_tracer()
            if tracer is not None:
                reason = f"{failure.reason}, while {tracer} traces it"
                failure = attrs.evolve(failure, reason=reason)
            await process.dump_stacks()
            await process.stop(0)
        return failure

    async def _stop(self, process: PluginProcess, output_ended: trio.Event) -> None:
        """Stop the process on request, even though this task is cancelled already."""
        was_ready = self.is_ready
        if was_ready:
            self._registration.deregister("is being stopped")
        self._set_state(InstanceState.STOPPING)
        self._emit_process_event(events.Stopping)
        with trio.CancelScope(shield=True):
            if was_ready:
                await self._registration.withdraw()
            is_called = was_ready and self.config.has_service
            with trio.move_on_after(self._drain_delay if is_called else 0):
                await process.wait()
            self.was_killed = await self._stop_process(process)
            with trio.move_on_after(_OUTPUT_TIMEOUT):
                await output_ended.wait()
        self.exit = self._make_exit(process, Exit())
        # Callers whose calls broke with the process learn how it ended.
        self._registration.deregister(self._describe_stop(self.exit), self.exit)
        self._emit_process_event(events.Stopped, **self.stop_details())

    async def _stop_process(self, process: PluginProcess) -> bool:
        """Stop the process; return whether it was killed, as it did not end in time."""
        timeout, channel = self.config.stop_timeout, self._channels.notify
        if channel is None:
            return await process.stop(timeout)
        return await process.stop(timeout, channel.extending)

    def _describe_stop(self, exit: Exit) -> str:
        if self.was_killed and not exit.is_unkillable:
            return f"did not stop within {self.config.stop_timeout:g} s and {exit}"
        return "was stopped" if exit.is_clean else f"was stopped; it {exit}"

    def _make_exit(self, process: PluginProcess, failure: Exit) -> Exit:
        made = make_process_exit(
            process, failure, self.output_reader, self.launch_id, self._effects
        )
        if process.tracer is not None:
            self._emit_process_event(events.Traced, tracer=str(process.tracer))
        return made

    # -- health ------------------------------------------------------------------------------

    def _handle_first_ready(self) -> None:
        self._mark_ready()
        if self._has_announced_stop:  # Both reports may be read at once.
            self._handle_announced_stop()

    @property
    def _has_announced_stop(self) -> bool:
        channel = self._channels.notify
        return channel is not None and channel.stopping.is_set()

    def _mark_ready(self) -> None:
        assert self._health is not None
        assert self.process is not None
        self._registration.register(self._health.verifier.uid)
        was_ready_before = self.ready_at is not None
        if self.ready_at is None:
            self.ready_at = trio.current_time()
        self._set_state(InstanceState.READY)
        self._emit_process_event(
            events.Ready,
            startup_time=self.uptime,
            start=self.process.start_method,
            was_ready_before=was_ready_before,
        )

    def _on_check_result(self, result: HealthCheckResult) -> None:
        """Act on a health check: while the plugin reports NOT_SERVING it is not registered."""
        self.last_check = result
        if result.is_wrong_server:
            self._handle_wrong_server(result.reason)
            return
        if not result.is_alive or result.is_busy:
            self._emit_process_event(
                events.CheckFailed, reason=result.reason, condition=result.condition
            )
        if result.is_busy:
            return
        if result.is_serving and self.state is InstanceState.UNREADY:
            if not self._has_announced_stop:
                self._mark_ready()
        elif result.is_alive and not result.is_serving and self.state is InstanceState.READY:
            self._mark_unready(result.reason)

    def _mark_unready(self, reason: str) -> None:
        self._set_state(InstanceState.UNREADY)
        self._registration.deregister(reason)
        self._emit_process_event(events.Unready, reason=reason)

    # -- notifications of the process ---------------------------------------------------------

    def _handle_announced_stop(self) -> None:
        """Deregister a process that is about to exit."""
        if self.state is InstanceState.READY:
            self._mark_unready("it reports that it is stopping")

    async def _wait_for_announced_stop(self) -> None:
        """Wait until a process that was about to exit has not done so in its `stop_timeout`."""
        channel, timeout = self._channels.notify, self.config.stop_timeout
        if channel is None:
            await trio.sleep_forever()
        await channel.stopping.wait()
        with trio.move_on_after(timeout) as scope, channel.extending(scope, counts_earlier=True):
            await trio.sleep_forever()
        reason = f"reported that it was stopping, and did not exit within {timeout:g} s"
        self._failure = Exit(reason=reason, explicit_cause=ExitCause.UNHEALTHY)

    def _handle_reported_failure(self) -> None:
        if not self.is_kill_requested:
            reason = "reported that it has failed (WATCHDOG=trigger)"
            self._request_kill(reason, ExitCause.UNHEALTHY)

    def _handle_wrong_server(self, reason: str) -> None:
        """Deregister, since another program would get the calls, and end the process."""
        if self.is_kill_requested:
            return
        if self.state is InstanceState.READY:
            self._registration.deregister(reason)
        self._emit_process_event(events.Unready, reason=reason)
        self._request_kill(reason, ExitCause.WRONG_SERVER)

    def _emit_process_event(self, kind: type[events.ProcessEvent], **values: Any) -> None:
        self._emit(kind, pid=self._registration.pid, **values)

    def _set_state(self, state: InstanceState) -> None:
        self.state = next_run_state(self.state, state)
        self._on_change()
