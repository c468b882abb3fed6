"""Many: plugins at once, restarts one after another, and what a daemon leaves."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import pids_with_environment, plugin_table
from tests.support.proc import is_running, read_rss

MINIMAL = ["-I", "-S", "minimal.py"]
AT_ONCE = {"initial": 0.0, "jitter": 0.0}
KB = 1024


async def test_two_hundred_plugins_started_at_once(short_dir: Path) -> None:
    tables = (plugin_table(f"p{number}", *MINIMAL, stop_timeout=120.0) for number in range(200))
    config = "".join(tables)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=200)
        assert not watched.find_events(events.Exited)
        assert {status.restarts for status in watched.mesh.instances()} == {0}
    report = watched.mesh.shutdown_report
    assert (len(report.stopped), report.killed, report.unkillable) == (200, (), ())
    assert not pids_with_environment(f"PLUGIN_SOCKET={short_dir}/")


class Usage:
    """Resources of this process, and so of the mesh in it."""

    def __init__(self) -> None:
        gc.collect()
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.tasks = trio.lowlevel.current_statistics().tasks_living
        self.threads = threading.active_count()
        self.resident = read_rss()
        self.blocks = sys.getallocatedblocks()


@pytest.fixture
def logging_disabled() -> Iterator[None]:
    """pytest keeps each record of the log in memory, a kilobyte for each restart."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


async def kill_until(watched: RecordedMesh, restarts: int) -> None:
    """Kill the plugin whenever it is ready."""
    while watched.mesh.statistics().total.counts.restarts < restarts:
        ready = (await watched.wait_for_event(events.Ready)).event
        assert isinstance(ready, events.Ready)
        watched.events.clear()
        os.kill(ready.pid, signal.SIGKILL)
        await watched.wait_for_event(events.Restarting)
    await watched.wait_for_event(events.Ready)


@pytest.mark.long
@pytest.mark.usefixtures("logging_disabled")
async def test_a_thousand_restarts_leave_nothing_behind(short_dir: Path) -> None:
    config = plugin_table("p", *MINIMAL, backoff=AT_ONCE)
    async with run_mesh(config, short_dir) as watched:
        await kill_until(watched, 300)  # until the bounded logs are full
        before = Usage()
        await kill_until(watched, 1000)
        after = Usage()
        assert after.descriptors == before.descriptors
        assert after.tasks == before.tasks
        assert after.threads <= before.threads
        assert after.resident - before.resident < 500 * KB
        # trio keeps up to a thousand deadlines of scopes that have ended, of five blocks each.
        assert after.blocks - before.blocks < 5 * 1000 + 2 * (1000 - 300)
        (status,) = watched.mesh.instances()
        assert status.restarts == 1000


async def test_a_daemon_is_found_wherever_it_has_gone(short_dir: Path) -> None:
    """It leads a session of its own, and its parent is init: nothing ties it to its plugin."""
    config = plugin_table("p", *MINIMAL, "--daemon")
    async with run_mesh(config, short_dir) as watched:
        line = (await watched.wait_for_line("daemon")).event
        assert isinstance(line, events.LineWritten)
        daemon = int(line.line.split()[1])
        await watched.wait_for_event(events.Ready)
        await watched.mesh.stop("p")
        await watched.wait_for_event(events.Swept, count=1)
        with trio.fail_after(30):
            while is_running(daemon):
                await trio.lowlevel.checkpoint()
    assert not pids_with_environment(f"PLUGIN_SOCKET={short_dir}/")
