"""Checks the health of one process: readiness first, then liveness.

A process that does not answer is observed, to find out why.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy import diagnosis
from meshtrio.supervisor.policy.diagnosis import Activity, Condition, FailureStreak
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.supervisor.probe import HealthCheckResult, NotReadyError
from meshtrio.supervisor.process.proc import activity
from meshtrio.supervisor.process.proc.listening_sockets import AcceptQueue
from meshtrio.supervisor.readiness.checks import HealthChecks
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.server_identity import ServerVerifier
from meshtrio.util.concurrency import run_during, sleep_until_tick

_INTERVAL_SLACK = 0.1
"""Fraction of the interval that a check may be late, so that those of many plugins coincide."""
_OBSERVATION_TIME = 1.0
"""Seconds for which a process is observed after the first check that it failed."""


@attrs.define(eq=False)
class HealthMonitor:
    """Probes a process until it has to be ended."""

    _spec: RunSpec
    _pid: int
    """The leader of the process group, which is observed if it does not answer."""
    verifier: ServerVerifier
    """Connects to the address and verifies that the plugin's server answers."""
    _checks: HealthChecks
    """How its readiness and liveness are found out."""
    _effects: Effects
    _on_ready: Callable[[], None]
    """Called once, when the process is first ready."""
    _on_result: Callable[[HealthCheckResult], None]
    """Called with the result of each liveness check."""
    _was_ready: bool = attrs.field(default=False, kw_only=True)
    """Whether the process was ready before an upgrade, which has interrupted its checks."""
    _socket_replaced: trio.Event = attrs.field(factory=trio.Event, init=False)
    _last_sample: activity.ActivitySample | None = attrs.field(default=None, init=False)
    """What its processes had done when it last failed a check; None if it answered the last one."""
    _unanswered_checks: int = attrs.field(default=0, init=False)
    """Number of checks in a row without an answer, whose connections may still be queued."""
    checks_begun: int = attrs.field(default=0, init=False)
    """Number of liveness checks so far."""
    checks_ended: int = attrs.field(default=0, init=False)
    """Number of those that are over; their connections are closed."""

    async def run(self) -> Exit:
        """Wait for readiness, then check liveness; return why the process has to be ended.

        Does not return while it is healthy, or if liveness checks are turned off.
        """
        if not self._was_ready:
            failure = await self._wait_ready()
            if failure is not None:
                return failure
            # The process may have ended with its answer.
            await trio.lowlevel.checkpoint_if_cancelled()
            self._on_ready()
        async with run_during(self._check_replaced_socket):
            reason = await self._check_liveness()
        return Exit(reason=reason, explicit_cause=ExitCause.UNHEALTHY)

    def check_socket(self) -> None:
        """Check the health at once if another file has taken the place of the socket."""
        if self.verifier.is_socket_replaced:
            self._socket_replaced.set()

    async def _check_replaced_socket(self) -> None:
        """Check at once, even during a check that hangs; the result does not count as a failure."""
        while True:
            await self._socket_replaced.wait()
            self._socket_replaced = trio.Event()
            if self._checks.service is not None:
                timeout = self._spec.config.liveness.timeout
                self._on_result(await self._checks.service.check(timeout))

    async def _wait_ready(self) -> Exit | None:
        """Wait for readiness; time in which the process waited for a CPU does not count."""
        timeout = next_timeout = self._spec.config.ready_timeout
        extended = 0.0
        while True:
            try:
                await self._checks.readiness.wait_ready(next_timeout)
                return None
            except NotReadyError as exc:
                found = await self._observe()
                cpu_wait = 0.0 if found is None else found.max_cpu_wait
                next_timeout = diagnosis.ready_timeout_extension(timeout, cpu_wait, extended)
                if not next_timeout:
                    reason = str(NotReadyError(timeout, exc.missing))
                    if extended:
                        reason += f"; it had {extended:.3g} s more, since it waited for a CPU"
                    return Exit(reason=reason, explicit_cause=ExitCause.NOT_READY)
                extended += next_timeout

    async def _check_liveness(self) -> str:
        """Check until the process has to be killed, and return why, as a phrase."""
        config, streak = self._spec.config.liveness, FailureStreak()
        liveness = self._checks.liveness
        if liveness is None or not config.interval:
            await trio.sleep_forever()
        while True:
            await sleep_until_tick(config.interval * _INTERVAL_SLACK, min_delay=config.interval)
            self.checks_begun += 1
            result = await liveness.check(config.timeout)
            self.checks_ended += 1
            if result.is_alive:
                self._last_sample, self._unanswered_checks = None, 0
            elif not result.is_wrong_server:
                result = await self._diagnose(result, config.timeout)
            self._on_result(result)
            streak.record(None if result.is_alive else result.condition)
            reason = streak.find_kill_reason(config.failure_threshold, config.overload_threshold)
            if reason:
                return f"{reason}: {result.reason}"

    async def _diagnose(self, result: HealthCheckResult, max_time: float) -> HealthCheckResult:
        """Find out why a check failed; its result gets what was observed.

        Takes up to a second after the first failure in a row, and no longer than the check.
        """
        condition = result.condition
        if condition not in diagnosis.UNEXPLAINED:
            return result
        self._unanswered_checks += condition is Condition.STUCK
        found, queue = await self._measure(max_time)
        counts = None if queue is None else (queue.waiting, queue.backlog)
        condition = diagnosis.correct_condition(condition, counts, self._unanswered_checks)
        seen = [str(each) for each in (found, queue) if each is not None]
        reason = "; ".join([result.reason, *seen])
        return attrs.evolve(result, condition=diagnosis.diagnose(condition, found), reason=reason)

    async def _measure(self, max_time: float) -> tuple[Activity | None, AcceptQueue | None]:
        """Find what the processes did since the last failed check, and what is queued now."""
        before = self._last_sample
        if before is None and (before := await self._observe()) is not None:
            await trio.sleep(min(_OBSERVATION_TIME, max_time))
        after = self._last_sample = before and await self._observe()
        if before is None or after is None:
            return None, None
        return activity.compute_activity(before, after), after.accept_queue

    async def _observe(self) -> activity.ActivitySample | None:
        return await self._effects.observe(self._pid, self._checks.address)
