"""A real process and its process group: spawn, wait, stop."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess

IGNORING = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
)
SLEEPING = "import time; print(1, flush=True); time.sleep(99)"


@asynccontextmanager
async def spawned(code: str, *, until_it_speaks: bool = True) -> AsyncIterator[PluginProcess]:
    process = await PluginProcess.spawn([sys.executable, "-c", code], env=os.environ, cwd=None)
    try:
        if until_it_speaks:
            await trio.to_thread.run_sync(os.read, process.stdout, 1)
        yield process
    finally:
        if process.returncode is None:
            await process.stop(0)
        os.close(process.stdout)
        os.close(process.stderr)


async def test_it_leads_a_group_and_session_of_its_own() -> None:
    async with spawned(SLEEPING) as process:
        assert os.getpgid(process.pid) == process.pid
        assert os.getsid(process.pid) == process.pid


@pytest.mark.parametrize(
    ("code", "expected"), [("exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)]
)
async def test_how_it_ended(code: str, expected: int) -> None:
    async with spawned(code, until_it_speaks=False) as process:
        await process.wait()
        assert process.returncode == expected
        await process.wait()


async def test_stop_asks_first() -> None:
    async with spawned(SLEEPING) as process:
        assert await process.stop(10) is False
        assert process.returncode == -signal.SIGTERM


async def test_stop_kills_what_does_not_listen() -> None:
    async with spawned(IGNORING) as process:
        assert await process.stop(0.05) is True
        assert process.returncode == -signal.SIGKILL


async def test_a_cancelled_stop_kills_at_once() -> None:
    async with spawned(IGNORING) as process:
        with trio.move_on_after(0.05):
            await process.stop(60)
        assert process.returncode == -signal.SIGKILL


async def test_nothing_is_signalled_after_it_was_reaped() -> None:
    async with spawned("exit(0)", until_it_speaks=False) as process:
        await process.wait()
        process.signal_group(signal.SIGKILL)
        assert await process.stop(1) is False


async def test_a_process_that_other_code_has_reaped_has_no_status() -> None:
    async with spawned("exit(0)", until_it_speaks=False) as process:
        await trio.to_thread.run_sync(os.waitpid, process.pid, 0)
        # Its pid may have been reused.
        process.signal_group(signal.SIGKILL)
        await process.wait()
        assert (process.has_exited, process.is_reaped, process.returncode) == (True, True, None)


async def test_what_cannot_be_started(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        await PluginProcess.spawn([str(tmp_path / "none")], env={}, cwd=None)
    assert set(os.listdir("/proc/self/fd")) - before == set()


async def test_no_descriptor_is_left() -> None:
    async with spawned("exit(0)", until_it_speaks=False) as process:
        await process.wait()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with spawned("exit(0)", until_it_speaks=False) as process:
            await process.wait()
    assert len(os.listdir("/proc/self/fd")) == before


DRAINING = """
import signal, sys, time

def drain(*_):
    time.sleep(0.2)
    print("drained", flush=True)
    sys.exit()

signal.signal(signal.SIGTERM, drain)
print(1, flush=True)
time.sleep(99)
"""
WRAPPED = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {DRAINING!r}])"


async def test_stop_gives_the_whole_group_the_grace_period() -> None:
    """The leader exits at once, while its child is still draining."""
    async with spawned(WRAPPED) as process:
        assert await process.stop(10) is False
        output = await trio.to_thread.run_sync(os.read, process.stdout, 100)
        assert b"drained" in output


async def test_a_process_that_cannot_be_watched_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[int] = []

    def out_of_descriptors(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", out_of_descriptors)
    with pytest.raises(OSError, match="Too many"):
        await PluginProcess.spawn([sys.executable, "-c", SLEEPING], env=os.environ, cwd=None)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
