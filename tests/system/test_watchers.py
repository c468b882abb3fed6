"""1,000 watchers of a service that changes 100 times a second."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import trio

from meshtrio import mesh
from tests import ROOT
from tests.support.mesh_processes import MeshProcess, serve_mesh
from tests.support.proc import read_rss
from tests.support.scheduling_delay import SchedulingDelay
from tests.support.servers import serve_on_socket

PROCESSES, EACH, SLOW = 5, 200, 40
CHANGES, A_SECOND = 500, 100
MEMORY_FOR_EACH = 64 * 1024
"""Bytes of the mesh's for one watcher, of which most is its stream and its task."""


def start_watchers(running: MeshProcess, stack: ExitStack) -> list[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "tests.support.watching_clients",
        "thing",
        str(EACH),
        str(SLOW),
    ]
    pipe = subprocess.PIPE
    started = [
        stack.enter_context(
            subprocess.Popen(
                command, cwd=ROOT, env=running.environment, stdin=pipe, stdout=pipe, text=True
            )
        )
        for _ in range(PROCESSES)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
    return started


async def change_repeatedly(socket: Path, own: Path) -> list[float]:
    """Register and deregister an endpoint repeatedly; returns how long requests took meanwhile."""
    took = []
    period = 2 / A_SECOND
    async with serve_on_socket(own):
        for number in range(CHANGES // 2):
            due = trio.current_time() + period
            async with mesh.register("thing", own, mesh_socket=socket, weight=1 + number % 5):
                await trio.sleep_until(due)
            if number % 25 == 0:
                began = time.perf_counter()
                async with mesh.connect("thing", mesh_socket=socket):
                    took.append(time.perf_counter() - began)
    return took


async def read_last_states(
    socket: Path, own: Path, processes: list[subprocess.Popen[str]]
) -> list[tuple[int, list[int]]]:
    """Return the last state of each watcher."""
    async with mesh.register("thing", own, mesh_socket=socket, weight=7):
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        found = []
        with trio.fail_after(60):
            for process in processes:
                out, _ = await trio.to_thread.run_sync(process.communicate)
                found += json.loads(out)
        return found


def test_all_come_to_the_same_state_and_the_mesh_stays_small(short_dir: Path) -> None:
    config = '[[service]]\nname = "thing"\n'
    with serve_mesh(short_dir, config) as running, ExitStack() as stack:
        before = read_rss(running.process.pid)
        processes = start_watchers(running, stack)
        own = short_dir / "own"
        began = time.monotonic()
        with SchedulingDelay() as late:
            took = trio.run(change_repeatedly, running.socket, own)
        seconds = time.monotonic() - began
        grown = read_rss(running.process.pid) - before
        found = trio.run(read_last_states, running.socket, own, processes)
    assert [tuple(weights) for _, weights in found] == [(7,)] * (PROCESSES * EACH)
    # They were told of some changes, and not of each: an update is a snapshot, not a queue.
    most = max(count for count, _ in found)
    assert 2 <= most < CHANGES
    assert grown < PROCESSES * EACH * MEMORY_FOR_EACH
    # Nobody else was kept waiting, nor were the changes themselves.
    assert max(took) < 1.0 + late.allowance
    assert seconds < 2 * CHANGES / A_SECOND + CHANGES * late.allowance
