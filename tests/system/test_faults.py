"""Plugins that misbehave: each gives a clear state and log line, and harms nothing else."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.config import MeshConfig, PluginConfig, RestartPolicy
from meshtrio.supervisor import events
from meshtrio.supervisor.policy.state import InstanceState
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import child_pids, echo_plugin_table, plugin_table
from tests.support.proc import read_rss, read_stat

ECHO = echo_plugin_table()
MEMORY_BOUND = 20 * 1024 * 1024


def faulty_plugin_table(fault: str, **settings: object) -> str:
    settings = {"restart": "never", "stop_timeout": 0.5, "ready_timeout": 0.5, **settings}
    return ECHO + plugin_table("bad", "startup_faults.py", fault, **settings)


def state_of_bad(watched: RecordedMesh) -> tuple[InstanceState, str]:
    bad = next(status for status in watched.mesh.instances() if status.name == "bad")
    return bad.state, bad.reason


async def assert_echo_answers(watched: RecordedMesh) -> None:
    with trio.fail_after(30):
        async with watched.mesh.connect("plugin.echo") as channel:
            reply = await channel.stub(EchoServiceStub).Echo(EchoRequest(message="unharmed"))
    assert reply.message == "unharmed"
    echo_status = next(status for status in watched.mesh.instances() if status.name == "echo")
    assert echo_status.restarts == 0


CASES = {
    "exit-at-once": "exited with status 3",
    "never-bind": "was not ready within 0.5 s: it has not bound its socket",
    "never-answer": "it accepted a connection but did not answer the health check",
    "answer-garbage": "it accepted a connection and then: the peer violated HTTP/2",
    "ignore-sigterm": "was killed by SIGKILL",
}


@pytest.mark.parametrize(("fault", "reason"), CASES.items(), ids=CASES)
async def test_a_fault_is_told_and_the_others_are_unharmed(
    fault: str, reason: str, short_dir: Path
) -> None:
    async with run_mesh(faulty_plugin_table(fault), short_dir) as watched:
        await watched.wait_for_event(events.Ready, plugin="echo")
        await watched.wait_for_event(events.GaveUp, plugin="bad")
        await trio.testing.wait_all_tasks_blocked()
        found, why = state_of_bad(watched)
        assert found is InstanceState.FAILED
        assert reason in why
        await assert_echo_answers(watched)


async def test_the_log_says_what_failed_and_its_last_words(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with run_mesh(faulty_plugin_table("exit-at-once"), short_dir) as watched:
        await watched.wait_for_event(events.GaveUp, plugin="bad")
    lines = [record.getMessage() for record in caplog.records]
    assert any(
        line.startswith("bad/0: pid") and line.endswith("last stderr line: about to give up")
        for line in lines
    )


async def test_a_plugin_that_keeps_exiting_is_started_again_with_backoff(short_dir: Path) -> None:
    backoff = {"initial": 0.05, "multiplier": 2.0, "jitter": 0.0}
    config = faulty_plugin_table("exit-at-once", restart="always", backoff=backoff)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Restarting, plugin="bad", count=4)
        delays = [o.event.delay for o in watched.find_events(events.Restarting, plugin="bad")]  # type: ignore[attr-defined]
        assert delays[:4] == [0.05, 0.1, 0.2, 0.4]
        await assert_echo_answers(watched)


async def test_a_flood_without_newlines_is_cut_in_bounded_memory(short_dir: Path) -> None:
    config = faulty_plugin_table("flood", ready_timeout=60.0)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready, plugin="echo")
        before = read_rss()
        await watched.wait_for_line("flood over")
        flood = watched.find_events(events.LineWritten, plugin="bad")[0].event
        assert isinstance(flood, events.LineWritten)
        assert len(flood.line) + flood.truncated_bytes == 100_000_000
        assert read_rss() - before < MEMORY_BOUND
        await assert_echo_answers(watched)


async def test_a_flood_of_lines_is_dropped_and_counted(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = {"lines_per_second": 100, "burst": 500, "kept": 5}
    async with run_mesh(
        faulty_plugin_table("chatter", ready_timeout=60.0, output=output), short_dir
    ) as watched:
        over = (await watched.wait_for_line("chatter over")).event
        assert isinstance(over, events.LineWritten)
        assert over.fields == {"level": "error", "message": "chatter over", "n": 7}
        written = len(watched.find_events(events.LineWritten, plugin="bad"))
        dropped = [o.event.count for o in watched.find_events(events.LinesDropped)]  # type: ignore[attr-defined]
        assert written + sum(dropped) == 100_001
        assert written < 2000
        (kept,) = watched.mesh.log_lines("bad").values()
        assert [line.text for line in kept[:-1]] == [f"line {n}" for n in range(996, 1000)]
        await assert_echo_answers(watched)
    record = next(r for r in caplog.records if r.getMessage() == "chatter over")
    assert (record.levelname, record.name) == ("ERROR", "meshtrio.plugin.bad")
    assert record.__dict__["stream"] == "stdout"
    assert record.__dict__["fields"]["n"] == 7


async def test_what_a_dead_plugin_leaves_dies_with_it(short_dir: Path) -> None:
    """Its group at once; what has left that, as a daemon does, soon after."""
    config = plugin_table("bad", "startup_faults.py", "with-child", restart="never")
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_line("children started")
        leader = watched.mesh.instances()[0].pid
        assert leader is not None
        groups = {child: process_group(child) for child in child_pids(leader)}
        inside = next(child for child in groups if groups[child] == leader)
        outside = next(child for child in groups if groups[child] != leader)
        os.kill(leader, signal.SIGKILL)
        await watched.wait_for_event(events.GaveUp)
        with trio.fail_after(30):
            while process_group(inside):
                await trio.lowlevel.checkpoint()
        swept = (await watched.wait_for_event(events.Swept)).event
        assert isinstance(swept, events.Swept)
        assert swept.count == 1
        with trio.fail_after(30):
            while process_group(outside):
                await trio.lowlevel.checkpoint()


def process_group(pid: int) -> int:
    """Return the process group of a live process, 0 for a dead one."""
    fields = read_stat(pid)
    return int(fields[2]) if fields and fields[0] not in "ZX" else 0


async def test_a_program_that_vanished_is_told_and_tried_again(short_dir: Path) -> None:
    program = short_dir / "program"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    config = f'[[plugin]]\nname = "bad"\ncommand = ["{program}"]\nbackoff = {{ initial = 0.01 }}\n'
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Exited)
        program.unlink()
        await watched.wait_until(
            lambda: (
                watched.events[-1:] if "could not be started" in state_of_bad(watched)[1] else []
            )
        )
        assert "No such file" in state_of_bad(watched)[1]


async def test_a_plugin_that_answers_and_exits_harms_nobody(short_dir: Path) -> None:
    """Its health check fails in the moment its process ends."""
    backoff = {"initial": 0.0, "jitter": 0.0}
    config = ECHO + plugin_table("bad", "health_unimplemented.py", backoff=backoff)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Restarting, plugin="bad", count=15)
        await assert_echo_answers(watched)


async def test_a_command_that_cannot_be_executed_harms_nobody(short_dir: Path) -> None:
    bad = PluginConfig(name="bad", command=["with\0nul"], restart=RestartPolicy.NEVER)
    async with run_mesh(MeshConfig([bad]), short_dir) as watched:
        await watched.wait_for_event(events.GaveUp)
        await trio.testing.wait_all_tasks_blocked()
        assert state_of_bad(watched) == (
            InstanceState.FAILED,
            "could not be started: embedded null byte",
        )
