"""Liveness checks, with a scripted probe and a clock of the test's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

from meshtrio.config import Liveness, PluginConfig, TelemetryConfig
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.probe import HealthCheckResult
from meshtrio.supervisor.readiness.factory import CheckSources, make_checks
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.runs.health_monitor import HealthMonitor
from tests.support.fake_processes import FakeEffects

WRONG_SERVER = HealthCheckResult(False, False, "another program serves", is_wrong_server=True)


class HangingProbe:
    """The plugin answers nothing; once its socket is replaced, another program does."""

    def __init__(self) -> None:
        self.verifier = SimpleNamespace(is_socket_replaced=False, connect=None)

    async def wait_ready(self, timeout: float, connect: Any) -> None:  # noqa: ASYNC109
        await trio.lowlevel.checkpoint()

    async def check(self, timeout: float, connect: Any) -> HealthCheckResult:  # noqa: ASYNC109
        if self.verifier.is_socket_replaced:
            await trio.lowlevel.checkpoint()
            return WRONG_SERVER
        await trio.sleep(timeout)
        return HealthCheckResult(False, False, "no answer", condition=Condition.STUCK)


def make_monitor(
    probe: HangingProbe, interval: float, results: list[tuple[float, HealthCheckResult]]
) -> HealthMonitor:
    liveness = Liveness(interval=interval, timeout=5.0, failure_threshold=2)
    spec = RunSpec(
        config=PluginConfig("p", ["true"], liveness=liveness),
        number=0,
        slot=0,
        socket=Path("/nowhere/p"),
        mesh_socket=Path("/nowhere/mesh"),
        telemetry=TelemetryConfig(),
    )
    effects = attrs.evolve(FakeEffects().make_effects(), probe=probe)
    verifier: Any = probe.verifier
    sources = CheckSources(
        probe=effects.probe, connect=verifier.connect, connect_to=lambda _: verifier.connect
    )
    return HealthMonitor(
        spec,
        1,
        verifier,
        make_checks(spec, sources),
        effects,
        lambda: None,
        lambda result: results.append((trio.current_time(), result)),
    )


@pytest.mark.parametrize("interval", [0.0, 0.5])
async def test_a_replaced_socket_is_noticed_at_once_and_is_no_failure(
    interval: float, autojump_clock: trio.testing.MockClock
) -> None:
    """With checks off, and during one that hangs."""
    probe, results = HangingProbe(), list[tuple[float, HealthCheckResult]]()
    monitor = make_monitor(probe, interval, results)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        await trio.sleep(1.5)
        probe.verifier.is_socket_replaced = True
        for _ in range(3):
            monitor.check_socket()
            await trio.sleep(0.1)
        found = [(round(at - began, 1), result) for at, result in results]
        assert found == [(1.5, WRONG_SERVER), (1.6, WRONG_SERVER), (1.7, WRONG_SERVER)]
        assert nursery.child_tasks
        nursery.cancel_scope.cancel()
