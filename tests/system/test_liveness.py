"""Plugins that stop answering: found, asked where they are, killed and started again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import plugin_table

QUICK = {"interval": 0.1, "timeout": 0.2, "failure_threshold": 2}
CHAIN = plugin_table("chain", "echo_chain.py", liveness=QUICK, backoff={"initial": 0.01})


async def wait_for_second_run(watched: RecordedMesh, pid: int) -> None:
    ended = (await watched.wait_for_event(events.Exited, pid=pid)).event
    assert isinstance(ended, events.Exited)
    assert "failed 2 health checks in a row" in str(ended.exit)
    assert ended.exit.signal == signal.SIGKILL
    again = (await watched.wait_for_event(events.Ready, count=2)).event
    assert isinstance(again, events.Ready)
    assert again.pid != pid


async def wait_for_first_run(watched: RecordedMesh) -> int:
    ready = (await watched.wait_for_event(events.Ready)).event
    assert isinstance(ready, events.Ready)
    return ready.pid


async def test_a_stopped_plugin_is_killed_and_started_again(short_dir: Path) -> None:
    async with run_mesh(CHAIN, short_dir) as watched:
        pid = await wait_for_first_run(watched)
        os.kill(pid, signal.SIGSTOP)
        await wait_for_second_run(watched, pid)


async def test_a_stuck_plugin_says_where_and_its_callers_learn_of_its_end(short_dir: Path) -> None:
    async with run_mesh(CHAIN, short_dir) as watched:
        pid = await wait_for_first_run(watched)
        async with watched.mesh.connect("plugin.chain") as channel:
            stub = channel.stub(EchoServiceStub)
            with pytest.raises(purerpc.UnavailableError, match="health checks"):
                await stub.Echo(EchoRequest(message="stick"))
        await wait_for_second_run(watched, pid)
        await watched.wait_for_line("trio's tasks")
        lines = [
            observed.event.line for observed in watched.find_events(events.LineWritten, pid=pid)
        ]  # type: ignore[attr-defined]
        # Where the thread is, by faulthandler; the tasks once it was interrupted.
        assert any("echo_chain.py" in line and "in Echo" in line for line in lines)
        assert any(line.lstrip().startswith("task /echo.v1.EchoService/") for line in lines)


async def test_a_program_that_knows_no_dump_is_killed_all_the_same(short_dir: Path) -> None:
    config = plugin_table(
        "bad", "grpcio_without_health.py", liveness=QUICK, backoff={"initial": 0.01}
    )
    async with run_mesh(config, short_dir) as watched:
        pid = await wait_for_first_run(watched)
        os.kill(pid, signal.SIGSTOP)
        with trio.fail_after(30):
            await watched.wait_for_event(events.Ready, count=2)
        exited = watched.find_events(events.Exited, pid=pid)[0].event
        assert isinstance(exited, events.Exited)
        # Where these tests run in the background of a shell, it ignores SIGQUIT.
        assert exited.exit.signal in (signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL)
