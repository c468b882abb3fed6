"""Plugins that do not answer their health checks since they are overloaded, and those stuck."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from meshtrio.supervisor import events
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.policy.state import InstanceState
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import plugin_table

THRESHOLD = 2
MANY = 10_000
STUCK = {Condition.STUCK, Condition.STOPPED}


AT_WORK = {Condition.COMPUTING, Condition.WAITING_FOR_CPU, Condition.MESH_OVERLOADED}
"""What a loaded machine may bring about in any of these tests."""


def overloaded_plugin_table(how: str, folder: Path, overload_threshold: int = MANY) -> str:
    os.mkfifo(folder / "fifo")
    liveness = {
        "interval": 0.1,
        # Those that answer at once may be late on a loaded machine.
        "timeout": 30.0 if how in ("closing", "rejecting", "exhausted") else 1.0,
        "failure_threshold": THRESHOLD,
        "overload_threshold": overload_threshold,
    }
    env = {"RECOVERS": str(folder / "fifo")}
    return plugin_table(
        "p", "overloaded_server.py", how, liveness=liveness, env=env, restart="never"
    )


def failed_check_conditions(watched: RecordedMesh) -> list[Condition | None]:
    found = [seen.event for seen in watched.find_events(events.CheckFailed)]
    return [event.condition for event in found if isinstance(event, events.CheckFailed)]


async def let_recover(watched: RecordedMesh, folder: Path) -> None:
    """Let the plugin recover, and wait until it has answered a health check."""
    descriptor = await trio.to_thread.run_sync(os.open, folder / "fifo", os.O_WRONLY)
    os.write(descriptor, b"x")
    (child,) = watched.mesh._supervisor.instances
    await watched.wait_for_line("it has recovered")
    assert child.active_run is not None
    with trio.fail_after(60):
        while child.active_run.last_check is None or not child.active_run.last_check.is_serving:  # noqa: ASYNC110
            await trio.sleep(0.01)
    os.close(descriptor)
    assert watched.find_events(events.Exited) == []
    assert child.state is InstanceState.READY


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("computing", AT_WORK),
        ("backlog", {Condition.BACKLOG_FULL, *AT_WORK}),
        ("closing", {Condition.CLOSING, *AT_WORK}),
        ("rejecting", {None}),
        ("exhausted", {None}),
    ],
)
async def test_an_overloaded_plugin_is_not_killed_and_goes_on(
    how: str, expected: set[Condition | None], short_dir: Path
) -> None:
    async with run_mesh(overloaded_plugin_table(how, short_dir), short_dir) as watched:
        # More than may fail in a row of one that is stuck.
        await watched.wait_for_event(events.CheckFailed, count=2 * THRESHOLD + 1)
        assert set(failed_check_conditions(watched)[THRESHOLD - 1 :]) <= expected
        assert watched.find_events(events.Unready) == []
        await let_recover(watched, short_dir)


async def test_a_process_in_an_endless_loop_is_killed_after_more_checks(short_dir: Path) -> None:
    async with run_mesh(overloaded_plugin_table("computing", short_dir, 5), short_dir) as watched:
        exited = (await watched.wait_for_event(events.Exited)).event
        assert isinstance(exited, events.Exited)
        assert "failed 5 health checks in a row" in str(exited.exit)
        assert "a CPU" in str(exited.exit)
        assert not STUCK & set(failed_check_conditions(watched))


async def test_a_process_that_does_nothing_is_killed_as_configured(short_dir: Path) -> None:
    async with run_mesh(overloaded_plugin_table("stuck", short_dir), short_dir) as watched:
        exited = (await watched.wait_for_event(events.Exited)).event
        assert isinstance(exited, events.Exited)
        assert f"failed {THRESHOLD} health checks in a row" in str(exited.exit)
        assert failed_check_conditions(watched)[-THRESHOLD:] == [Condition.STUCK] * THRESHOLD


async def test_a_stopped_process_with_a_full_backlog_is_killed_as_configured(
    short_dir: Path,
) -> None:
    async with run_mesh(overloaded_plugin_table("backlog", short_dir), short_dir) as watched:
        ready = (await watched.wait_for_event(events.Ready)).event
        assert isinstance(ready, events.Ready)
        await watched.wait_for_line("its backlog is full")
        os.kill(ready.pid, signal.SIGSTOP)
        exited = (await watched.wait_for_event(events.Exited)).event
        assert isinstance(exited, events.Exited)
        assert f"failed {THRESHOLD} health checks in a row" in str(exited.exit)
        assert "its processes are stopped" in str(exited.exit)
