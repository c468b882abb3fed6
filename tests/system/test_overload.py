"""Plugins that do not answer their health checks since they are overloaded, and those stuck."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from meshtrio.supervise import events
from meshtrio.supervise.decisions.state import State
from meshtrio.supervise.decisions.vitality import Condition
from tests.meshes import Watched, running
from tests.programs import plugin

THRESHOLD = 2
MANY = 10_000
STUCK = {Condition.STUCK, Condition.STOPPED}


AT_WORK = {Condition.COMPUTING, Condition.WAITING_FOR_CPU, Condition.MESH_OVERLOADED}
"""What a loaded machine may bring about in any of these tests."""


def overloaded(how: str, folder: Path, overload_threshold: int = MANY) -> str:
    os.mkfifo(folder / "fifo")
    liveness = {
        "interval": 0.1,
        # Those that answer at once may be late on a loaded machine.
        "timeout": 30.0 if how in ("closing", "rejecting", "exhausted") else 1.0,
        "threshold": THRESHOLD,
        "overload_threshold": overload_threshold,
    }
    env = {"RECOVERS": str(folder / "fifo")}
    return plugin("p", "overloaded.py", how, liveness=liveness, env=env, restart="never")


def conditions(watched: Watched) -> list[Condition | None]:
    found = [seen.event for seen in watched.find(events.CheckFailed)]
    return [event.condition for event in found if isinstance(event, events.CheckFailed)]


async def recovers(watched: Watched, folder: Path) -> None:
    """Let it recover, and wait until it has answered a check."""
    descriptor = await trio.to_thread.run_sync(os.open, folder / "fifo", os.O_WRONLY)
    os.write(descriptor, b"x")
    (child,) = watched.mesh._tree.children
    await watched.wait_for_line("it has recovered")
    assert child.life is not None
    with trio.fail_after(60):
        while child.life.health is None or not child.life.health.serving:  # noqa: ASYNC110
            await trio.sleep(0.01)
    os.close(descriptor)
    assert watched.find(events.Exited) == []
    assert child.state is State.READY


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
    async with running(overloaded(how, short_dir), short_dir) as watched:
        # More than may fail in a row of one that is stuck.
        await watched.wait(events.CheckFailed, count=2 * THRESHOLD + 1)
        assert set(conditions(watched)[THRESHOLD - 1 :]) <= expected
        assert watched.find(events.Unready) == []
        await recovers(watched, short_dir)


async def test_a_process_in_an_endless_loop_is_killed_after_more_checks(short_dir: Path) -> None:
    async with running(overloaded("computing", short_dir, 5), short_dir) as watched:
        exited = (await watched.wait(events.Exited)).event
        assert isinstance(exited, events.Exited)
        assert "failed 5 health checks in a row" in str(exited.ended)
        assert "a CPU" in str(exited.ended)
        assert not STUCK & set(conditions(watched))


async def test_a_process_that_does_nothing_is_killed_as_configured(short_dir: Path) -> None:
    async with running(overloaded("stuck", short_dir), short_dir) as watched:
        exited = (await watched.wait(events.Exited)).event
        assert isinstance(exited, events.Exited)
        assert f"failed {THRESHOLD} health checks in a row" in str(exited.ended)
        assert conditions(watched)[-THRESHOLD:] == [Condition.STUCK] * THRESHOLD


async def test_a_stopped_process_with_a_full_backlog_is_killed_as_configured(
    short_dir: Path,
) -> None:
    async with running(overloaded("backlog", short_dir), short_dir) as watched:
        ready = (await watched.wait(events.Ready)).event
        assert isinstance(ready, events.Ready)
        await watched.wait_for_line("its backlog is full")
        os.kill(ready.pid, signal.SIGSTOP)
        exited = (await watched.wait(events.Exited)).event
        assert isinstance(exited, events.Exited)
        assert f"failed {THRESHOLD} health checks in a row" in str(exited.ended)
        assert "its processes are stopped" in str(exited.ended)
