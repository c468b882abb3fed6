"""Programs on a filesystem that does not answer, and programs that are no regular files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from meshtrio.config import Containment, MeshConfig, PluginConfig
from meshtrio.supervisor import events
from tests.support.hung_filesystem import mount_hung_filesystem
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import PLUGINS_DIRECTORY, START_METHOD

STEADY = PluginConfig(
    "steady", ["{python}", "-I", "-S", "minimal.py"], cwd=PLUGINS_DIRECTORY, ready_timeout=60.0
)


@pytest.mark.parametrize("where", ["program", "cwd", "sha256"])
async def test_a_filesystem_that_does_not_answer_keeps_neither_others_nor_the_end(
    where: str, short_dir: Path
) -> None:
    with mount_hung_filesystem(short_dir) as filesystem:
        folder = filesystem.folder
        match where:
            case "program":
                plugin = PluginConfig("p", [str(folder / "program")])
            case "cwd":
                command = ["{python}", "-c", "1"]
                plugin = PluginConfig("p", command, cwd=folder / "cwd", start=START_METHOD)
            case _:
                contained = Containment(sha256="0" * 64)
                plugin = PluginConfig("p", [str(folder / "program")], containment=contained)
        config = MeshConfig([plugin, STEADY])
        with trio.fail_after(60):
            async with run_mesh(config, short_dir) as watched:
                await watched.wait_for_event(events.Ready, plugin="steady")
                await watched.mesh.restart("steady")
                (state,) = [s.state for s in watched.mesh.instances() if s.name == "p"]
                assert state.value == "starting"
        assert watched.mesh.shutdown_report.stopped == ("steady/0",)


@pytest.mark.parametrize("kind", ["fifo", "device"])
async def test_a_program_that_is_no_regular_file_is_not_waited_for(
    kind: str, short_dir: Path
) -> None:
    program = short_dir / "program"
    if kind == "fifo":
        os.mkfifo(program, 0o755)
    elif os.geteuid() == 0:
        os.mknod(program, 0o20755, os.makedev(1, 5))  # /dev/zero
    else:
        pytest.skip("only root can make a device")
    contained = Containment(sha256="0" * 64)
    config = MeshConfig([PluginConfig("p", [str(program)], containment=contained)])
    async with run_mesh(config, short_dir) as watched:
        found = (await watched.wait_for_event(events.NotStarted)).event
        assert isinstance(found, events.NotStarted)
        assert "is not a regular file" in str(found.exit)
