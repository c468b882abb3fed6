"""A plugin that does not stop in time says where it is before it is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import ECHO_PLUGIN_DIRECTORY, plugin_table

NEVER_ENDS = """
import sys
sys.path.insert(0, {echo!r})
import trio
from echo.v1.echo_grpc import EchoServiceServicer
from meshtrio import plugin

async def work_for_ever():
    await trio.sleep_forever()

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work_for_ever)
        nursery.start_soon(plugin.serve, EchoServiceServicer())

trio.run(main)
"""
FOREIGN = """
import os, signal, socket, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
{more}
print("deaf", flush=True)
time.sleep(1000)
"""


async def stop_slow_plugin(watched: RecordedMesh) -> events.Stopped:
    with trio.fail_after(30):
        await watched.mesh.stop("slow")
    event = watched.find_events(events.Stopped)[-1].event
    assert isinstance(event, events.Stopped)
    return event


def lines(watched: RecordedMesh) -> str:
    return "\n".join(seen.event.line for seen in watched.find_events(events.LineWritten))  # type: ignore[attr-defined]


async def test_the_tasks_that_go_on_beside_a_plugin_are_in_the_log(short_dir: Path) -> None:
    program = NEVER_ENDS.format(echo=str(ECHO_PLUGIN_DIRECTORY))
    async with run_mesh(
        plugin_table("slow", "-c", program, stop_timeout=0.5), short_dir
    ) as watched:
        await watched.wait_for_event(events.Ready)
        event = await stop_slow_plugin(watched)
    assert event.was_killed
    assert event.exit.signal == signal.SIGKILL
    assert "trio's tasks:" in lines(watched)
    assert "in work_for_ever" in lines(watched)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", ""),
        ("signal.signal(signal.SIGQUIT, signal.SIG_IGN)", ""),
        ("signal.signal(signal.SIGQUIT, lambda *_: print('stacks', flush=True))", "stacks"),
    ],
)
async def test_a_foreign_plugin_is_asked_only_if_it_handles_that(
    more: str, said: str, short_dir: Path
) -> None:
    """One that does not would leave a core file, and be killed by SIGQUIT."""
    program = FOREIGN.format(more=more)
    async with run_mesh(
        plugin_table("slow", "-c", program, stop_timeout=0.2), short_dir
    ) as watched:
        await watched.wait_for_line("deaf")
        event = await stop_slow_plugin(watched)
    assert event.was_killed
    assert event.exit.signal == signal.SIGKILL
    assert lines(watched).removeprefix("deaf").strip() == said


WRAPPER = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.run([sys.executable, "-c", {program!r}])
"""


async def test_a_plugin_that_a_wrapper_has_started_is_asked_too(short_dir: Path) -> None:
    handler = "signal.signal(signal.SIGQUIT, lambda *_: print('stacks', flush=True))"
    program = WRAPPER.format(program=FOREIGN.format(more=handler))
    async with run_mesh(
        plugin_table("slow", "-c", program, stop_timeout=0.2), short_dir
    ) as watched:
        await watched.wait_for_line("deaf")
        event = await stop_slow_plugin(watched)
    assert event.exit.signal == signal.SIGKILL
    assert "stacks" in lines(watched)


async def test_what_is_given_no_time_is_asked_nothing(short_dir: Path) -> None:
    program = FOREIGN.format(more="signal.signal(signal.SIGQUIT, lambda *_: print('stacks'))")
    async with run_mesh(plugin_table("slow", "-c", program, stop_timeout=0), short_dir) as watched:
        await watched.wait_for_line("deaf")
        await stop_slow_plugin(watched)
    assert lines(watched) == "deaf"
