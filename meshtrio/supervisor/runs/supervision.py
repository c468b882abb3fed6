"""Supervises the process of a run while it runs: its health, its notifications and its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import attrs
import trio
from trio_util import wait_any

from meshtrio.config.ready import StartedCheck
from meshtrio.supervisor import events
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.supervisor.probe import HealthCheckResult
from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process.spawn.start_failures import EXEC_FAILED_STATUSES
from meshtrio.supervisor.readiness.checks import HealthChecks
from meshtrio.supervisor.readiness.notify_channel import NotifyChannel
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.runs.availability import RunAvailability
from meshtrio.supervisor.runs.health_monitor import HealthMonitor
from meshtrio.supervisor.runs.output_reader import OutputReader
from meshtrio.supervisor.runs.process_end import handle_internal_error, make_process_exit
from meshtrio.supervisor.runs.run_failure import RunFailure
from meshtrio.supervisor.server_identity import ServerVerifier

_OUTPUT_TIMEOUT = 0.02
"""Seconds in which the last output of a dead process is read before callers learn of its exit."""


@attrs.define(kw_only=True, eq=False)
class ProcessSupervision:
    """Supervises one process, which has started, until it has ended."""

    spec: RunSpec
    """The run."""
    process: PluginProcess
    """Its process."""
    verifier: ServerVerifier
    """Verifies that the process answers at its address."""
    checks: HealthChecks
    """How its readiness and liveness are found out."""
    notify: NotifyChannel | None
    """What it reports by, if it does."""
    availability: RunAvailability
    """Its state, and its entry in the registry."""
    failure: RunFailure
    """Why it has to be ended."""
    output_reader: OutputReader
    """Reads its output."""
    effects: Effects
    """The system."""
    get_drain_delay: Callable[[], float]
    """Returns the seconds from leaving the registry to SIGTERM; called when it is stopped."""
    exit: Exit | None = attrs.field(default=None, init=False)
    """How it ended."""
    was_killed: bool = attrs.field(default=False, init=False)
    """Whether it did not stop in time on request, and was killed."""
    health: HealthMonitor = attrs.field(init=False)
    """Checks its health."""

    def __attrs_post_init__(self) -> None:
        self.health = HealthMonitor(
            self.spec,
            self.process.pid,
            self.verifier,
            self.checks,
            self.effects,
            on_ready=self._handle_first_ready,
            on_result=self._handle_check,
            was_ready=self.availability.ready_at is not None,
        )

    async def run(self, owner: ProcessTree) -> None:
        """Supervise the process to its end; `owner` are its processes.

        Cancellation: Stops the process first, which takes up to its `stop_timeout`.
        """
        async with (
            self.output_reader.reading(self.process) as output_ended,
            self._receiving_notifications(owner),
        ):
            await self._run_to_end(output_ended)

    def _receiving_notifications(
        self, owner: ProcessTree
    ) -> contextlib.AbstractAsyncContextManager[None]:
        channel = self.notify
        if channel is None:
            return contextlib.nullcontext()
        channel.on_stopping = self._handle_announced_stop
        channel.on_failed = self._handle_reported_failure
        return channel.receiving(owner)

    # -- its end -----------------------------------------------------------------------------

    async def _run_to_end(self, output_ended: trio.Event) -> None:
        process = self.process
        try:
            try:
                failure = await self._supervise()
            except (Exception, BaseExceptionGroup) as exc:
                name = f"{self.spec.config.name}/{self.spec.number}"
                failure = handle_internal_error(name, exc)
        except BaseException:
            await self._stop(output_ended)
            raise
        if not process.has_exited:
            failure = await self._end_failed(failure)
        with trio.move_on_after(_OUTPUT_TIMEOUT, shield=True):
            await output_ended.wait()
        failure = await self._diagnose_start(failure)
        self.exit = self._make_exit(failure)
        self.availability.registration.deregister(str(self.exit), self.exit)
        self.availability.emit_process_event(events.Exited, exit=self.exit)

    async def _supervise(self) -> Exit:
        """Probe the process and wait for its end; return why it has to be ended, if it has to."""

        async def check_health() -> None:
            self.failure.exit = await self.health.run()

        await wait_any(
            check_health,
            self.failure.wait_end_requested,
            self._wait_for_announced_stop,
            self.process.wait,
        )
        return Exit() if self.process.has_exited else self.failure.exit

    async def _end_failed(self, failure: Exit) -> Exit:
        """End a process that has failed; one that is stuck is made to dump its stacks first."""
        process = self.process
        self.availability.set_state(InstanceState.STOPPING)
        with trio.CancelScope(shield=True):
            if not failure.is_stuck:
                await self._stop_process()
                return failure
            tracer = process.find_tracer()
            if tracer is not None:
                reason = f"{failure.reason}, while {tracer} traces it"
                failure = attrs.evolve(failure, reason=reason)
            await process.dump_stacks()
            await process.stop(0)
        return failure

    async def _diagnose_start(self, failure: Exit) -> Exit:
        """Find why a program could not be executed, if that is how the process ended."""
        never_ran = self.process.returncode in EXEC_FAILED_STATUSES
        was_ready = self.availability.ready_at is not None and not isinstance(
            self.spec.ready_check, StartedCheck
        )
        if failure.reason or not never_ran or was_ready:
            return failure
        problem = await self.effects.diagnose_program(self.spec.config)
        return attrs.evolve(failure, reason=problem)

    async def _stop(self, output_ended: trio.Event) -> None:
        """Stop the process on request, even though this task is cancelled already."""
        availability = self.availability
        was_ready = availability.is_ready
        if was_ready:
            availability.registration.deregister("is being stopped")
        availability.set_state(InstanceState.STOPPING)
        availability.emit_process_event(events.Stopping)
        with trio.CancelScope(shield=True):
            if was_ready:
                await availability.registration.withdraw()
            is_called = was_ready and self.spec.config.has_service
            with trio.move_on_after(self.get_drain_delay() if is_called else 0):
                await self.process.wait()
            self.was_killed = await self._stop_process()
            with trio.move_on_after(_OUTPUT_TIMEOUT):
                await output_ended.wait()
        self.exit = self._make_exit(Exit())
        # Callers whose calls broke with the process learn how it ended.
        availability.registration.deregister(self._describe_stop(self.exit), self.exit)
        details = make_stop_details(
            self.exit, availability, self.output_reader, was_killed=self.was_killed
        )
        availability.emit_process_event(events.Stopped, **details)

    async def _stop_process(self) -> bool:
        """Stop the process; return whether it was killed, as it did not end in time."""
        timeout = self.spec.config.stop_timeout
        if self.notify is None:
            return await self.process.stop(timeout)
        return await self.process.stop(timeout, self.notify.extending)

    def _describe_stop(self, exit: Exit) -> str:
        if self.was_killed and not exit.is_unkillable:
            return f"did not stop within {self.spec.config.stop_timeout:g} s and {exit}"
        return "was stopped" if exit.is_clean else f"was stopped; it {exit}"

    def _make_exit(self, failure: Exit) -> Exit:
        process = self.process
        made = make_process_exit(
            process, failure, self.output_reader, self.spec.launch_id, self.effects
        )
        if process.tracer is not None:
            self.availability.emit_process_event(events.Traced, tracer=str(process.tracer))
        return made

    # -- its health --------------------------------------------------------------------------

    def _handle_first_ready(self) -> None:
        self._mark_ready()
        if self._has_announced_stop:  # Both reports may be read at once.
            self._handle_announced_stop()

    def _mark_ready(self) -> None:
        self.availability.mark_ready(self.process.start_method, self.verifier.uid)

    def _handle_check(self, result: HealthCheckResult) -> None:
        """Act on a health check: while the plugin reports NOT_SERVING it is not registered."""
        availability = self.availability
        availability.last_check = result
        if result.is_wrong_server:
            self._handle_wrong_server(result.reason)
            return
        if not result.is_alive or result.is_busy:
            availability.emit_process_event(
                events.CheckFailed, reason=result.reason, condition=result.condition
            )
        if result.is_busy:
            return
        if result.is_serving and availability.state is InstanceState.UNREADY:
            if not self._has_announced_stop:
                self._mark_ready()
        elif result.is_alive and not result.is_serving and availability.is_ready:
            availability.mark_unready(result.reason)

    def _handle_wrong_server(self, reason: str) -> None:
        """Deregister, since another program would get the calls, and end the process."""
        if self.failure.is_end_requested:
            return
        if self.availability.is_ready:
            self.availability.registration.deregister(reason)
        self.availability.emit_process_event(events.Unready, reason=reason)
        self.failure.request_end(reason, ExitCause.WRONG_SERVER)

    # -- its notifications -------------------------------------------------------------------

    @property
    def _has_announced_stop(self) -> bool:
        return self.notify is not None and self.notify.stopping.is_set()

    def _handle_announced_stop(self) -> None:
        """Deregister a process that is about to exit."""
        if self.availability.is_ready:
            self.availability.mark_unready("it reports that it is stopping")

    async def _wait_for_announced_stop(self) -> None:
        """Wait until a process that was about to exit has not done so in its `stop_timeout`."""
        channel, timeout = self.notify, self.spec.config.stop_timeout
        if channel is None:
            await trio.sleep_forever()
        await channel.stopping.wait()
        with trio.move_on_after(timeout) as scope, channel.extending(scope, counts_earlier=True):
            await trio.sleep_forever()
        reason = f"reported that it was stopping, and did not exit within {timeout:g} s"
        self.failure.record(reason, ExitCause.UNHEALTHY)

    def _handle_reported_failure(self) -> None:
        if not self.failure.is_end_requested:
            reason = "reported that it has failed (WATCHDOG=trigger)"
            self.failure.request_end(reason, ExitCause.UNHEALTHY)


def make_stop_details(
    exit: Exit | None, availability: RunAvailability, reader: OutputReader, *, was_killed: bool
) -> dict[str, Any]:
    """Return how a run was stopped, as `events.Stopped` and `operations.DrainResult` have it."""
    return {
        "exit": exit,
        "was_killed": was_killed,
        "cut_calls": tuple(sorted(reader.cut_calls)),
        "cut_calls_known": not availability.may_have_calls or reader.has_drain_report,
    }
