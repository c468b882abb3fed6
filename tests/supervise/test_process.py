"""One real process and its group."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshtrio.supervise.process import Process

IGNORING = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
)
SLEEPING = "import time; print(1, flush=True); time.sleep(99)"


@asynccontextmanager
async def spawned(code: str, *, until_it_speaks: bool = True) -> AsyncIterator[Process]:
    process = await Process.spawn([sys.executable, "-c", code], env=os.environ, cwd=None)
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


async def test_what_cannot_be_started(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        await Process.spawn([str(tmp_path / "none")], env={}, cwd=None)
    assert set(os.listdir("/proc/self/fd")) - before == set()


async def test_no_descriptor_is_left() -> None:
    async with spawned("exit(0)", until_it_speaks=False) as process:
        await process.wait()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with spawned("exit(0)", until_it_speaks=False) as process:
            await process.wait()
    assert len(os.listdir("/proc/self/fd")) == before
