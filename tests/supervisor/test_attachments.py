"""Processes that the supervisor has not started in the place of instances, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshtrio.config import GroupConfig, MeshConfig, RestartPolicy, Strategy
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.probe import HealthCheckResult
from meshtrio.util.backoff import Backoff
from meshtrio.util.errors import UnknownNameError, UsageError
from tests.support.fake_processes import (
    NOT_ANSWERING,
    NOT_SERVING,
    SERVING,
    ProcessScript,
    SupervisorHarness,
    make_plugin_config,
    make_supervisor,
)

PID = 77
REFUSED = HealthCheckResult(False, False, "its socket refuses", condition=Condition.UNREACHABLE)
CLOSING = HealthCheckResult(False, False, "it closed", condition=Condition.CLOSING)
WRONG = HealthCheckResult(False, False, "another program answers", is_wrong_server=True)
BUSY = HealthCheckResult(True, False, "it is busy", is_busy=True)


def endpoint_pids(harness: SupervisorHarness) -> list[int | None]:
    """Return the pids of the plugin's endpoints, by the numbers of the instances."""
    endpoints = harness.registry.resolve("plugin.p").endpoints
    return [each.pid for each in sorted(endpoints, key=lambda each: each.instance or 0)]


def answer(harness: SupervisorHarness, result: HealthCheckResult) -> None:
    """Have all health checks from now on give a result."""

    async def check(timeout_seconds: float, connect: Any) -> HealthCheckResult:
        await trio.lowlevel.checkpoint()
        return result

    harness.effects.check = check  # type: ignore[method-assign]


async def test_its_server_is_the_instance_until_the_end(autojump_clock: MockClock) -> None:
    async with make_supervisor([make_plugin_config("p", instances=2)]) as harness:
        await harness.run_until(1)
        before = endpoint_pids(harness)
        answer(harness, REFUSED)
        async with harness.operations.attach("plugin.p", 1, PID):
            assert harness.states() == {"p/0": "ready", "p/1": "attached"}
            await harness.run_until(10)
            assert endpoint_pids(harness) == before[:1]
            answer(harness, SERVING)
            await harness.run_until(11)
            assert endpoint_pids(harness) == [before[0], PID]
            found = harness.registry.resolve("plugin.p").endpoints
            assert {each.instance: each.pid for each in found} == {0: before[0], 1: PID}
        await harness.run_until(20)
        assert harness.states() == {"p/0": "ready", "p/1": "ready"}
        assert PID not in endpoint_pids(harness)


@pytest.mark.parametrize(
    ("result", "stays"),
    [
        (NOT_ANSWERING, True),  # It may be stopped in a debugger.
        (BUSY, True),
        (NOT_SERVING, False),
        (REFUSED, False),
        (CLOSING, False),
        (WRONG, False),
    ],
)
async def test_what_a_health_check_says(
    autojump_clock: MockClock, result: HealthCheckResult, stays: bool
) -> None:
    async with make_supervisor([make_plugin_config("p")]) as harness:
        await harness.run_until(1)
        answer(harness, SERVING)
        async with harness.operations.attach("p", 0, PID) as attachment:
            await harness.run_until(3)
            assert endpoint_pids(harness) == [PID]
            assert str(attachment) == f"attached by pid {PID}"
            answer(harness, result)
            await harness.run_until(60)
            assert endpoint_pids(harness) == ([PID] if stays else [])
            assert attachment.is_ready is stays
            answer(harness, SERVING)
            await harness.run_until(62)
            assert endpoint_pids(harness) == [PID]


@pytest.mark.parametrize(("name", "number"), [("q", 0), ("p", 1), ("p", 2**32 - 1), ("", 0)])
async def test_what_is_not_there(autojump_clock: MockClock, name: str, number: int) -> None:
    async with make_supervisor([make_plugin_config("p")]) as harness:
        await harness.run_until(1)
        with pytest.raises(UnknownNameError):
            async with harness.operations.attach(name, number, PID):
                pass
        assert harness.states() == {"p/0": "ready"}


async def test_the_place_is_held_once_from_the_request_on(autojump_clock: MockClock) -> None:
    slow = [ProcessScript(stop_duration=4)]
    async with make_supervisor([make_plugin_config("p")], {"p": slow}) as harness:
        await harness.run_until(1)
        with trio.move_on_after(2) as scope:
            async with harness.operations.attach("p", 0, PID):
                pass
        assert scope.cancelled_caught  # While the instance stops, which it does all the same.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, harness, 20)
            await harness.run_until(3.5)
            with pytest.raises(UsageError, match=f"p/0 is attached by pid {PID} already"):
                async with harness.operations.attach("p", 0, 1):
                    pass
        await harness.run_until(40)
        assert harness.states() == {"p/0": "ready"}


