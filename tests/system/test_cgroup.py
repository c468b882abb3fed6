"""Control groups, in a hierarchy the tests mount: nothing a plugin starts can leave its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from meshtrio.supervisor import events
from meshtrio.util.errors import ConfigError
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import echo_plugin_table, plugin_table, serve_mesh, wait_until
from tests.support.proc import is_running
from tests.support.process_tracking import (
    has_ended,
    hold_pidfds,
    template_pids,
    wait_until_ended,
    warden_pids,
)

MIB = 1024 * 1024
ESCAPING = ["-I", "-S", "minimal.py", "--daemon", "--without-environment"]


@pytest.fixture
def cgroup(short_dir: Path) -> Iterator[Path]:
    """A cgroup of our own, with no process in it."""
    mounted = short_dir / "cg"
    mounted.mkdir()
    done = subprocess.run(["mount", "-t", "cgroup2", "none", mounted], check=False)
    if done.returncode != 0:
        pytest.skip("a cgroup2 filesystem cannot be mounted here")
    ours = mounted / f"meshtrio-tests-{os.getpid()}"
    ours.mkdir()
    try:
        yield ours
        ours.rmdir()
    finally:
        subprocess.run(["umount", mounted], check=True)


pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a cgroup2 filesystem")


def config(cgroup: Path, *tables: str) -> str:
    return "\n".join([f'[mesh]\ncgroup = "{cgroup}"\n', *tables])


async def test_a_daemon_without_the_environment_is_killed_too(
    short_dir: Path, cgroup: Path
) -> None:
    async with run_mesh(config(cgroup, plugin_table("p", *ESCAPING)), short_dir) as watched:
        line = (await watched.wait_for_line("daemon")).event
        assert isinstance(line, events.LineWritten)
        daemon = int(line.line.split()[1])
        ready = (await watched.wait_for_event(events.Ready)).event
        assert isinstance(ready, events.Ready)
        (own,) = [entry for entry in cgroup.iterdir() if entry.is_dir()]
        members = {int(pid) for pid in (own / "cgroup.procs").read_text().split()}
        assert members == {daemon, ready.pid}
        os.kill(ready.pid, signal.SIGKILL)
        swept = (await watched.wait_for_event(events.Swept)).event
        assert isinstance(swept, events.Swept)
        assert swept.count == 1
        with trio.fail_after(30):
            while is_running(daemon):
                await trio.lowlevel.checkpoint()
        assert not own.exists()
    assert not [entry for entry in cgroup.iterdir() if entry.is_dir()]


def test_it_dies_with_a_mesh_that_is_killed(short_dir: Path, cgroup: Path) -> None:
    with serve_mesh(short_dir, config(cgroup, plugin_table("p", *ESCAPING)), min_ready=1) as mesh:
        mesh.wait_for_log("daemon ")
        daemon = int(mesh.log.partition("daemon ")[2].split()[0])
        assert is_running(daemon)
        mesh.process.kill()
        wait_until(lambda: not is_running(daemon))
    # The next one removes what the first has left.
    with serve_mesh(short_dir, config(cgroup), min_ready=0) as mesh:
        assert not [entry for entry in cgroup.iterdir() if entry.is_dir()]
        assert mesh.stop() == 0


async def test_the_kernel_holds_it_to_its_memory(short_dir: Path, cgroup: Path) -> None:
    if "memory" not in (cgroup / "cgroup.controllers").read_text().split():
        pytest.skip("there is no memory controller in this hierarchy")
    hungry = plugin_table(
        "p", "memory_hog.py", "200", restart="never", containment={"memory": 100 * MIB}
    )
    async with run_mesh(config(cgroup, hungry), short_dir) as watched:
        ended = (await watched.wait_for_event(events.GaveUp)).event
        assert isinstance(ended, events.GaveUp)
        assert "memory" in ended.exit.reason


async def test_a_folder_that_is_no_cgroup_is_refused(short_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"cgroup: .* cannot be used: .*cgroup.controllers"):
        async with run_mesh(config(short_dir, plugin_table("p", "minimal.py")), short_dir):
            pass


async def test_a_folder_that_another_mesh_uses_is_refused(short_dir: Path, cgroup: Path) -> None:
    """Or its plugins would be killed as what an earlier mesh has left."""
    (short_dir / "other").mkdir()
    quick = plugin_table("p", "-I", "-S", "minimal.py")
    for _ in range(2):  # and is free again afterwards
        async with run_mesh(config(cgroup, quick), short_dir) as watched:
            await watched.wait_for_event(events.Ready)
            with pytest.raises(ConfigError, match="is used by another mesh"):
                async with run_mesh(config(cgroup, quick), short_dir / "other"):
                    pass
            assert not watched.find_events(events.Exited)


def test_a_warden_that_was_held_up_leaves_the_cgroups_of_the_next_mesh(
    short_dir: Path, cgroup: Path
) -> None:
    """That has another runtime dir, and the same folder for its cgroups."""
    text = config(cgroup, plugin_table("p", "-I", "-S", "minimal.py"))
    with serve_mesh(short_dir, text, min_ready=1) as mesh:
        (warden,) = warden_pids(mesh.process.pid)
        with hold_pidfds([warden, mesh.ps()[0]["pid"]]) as old:
            os.kill(warden, signal.SIGSTOP)
            mesh.process.kill()
            mesh.process.wait()
            (short_dir / "other").mkdir()
            with serve_mesh(short_dir / "other", text, min_ready=1) as successor:
                with hold_pidfds([successor.ps()[0]["pid"]]) as pidfds:
                    assert not has_ended(old[warden])
                    os.kill(warden, signal.SIGCONT)
                    wait_until_ended(old)
                    assert not any(map(has_ended, pidfds.values()))
                    assert successor.stop() == 0


async def test_a_forked_plugin_is_in_a_cgroup_of_its_own(short_dir: Path, cgroup: Path) -> None:
    plugins = echo_plugin_table(start="fork", instances=2)
    async with run_mesh(config(cgroup, plugins), short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
        (template,) = template_pids(os.getpid())
        pids = {each.pid for each in watched.mesh.instances()} | {template}
        members = {path.read_text().strip() for path in cgroup.glob("*/cgroup.procs")}
        assert members == set(map(str, pids))
    assert not list(cgroup.glob("*/cgroup.procs"))
