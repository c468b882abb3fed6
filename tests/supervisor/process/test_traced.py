"""Processes that exit while they are traced stay zombies for their tracer."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from meshtrio.supervisor.process.cleanup import zombie_reaper
from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from tests.support.mesh_processes import wait_until
from tests.support.ptrace import trace_tasks

SLEEPS = "import time; print(1, flush=True); time.sleep(3600)"


async def spawned(code: str) -> PluginProcess:
    process = await PluginProcess.spawn([sys.executable, "-c", code], env=os.environ, cwd=None)
    await trio.to_thread.run_sync(os.read, process.stdout, 1)
    return process


def close(process: PluginProcess) -> None:
    os.close(process.stdout)
    os.close(process.stderr)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_process_that_ends_while_it_is_traced_blocks_nothing(number: int) -> None:
    process = await spawned(SLEEPS)
    with trace_tasks(process.pid) as tracer, trio.fail_after(60):
        # SIGTERM stops a traced process until its tracer continues it, so that SIGKILL is needed.
        os.kill(process.pid, number)
        await process.stop(0.1)
        assert process.has_exited
        assert not process.is_reaped
        assert process.returncode == -signal.SIGKILL
        assert process.tracer is not None
        assert process.tracer.pid == tracer.pid
        assert "python" in str(process.tracer)
        reaped = trio.Event()
        process.reap_later(reaped.set)
        async with trio.open_nursery() as nursery:
            await nursery.start(zombie_reaper.run_zombie_reaper)
            tracer.kill()
            await reaped.wait()
            nursery.cancel_scope.cancel()
    assert procfs.read_stat(process.pid) is None
    close(process)


async def test_the_exit_status_is_known_nevertheless(tmp_path: Path) -> None:
    wait = f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.005)"
    process = await spawned(f"import os, time; print(1, flush=True)\n{wait}\nos._exit(7)")
    with trace_tasks(process.pid), trio.fail_after(60):
        (tmp_path / "go").touch()
        await process.wait()
        assert (process.returncode, process.is_reaped) == (7, False)
    wait_until(process.try_reap)
    assert process.returncode == 7
    close(process)


async def test_a_process_whose_threads_are_traced_is_left_to_its_tracer() -> None:
    """Its exit is not reported before the tracer has waited for each thread."""
    threads = "import threading, time; threading.Thread(target=time.sleep, args=(3600,)).start()"
    process = await spawned(f"{threads}\nprint(1, flush=True)")
    wait_until(lambda: len(os.listdir(f"/proc/{process.pid}/task")) == 2)
    main, other = sorted(map(int, os.listdir(f"/proc/{process.pid}/task")))
    with trace_tasks(main, other) as tracer:
        found = procfs.find_tracer(process.pid)
        assert found is not None
        assert found.pid == tracer.pid
        os.kill(process.pid, signal.SIGKILL)
    with trio.fail_after(60):
        await process.wait()
    assert process.returncode == -signal.SIGKILL
    close(process)