async def hold(harness: SupervisorHarness, seconds: float) -> None:
    async with harness.operations.attach("p", 0, PID):
        await trio.sleep(seconds)


@pytest.mark.parametrize("how", ["stop", "scale", "reload", "shutdown"])
async def test_what_takes_the_place_back_waits_for_it(autojump_clock: MockClock, how: str) -> None:
    plugin = make_plugin_config("p", instances=2)
    async with make_supervisor([plugin]) as harness, trio.open_nursery() as nursery:
        await harness.run_until(1)
        async with harness.operations.attach("p", 1, PID) as attachment:
            if how == "stop":
                nursery.start_soon(harness.operations.stop, "p")
            elif how == "scale":
                nursery.start_soon(harness.operations.scale, "p", 1)
            elif how == "reload":
                nursery.start_soon(harness.operations.reload, MeshConfig([]))
            else:
                harness.supervisor.start_shutdown()
            await attachment.revoked.wait()
            assert attachment.revoke_reason == "p/1 is to stop"
            await harness.run_until(100)
            assert harness.states()["p/1"] == "attached"
        await harness.run_until(200)
        expected = {
            "stop": {"p/0": "stopped", "p/1": "stopped"},
            "scale": {"p/0": "ready"},
            "reload": {},
            "shutdown": {"p/0": "stopped", "p/1": "stopped"},
        }
        assert harness.states() == expected[how]


async def test_a_stop_while_the_instance_makes_room_gives_it_up(autojump_clock: MockClock) -> None:
    slow = [ProcessScript(stop_duration=4)]
    async with make_supervisor([make_plugin_config("p")], {"p": slow}) as harness:
        await harness.run_until(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_to_attach, harness)
            await harness.run_until(2)
            await harness.operations.stop("p")
        assert harness.states() == {"p/0": "stopped"}


async def fail_to_attach(harness: SupervisorHarness) -> None:
    with pytest.raises(UsageError, match="p/0 is to stop"):
        async with harness.operations.attach("p", 0, PID):
            pass


async def test_starts_and_restarts_leave_it_alone(autojump_clock: MockClock) -> None:
    plugins = [make_plugin_config("p", instances=2), make_plugin_config("q")]
    group = GroupConfig("g", ["p", "q"], strategy=Strategy.ONE_FOR_ALL)
    scripts = {"q": [ProcessScript(lifetime=10), ProcessScript()]}
    async with make_supervisor(plugins, scripts, [group]) as harness:
        await harness.run_until(1)
        answer(harness, SERVING)
        async with harness.operations.attach("p", 1, PID):
            await harness.operations.start("p")
            await harness.operations.restart("p")
            # q ends, and all of its group but what is attached are restarted.
            await harness.run_until(30)
            assert harness.states() == {"p/0": "ready", "p/1": "attached", "q/0": "ready"}
            assert len(harness.event_times("Starting p")) == 3
            assert len(harness.event_times("Starting q")) == 2
        await harness.run_until(40)
        assert harness.states()["p/1"] == "ready"


async def test_it_counts_as_a_dependency_while_it_is_ready(autojump_clock: MockClock) -> None:
    plugins = [make_plugin_config("p"), make_plugin_config("q", depends_on=["p"])]
    async with make_supervisor(plugins) as harness:
        await harness.run_until(1)
        answer(harness, REFUSED)
        async with harness.operations.attach("p", 0, PID):
            await harness.operations.stop("q")
            with trio.move_on_after(5) as scope:
                await harness.operations.start("q")
            assert scope.cancelled_caught
            assert harness.states()["q/0"] == "pending"
            answer(harness, SERVING)
            await harness.operations.start("q")
            assert harness.states() == {"p/0": "attached", "q/0": "ready"}


@pytest.mark.parametrize("state", ["stopped", "failed", "exited", "backoff"])
async def test_what_was_down_before(autojump_clock: MockClock, state: str) -> None:
    policy = RestartPolicy.ALWAYS if state == "backoff" else RestartPolicy.NEVER
    script = ProcessScript(lifetime=2, exit_status=0 if state == "exited" else 1)
    if state == "stopped":
        script = ProcessScript()
    plugin = make_plugin_config("p", restart=policy, backoff=Backoff(1000, 1000))
    async with make_supervisor([plugin], {"p": [script]}) as harness:
        await harness.run_until(3)
        if state == "stopped":
            await harness.operations.stop("p")
        assert harness.states() == {"p/0": state}
        async with harness.operations.attach("p", 0, PID):
            assert harness.states() == {"p/0": "attached"}
        await harness.run_until(5)
        # One that waits to be started again is started at once: its place is free.
        assert harness.states() == {"p/0": "ready" if state == "backoff" else state}
