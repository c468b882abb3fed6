"""Checks the health of one process: readiness first, then liveness."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from meshtrio.config import Liveness, PluginConfig
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.diagnosis import FailureStreak
from meshtrio.supervisor.policy.restart import ExitCause, RunFailure
from meshtrio.supervisor.probe import HealthCheckResult, NotReadyError
from meshtrio.supervisor.process_observer import ProcessObserver
from meshtrio.supervisor.server_identity import ServerVerifier
from meshtrio.util.concurrency import sleep_until_tick

_INTERVAL_SLACK = 0.1
"""Fraction of the interval that a check may be late, so that those of many plugins coincide."""

HealthCheck = Callable[[float], Awaitable[HealthCheckResult]]
"""Makes one check, whose answer may take the given number of seconds."""


class HealthMonitor:
    """Probes a process until it has to be ended."""

    def __init__(
        self,
        config: PluginConfig,
        pid: int,
        address: str,
        verifier: ServerVerifier,
        effects: Effects,
        *,
        on_ready: Callable[[], None],
        on_result: Callable[[HealthCheckResult], None],
    ) -> None:
        """Create a monitor.

        Args:
            config: The timeouts, and how often to check.
            pid: The leader of the process group that is observed if it does not answer.
            address: Where the plugin serves.
            verifier: Connects to the address and verifies that the plugin's server answers.
            effects: Makes the checks and observes the processes.
            on_ready: Called once, when the process is first ready.
            on_result: Called with the result of each liveness check.
        """
        self._config = config
        self._address = address
        self._verifier = verifier
        self._probe = effects.probe
        self._observer = ProcessObserver(pid, address, effects.observe)
        self._on_ready = on_ready
        self._on_result = on_result
        self._socket_replaced = trio.Event()

    async def run(self) -> RunFailure:
        """Wait for readiness, then check liveness.

        Returns:
            Why the process has to be ended. Does not return while it is healthy, or if liveness
            checks are turned off.
        """
        failure = await self._wait_ready()
        if failure is not None:
            return failure
        # The process may have ended with its answer.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._on_ready()
        check = partial(
            self._probe.check, self._address, tls=self._config.tls, connect=self._verifier.dial
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check_replaced_socket, check)
            reason = await run_liveness_checks(
                check, self._observer, self._config.liveness, self._on_result
            )
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
            self._on_result(await check(self._config.liveness.timeout))

    async def _wait_ready(self) -> RunFailure | None:
        """Wait for readiness; time in which the process waited for a CPU does not count."""
        timeout = self._config.ready_timeout
        next_timeout, extended = timeout, 0.0
        while True:
            try:
                await self._probe.wait_ready(
                    self._address, next_timeout, self._config.tls, self._verifier.dial
                )
            except NotReadyError as exc:
                next_timeout = await self._observer.ready_timeout_extension(timeout, extended)
                if not next_timeout:
                    reason = str(NotReadyError(timeout, exc.missing))
                    if extended:
                        reason += f"; it had {extended:.3g} s more, since it waited for a CPU"
                    return RunFailure(reason, ExitCause.NOT_READY)
                extended += next_timeout
            else:
                return None


async def run_liveness_checks(
    check: HealthCheck,
    observer: ProcessObserver,
    config: Liveness,
    on_result: Callable[[HealthCheckResult], None],
) -> str:
    """Check until the process has to be killed.

    Args:
        check: Makes one check.
        observer: Finds out why a check failed.
        config: How often to check, and how many checks in a row may fail.
        on_result: Called with the result of each check.

    Returns:
        Why the process has to be killed, as a phrase. Never returns if checks are turned off.
    """
    if not config.interval:
        await trio.sleep_forever()
    streak = FailureStreak()
    while True:
        await sleep_until_tick(config.interval * _INTERVAL_SLACK, min_delay=config.interval)
        result = await check(config.timeout)
        if result.is_alive:
            observer.reset()
        else:
            result = await observer.diagnose(result, config.timeout)
        on_result(result)
        streak.record(None if result.is_alive else result.condition)
        reason = streak.find_kill_reason(config.failure_threshold, config.overload_threshold)
        if reason:
            return f"{reason}: {result.reason}"
