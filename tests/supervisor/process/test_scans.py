"""Scans of /proc are shared by concurrent callers, and run in a thread."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshtrio import contract
from meshtrio.supervisor.process.cleanup import leftover_killer
from meshtrio.supervisor.process.cleanup.leftover_killer import (
    LeftoverKiller,
    RunIdentity,
    get_boot_ticks,
)
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.proc_scanner import get_scanner, wait_for_group
from meshtrio.supervisor.process.proc.resource_usage import read_usage_by_group
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess

COUNT = 30
DRAINS = """
import os, signal, time

if os.fork() == 0:
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), os._exit(0)))
    os.write(1, b"x")
    while True:
        time.sleep(3600)
time.sleep(3600)
"""


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the thread of each listing of /proc."""
    found: list[int] = []
    listed = procfs.list_pids

    def pids() -> list[int]:
        found.append(threading.get_ident())
        return listed()

    monkeypatch.setattr(procfs, "list_pids", pids)
    return found


@asynccontextmanager
async def spawned(code: str, **env: str) -> AsyncIterator[PluginProcess]:
    process = await PluginProcess.spawn([sys.executable, "-I", "-S", "-c", code], env=env, cwd=None)
    try:
        await trio.to_thread.run_sync(os.read, process.stdout, 1)
        yield process
    finally:
        await process.stop(0)
        os.close(process.stdout)
        os.close(process.stderr)


async def test_plugins_that_stop_together_share_their_scans(looks: list[int]) -> None:
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(spawned(DRAINS)) for _ in range(COUNT)]
        del looks[:]
        async with trio.open_nursery() as nursery:
            for process in processes:
                nursery.start_soon(process.stop, 60)
        # One scan finds what a leader has left, another one what that has started meanwhile.
        assert 2 <= len(looks) <= 2 * COUNT + 2
        assert threading.get_ident() not in looks


async def test_callers_during_a_scan_share_the_next_one(looks: list[int]) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(COUNT):
            nursery.start_soon(get_scanner().read_stats)
            nursery.start_soon(read_usage_by_group)
    assert 1 <= len(looks) <= 2
    assert threading.get_ident() not in looks


async def test_a_scan_that_is_cancelled_is_made_again_for_others(looks: list[int]) -> None:
    found: list[int] = []

    async def look() -> None:
        found.extend(stat.pid for stat in await get_scanner().read_stats())

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()
            await get_scanner().read_stats()
        nursery.start_soon(look)
    assert os.getpid() in found


async def test_leftovers_of_many_plugins_are_killed_in_one_pass(
    looks: list[int], tmp_path: Path
) -> None:
    sweeper = LeftoverKiller(MeshRun(tmp_path))
    leaves = "import os, time; os.write(1, b'x'); time.sleep(3600)"
    async with AsyncExitStack() as stack:
        owners = []
        for _ in range(COUNT):
            launch_id, since = secrets.token_hex(8), get_boot_ticks()
            mark = {contract.MESH_LAUNCH_ID: launch_id}
            process = await stack.enter_async_context(spawned(leaves, **mark))
            owners.append((RunIdentity(launch_id, since), process))
        del looks[:]
        killed: list[int] = []

        async def sweep(owner: RunIdentity) -> None:
            killed.append((await sweeper.kill_leftovers(owner)).killed)

        async with trio.open_nursery() as nursery:
            for owner, _ in owners:
                nursery.start_soon(sweep, owner)
        assert killed == [1] * COUNT
        # One pass for the first one and one for all others; each scans until it finds none.
        assert len(looks) < COUNT
        assert threading.get_ident() not in looks
        for _, process in owners:
            await process.wait()
            assert process.returncode == -signal.SIGKILL


async def test_what_has_left_the_group_and_forgotten_its_environment_is_found_by_session(
    tmp_path: Path,
) -> None:
    launch_id, since = secrets.token_hex(8), get_boot_ticks()
    forgets = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setpgid(0, 0)\n"
        "    os.execve(sys.executable, [sys.executable, '-I', '-S', '-c',\n"
        "        'import os, time; os.write(1, b\"x\"); time.sleep(3600)'], {})\n"
        "time.sleep(3600)"
    )
    async with spawned(forgets, **{contract.MESH_LAUNCH_ID: launch_id}) as process:
        await process.stop(0)
        owner = RunIdentity(launch_id, since, process.pid, get_boot_ticks())
        assert (await LeftoverKiller(MeshRun(tmp_path)).kill_leftovers(owner)).killed == 1


def test_a_session_that_was_begun_later_is_another_ones() -> None:
    (own,) = (stat for stat in procfs.iter_stats() if stat.pid == os.getpid())
    assert RunIdentity("x", 0, own.session, get_boot_ticks() + 1).has_in_session(own)
    assert not RunIdentity("x", 0, own.session, own.start_ticks).has_in_session(own)
    assert not RunIdentity("x", 0, None).has_in_session(own)


async def test_a_group_in_a_cgroup_is_waited_for_without_a_scan(
    looks: list[int], tmp_path: Path
) -> None:
    """For a cgroup only its own list of processes is read."""
    async with spawned("import os, time; os.write(1, b'x'); time.sleep(3600)") as process:
        (tmp_path / "cgroup.procs").write_text(f"{process.pid}\n{2**22 + 1}\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_group, process.pid, tmp_path)
            await trio.testing.wait_all_tasks_blocked(0.05)
            os.kill(process.pid, signal.SIGKILL)
    assert looks == []


async def test_an_environment_that_cannot_be_read_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Reading it takes a lock of the process, which the kernel may hold indefinitely."""
    leaves = "import os, time; os.write(1, b'x'); time.sleep(3600)"
    since, launch_id, over = get_boot_ticks(), secrets.token_hex(8), threading.Event()
    read = leftover_killer.read_proc_file
    async with (
        spawned(leaves) as odd,
        spawned(leaves, **{contract.MESH_LAUNCH_ID: launch_id}) as process,
    ):

        def read_when_over(pid: int, file: str) -> bytes:
            if pid == odd.pid:
                over.wait()
            return read(pid, file)

        monkeypatch.setattr(leftover_killer, "read_proc_file", read_when_over)
        sweeper = LeftoverKiller(MeshRun(tmp_path), pass_timeout=2.0)
        assert (await sweeper.kill_leftovers(RunIdentity(launch_id, since))).killed == 1
        await process.wait()
        assert f"cannot read the environment of pid {odd.pid}" in caplog.text
        # It is skipped from then on.
        caplog.clear()
        assert (await sweeper.kill_leftovers(RunIdentity(launch_id, since))).killed == 0
        assert not caplog.text
        over.set()
