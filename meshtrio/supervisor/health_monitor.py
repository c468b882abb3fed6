"""Checks the health of one process: readiness first, then liveness."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.diagnosis import FailureStreak
from meshtrio.supervisor.policy.restart import ExitCause, RunFailure
from meshtrio.supervisor.probe import HealthCheckResult, NotReadyError
from meshtrio.supervisor.process_observer import ProcessObserver
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.server_identity import ServerVerifier
from meshtrio.util.concurrency import sleep_until_tick

_INTERVAL_SLACK = 0.1
"""Fraction of the interval that a check may be late, so that those of many plugins coincide."""

HealthCheck = Callable[[float], Awaitable[HealthCheckResult]]
"""Makes one check, whose answer may take the given number of seconds."""


@attrs.define(eq=False)
class HealthMonitor:
    """Probes a process until it has to be ended."""

    _spec: RunSpec
    _pid: int
    """The leader of the process group, which is observed if it does not answer."""
    _verifier: ServerVerifier
    """Connects to the address and verifies that the plugin's server answers."""
    _effects: Effects
    _on_ready: Callable[[], None]
    """Called once, when the process is first ready."""
    _on_result: Callable[[HealthCheckResult], None]
    """Called with the result of each liveness check."""
    _socket_replaced: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def run(self) -> RunFailure:
        """Wait for readiness, then check liveness; return why the process has to be ended.

        Does not return while it is healthy, or if liveness checks are turned off.
        """
        observer = ProcessObserver(partial(self._effects.observe, self._pid, self._spec.address))
        failure = await self._wait_ready(observer)
        if failure is not None:
            return failure
        # The process may have ended with its answer.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._on_ready()
        probe, connect = self._effects.probe, self._verifier.connect
        check = partial(probe.check, self._spec.address, connect=connect)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check_replaced_socket, check)
            reason = await self._check_liveness(check, observer)
            nursery.cancel_scope.cancel()
        return RunFailure(reason, ExitCause.UNHEALTHY)

    def check_socket(self) -> None:
        """Check the health at once if another file has taken the place of the socket."""
        if self._verifier.is_socket_replaced:
            self._socket_replaced.set()

    async def _check_replaced_socket(self, check: HealthCheck) -> None:
        while True:
            await self._socket_replaced.wait()
            self._socket_replaced = trio.Event()
            self._on_result(await check(self._spec.config.liveness.timeout))

    async def _wait_ready(self, observer: ProcessObserver) -> RunFailure | None:
        """Wait for readiness; time in which the process waited for a CPU does not count."""
        timeout = next_timeout = self._spec.config.ready_timeout
        extended, probe = 0.0, self._effects.probe
        while True:
            try:
                await probe.wait_ready(self._spec.address, next_timeout, self._verifier.connect)
                return None
            except NotReadyError as exc:
                next_timeout = await observer.ready_timeout_extension(timeout, extended)
                if not next_timeout:
                    reason = str(NotReadyError(timeout, exc.missing))
                    if extended:
                        reason += f"; it had {extended:.3g} s more, since it waited for a CPU"
                    return RunFailure(reason, ExitCause.NOT_READY)
                extended += next_timeout

    async def _check_liveness(self, check: HealthCheck, observer: ProcessObserver) -> str:
        """Check until the process has to be killed, and return why, as a phrase."""
        config, streak = self._spec.config.liveness, FailureStreak()
        if not config.interval:
            await trio.sleep_forever()
        while True:
            await sleep_until_tick(config.interval * _INTERVAL_SLACK, min_delay=config.interval)
            result = await check(config.timeout)
            if result.is_alive:
                observer.reset()
            else:
                result = await observer.diagnose(result, config.timeout)
            self._on_result(result)
            streak.record(None if result.is_alive else result.condition)
            reason = streak.find_kill_reason(config.failure_threshold, config.overload_threshold)
            if reason:
                return f"{reason}: {result.reason}"
