"""Tasks of a mesh in the test's own process: `Mesh.run_task` and `Mesh.tasks`."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from meshtrio import Containment, MeshConfig, TaskConfig, UnknownNameError
from meshtrio.supervisor import events
from meshtrio.supervisor.tasks.state import TaskOutcome, TaskState
from tests.support.in_process_mesh import run_mesh

NEVER = "0 0 29 2 *"
HUNGRY = "data = b'x' * 300_000_000; print('eaten', flush=True); import time; time.sleep(1000)"
REGISTERS = """
import os, trio
from meshtrio import mesh
async def main():
    async with mesh.register("by.a.task", "tcp://127.0.0.1:1"):
        print(os.environ["PLUGIN_NAME"], "PLUGIN_SOCKET" in os.environ)
trio.run(main)
"""


def python_task(name: str, program: str, **settings: object) -> TaskConfig:
    return TaskConfig(name, ["{python}", "-c", program], schedule=NEVER, **settings)


async def test_a_program_runs_tasks(short_dir: Path) -> None:
    tasks = [
        TaskConfig("once", ["sh", "-c", "echo ran"]),
        TaskConfig("fails", ["sh", "-c", "echo why >&2; exit 7"], schedule=NEVER),
        TaskConfig("long", ["sh", "-c", "echo begun; exec sleep 1000"], schedule=NEVER),
        python_task("registers", REGISTERS),
    ]
    written = {"stdout": b"", "stderr": b""}
    began = trio.Event()

    def on_data(stream: str, data: bytes) -> None:
        written[stream] += data  # A line may come in several pieces.
        began.set()

    async with run_mesh(MeshConfig(tasks=tasks), short_dir) as watched:
        mesh = watched.mesh
        await watched.wait_for_event(events.TaskCompleted)
        result = await mesh.run_task("fails", on_data)
        assert (result.outcome, result.exit.status) == (TaskOutcome.FAILED, 7)
        assert result.exit.stderr_tail == ("why",)
        assert written == {"stdout": b"", "stderr": b"why\n"}
        result = await mesh.run_task("registers", on_data)
        assert result.outcome is TaskOutcome.COMPLETED
        assert written["stdout"] == b"registers False\n"
        began = trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mesh.run_task, "long", on_data)
                await began.wait()
                scope.cancel()
        await mesh.stop("long")  # It is being stopped already; this waits for its end.
        with pytest.raises(UnknownNameError):
            await mesh.run_task("unknown")
        once, fails, long, _ = mesh.tasks()
        assert (once.state, once.last_outcome) == (TaskState.COMPLETED, TaskOutcome.COMPLETED)
        assert (fails.state, fails.last_outcome) == (TaskState.SCHEDULED, TaskOutcome.FAILED)
        assert long.last_outcome is TaskOutcome.STOPPED
        ((_, lines),) = mesh.log_lines("once").items()
        assert [line.text for line in lines] == ["ran"]


async def test_the_memory_of_a_task_is_limited(short_dir: Path) -> None:
    task = python_task("hungry", HUNGRY, containment=Containment(memory=100_000_000))
    async with run_mesh(MeshConfig(tasks=[task]), short_dir) as watched:
        result = await watched.mesh.run_task("hungry")
    assert result.outcome is TaskOutcome.FAILED
    assert "of memory, and may use 100,000,000" in str(result.exit)


async def test_two_hundred_tasks_run_in_order(short_dir: Path) -> None:
    tasks = [
        TaskConfig(
            f"t{number}",
            ["true"],
            depends_on={f"t{number - 20}": "completed"} if number >= 20 else (),
        )
        for number in range(200)
    ]
    async with run_mesh(MeshConfig(tasks=tasks), short_dir) as watched:
        await watched.wait_for_event(events.TaskCompleted, count=200)
        assert {status.state for status in watched.mesh.tasks()} == {TaskState.COMPLETED}
