"""A program that embeds a mesh and fails: no plugin outlives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    ROOT,
    pids_with_environment,
    wait_until,
)

PROGRAM = """
import sys, trio
from pathlib import Path
from meshtrio import mesh
from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.supervisor import events

how = sys.argv[3]
minimal = ["{python}", "-I", "-S", "minimal.py"]
plugins = [PluginConfig(n, minimal, cwd=Path(sys.argv[2]), ready_timeout=60.0) for n in ("a", "b")]

def subscriber(event):
    if how == "subscriber" or how == "exit" and isinstance(event, events.Ready):
        raise ValueError("of a subscriber") if how == "subscriber" else SystemExit(9)

async def main():
    async with trio.open_nursery() as nursery:
        running = await nursery.start(mesh.main, MeshConfig(plugins, runtime_dir=Path(sys.argv[1])))
        running.subscribe(subscriber)
        while {each.state.value for each in running.instances()} != {"ready"}:
            await trio.sleep(0.01)
        print("ready", flush=True)
        if how == "task":
            raise ValueError("of another task")
        if how == "exit":
            await trio.sleep_forever()
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.mark.parametrize(
    ("how", "status", "error"),
    [
        ("subscriber", 0, "ValueError: of a subscriber"),
        ("task", 1, "ValueError: of another task"),
        # In a group, as all that leaves a nursery.
        ("exit", 1, "SystemExit: 9"),
    ],
)
def test_nothing_is_left(how: str, status: int, error: str, short_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(short_dir / "run"), str(PLUGINS_DIRECTORY), how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert error in done.stderr
    assert not pids_with_environment(f"PLUGIN_SOCKET={short_dir}/")
    if how == "subscriber":
        assert "subscriber of lifecycle events raised" in done.stderr
        assert done.stdout == "ready\n"
    wait_until(lambda: not (short_dir / "run" / "mesh.sock").exists())
