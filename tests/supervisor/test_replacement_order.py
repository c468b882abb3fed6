"""Processes that are stopped before their successors are started, in virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshtrio.config import ReplacementOrder
from meshtrio.errors import PluginFailedError
from meshtrio.util.backoff import Backoff
from tests.support.fake_processes import ProcessScript, make_plugin_config, make_supervisor

STEADY = Backoff(initial=60, maximum=60, multiplier=1, jitter=0)
PLUGIN = make_plugin_config("p", replace=ReplacementOrder.STOP_FIRST, backoff=STEADY)
SLOW_STOP = ProcessScript(stop_duration=2, ready_after=1)


async def test_a_restart_waits_until_the_successor_is_ready(autojump_clock: MockClock) -> None:
    dependent = make_plugin_config("q", depends_on=["p"])
    async with make_supervisor([PLUGIN, dependent], {"p": [SLOW_STOP] * 3}) as harness:
        await harness.operations.start("q")
        harness.log.clear()
        began = trio.current_time()
        await harness.operations.restart("p")
        assert trio.current_time() - began == pytest.approx(3.1)
        assert [text for _, text in harness.log] == [
            *("Renewing p", "Stopping p", "Stopped p", "Starting p", "Ready p")
        ]
        assert harness.states() == {"p/0": "ready", "q/0": "ready"}
        assert harness.supervisor.statuses()[0].restarts == 0


async def test_several_restarts_at_once_are_one_after_the_other(autojump_clock: MockClock) -> None:
    async with make_supervisor([PLUGIN], {"p": [SLOW_STOP] * 9}) as harness:
        await harness.operations.start("p")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(harness.operations.restart, "p")
        assert harness.events_of("Starting", "Stopped") == [
            *("Starting p", "Stopped p", "Starting p", "Stopped p", "Starting p"),
            *("Stopped p", "Starting p"),
        ]


async def test_a_successor_that_fails_is_an_error_and_the_restart_policy_applies(
    autojump_clock: MockClock,
) -> None:
    scripts = [SLOW_STOP, ProcessScript(ready_after=9, lifetime=1), SLOW_STOP]
    async with make_supervisor([PLUGIN], {"p": scripts}) as harness:
        await harness.operations.start("p")
        with pytest.raises(PluginFailedError, match=r"p/0 exited with status 1; it is started"):
            await harness.operations.restart("p")
        await harness.run_until(120)
        assert harness.states() == {"p/0": "ready"}


async def test_a_stop_meanwhile_ends_the_restart(autojump_clock: MockClock) -> None:
    async with make_supervisor([PLUGIN], {"p": [SLOW_STOP] * 3}) as harness:
        await harness.operations.start("p")

        async def restart() -> None:
            with pytest.raises(PluginFailedError, match="p/0 is stopped"):
                await harness.operations.restart("p")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            await trio.sleep(1)
            await harness.operations.stop("p")
        assert harness.events_of("Starting") == ["Starting p"]


async def test_a_process_that_is_too_old_is_replaced_likewise(autojump_clock: MockClock) -> None:
    plugin = make_plugin_config(
        "p", replace=ReplacementOrder.STOP_FIRST, max_age=10, max_age_variance=0
    )
    async with make_supervisor([plugin], {"p": [SLOW_STOP] * 9}) as harness:
        await harness.run_until(45)
        kinds = harness.events_of("Renewing", "Stopped", "Starting")
        assert kinds == ["Starting p", *(["Renewing p", "Stopped p", "Starting p"] * 3)]
