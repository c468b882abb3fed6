"""Children of the mesh that it has not started: what is watched of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import ROOT

REUSED_PID = """
import os, subprocess, sys, trio
from pathlib import Path
from meshtrio.supervisor.process.cleanup import reparented
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.cleanup.warden import Warden

async def main():
    mesh_run = MeshRun(Path(sys.argv[1]))
    warden = Warden(mesh_run)
    async with trio.open_nursery() as nursery:
        await nursery.start(reparented.ReparentedProcesses(mesh_run, warden).run)
        left = subprocess.Popen(["sleep", "3600"])
        warden.unwatch(0)  # Children are listed when a plugin has exited.
        assert list(warden.watched) == [left.pid]
        left.kill()
        left.wait()
        plugin = os.pidfd_open(os.getpid())
        warden.watch(left.pid, plugin)
        warden.unwatch(0)
        print(warden.watched == {left.pid: plugin})
        nursery.cancel_scope.cancel()

reparented.become_subreaper()
trio.run(main)
"""


def test_a_plugin_that_has_the_pid_of_a_reparented_process_is_watched(short_dir: Path) -> None:
    command = [sys.executable, "-c", REUSED_PID, str(short_dir)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=60)
    assert done.stdout == b"True\n"


LOST_MARK = """
import subprocess, sys, trio
from pathlib import Path
from meshtrio.supervisor.process.cleanup import reparented
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.cleanup.warden import Warden

# It gets rid of its environment when it is told to, and then says so.
PROGRAM = 'read line; exec env -i sh -c "echo lost; exec sleep 3600"'

async def main():
    mesh_run = MeshRun(Path(sys.argv[1]))
    warden = Warden(mesh_run)
    async with trio.open_nursery() as nursery:
        await nursery.start(reparented.ReparentedProcesses(mesh_run, warden).run)
        left = subprocess.Popen(
            ["sh", "-c", PROGRAM],
            env={"MESH_ID": mesh_run.id, "PATH": "/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        warden.unwatch(0)  # Children are listed when a plugin has exited.
        assert list(warden.watched) == []
        left.stdin.write(b"now\\n")
        left.stdin.flush()
        assert left.stdout.readline() == b"lost\\n"
        warden.unwatch(0)
        print(list(warden.watched) == [left.pid])
        left.kill()
        left.wait()
        nursery.cancel_scope.cancel()

reparented.become_subreaper()
trio.run(main)
"""


def test_a_process_that_gets_rid_of_its_mark_after_it_was_seen_is_watched(short_dir: Path) -> None:
    command = [sys.executable, "-c", LOST_MARK, str(short_dir)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=60)
    assert done.stdout == b"True\n"
