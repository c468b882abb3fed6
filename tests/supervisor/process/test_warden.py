"""A warden exits only when nothing is left to watch."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import trio

from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.cleanup.warden import Warden
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess

SLEEPS = [sys.executable, "-c", "import time; time.sleep(3600)"]


async def test_what_is_left_is_killed_when_the_mesh_lets_go_of_its_warden(short_dir: Path) -> None:
    """This happens if an exception ends the mesh before it has stopped a plugin."""
    warden = Warden(MeshRun(short_dir))
    with trio.fail_after(60):
        process = await PluginProcess.spawn(SLEEPS, env={}, cwd=None)
        copy = -1
        async with trio.open_nursery() as nursery:
            await nursery.start(warden.run)
            # A fork of this process holds the mesh's end of the socket as well.
            assert warden._socket is not None
            copy = os.dup(warden._socket.fileno())
            warden.watch(process.pid, process.pidfd)
            nursery.cancel_scope.cancel()
        await process.wait()
        os.close(copy)
    assert process.returncode == -signal.SIGKILL
    os.close(process.stdout)
    os.close(process.stderr)


async def test_a_plugin_that_was_reaped_is_not_watched(short_dir: Path) -> None:
    warden = Warden(MeshRun(short_dir))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(warden.run)
            process = await PluginProcess.spawn(SLEEPS, env={}, cwd=None)
            warden.watch(process.pid, process.pidfd)
            await process.stop(0)
            process.reap_later(lambda: warden.unwatch(process.pid))
            assert warden.watched == {}
            nursery.cancel_scope.cancel()
    os.close(process.stdout)
    os.close(process.stderr)
