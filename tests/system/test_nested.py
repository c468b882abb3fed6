"""A mesh inside a plugin of another: nothing of either is left, however the outer one ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.programs import ROOT, Served, carrying, children, plugin, served, until

WITHIN = 10.0
"""Seconds in which the wardens, one after the other, have to have killed everything."""
PER_MESH = 6
"""Two instances of the plugin, each with a child in its group and one in a session of its own."""


def nested(folder: Path, depth: int, **settings: object) -> str:
    command = ["mesh_inside.py", f"{folder}/i", str(depth)]
    return plugin("mesh", *command, ready_timeout=3600, **settings)


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    left = [pid]
    while left:
        below = children(left.pop())
        found.update(below)
        left += below
    return found


def everything(mesh: Served, folder: Path, depth: int) -> set[int]:
    """All processes of a mesh and of those inside it, once they all run."""
    runtime_dirs = [f"{folder}/{'i' * (level + 1)}" for level in range(depth)]
    inner = [f"PLUGIN_SOCKET={runtime_dir}/inner" for runtime_dir in runtime_dirs]
    until(lambda: all(len(carrying(mark)) == PER_MESH for mark in inner))
    found = descendants(mesh.process.pid)
    for mark in (f"PLUGIN_SOCKET={mesh.folder}/", *inner):
        found.update(carrying(mark))
    return found


def wait_until_ended(pidfds: dict[int, int]) -> None:
    poll = select.poll()
    for pidfd in pidfds.values():
        poll.register(pidfd, select.POLLIN)
    left = set(pidfds.values())
    while left:
        ended = poll.poll(WITHIN * 1000)
        names = {pid: Path(f"/proc/{pid}/cmdline") for pid, fd in pidfds.items() if fd in left}
        assert ended, {pid: path.read_bytes() for pid, path in names.items() if path.exists()}
        for pidfd, _ in ended:
            poll.unregister(pidfd)
            left.discard(pidfd)


@contextmanager
def held(pids: set[int]) -> Iterator[dict[int, int]]:
    """A pidfd of each; what a failed test would leave is killed."""
    pidfds = {pid: os.pidfd_open(pid) for pid in pids}
    try:
        yield pidfds
    finally:
        for pidfd in pidfds.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


@pytest.mark.parametrize("depth", [1, 2])
def test_killing_the_outer_mesh_leaves_nothing_of_the_inner_ones(
    depth: int, short_dir: Path
) -> None:
    with served(short_dir, nested(short_dir, depth)) as mesh:
        with held(everything(mesh, short_dir, depth)) as pidfds:
            # Of each mesh inside: itself, its warden, and its plugins with what they started;
            # and the warden of the outer mesh.
            assert len(pidfds) == 1 + depth * (2 + PER_MESH)
            mesh.process.send_signal(signal.SIGKILL)
            wait_until_ended(pidfds)


def test_an_inner_mesh_that_is_killed_by_its_outer_leaves_nothing(short_dir: Path) -> None:
    """As one that does not stop in time: there is no time at all."""
    with served(short_dir, nested(short_dir, 1, stop_timeout=0)) as mesh:
        with held(everything(mesh, short_dir, 1)) as pidfds:
            assert mesh.stop() == 0
            wait_until_ended(pidfds)


def test_wardens_have_a_clean_environment(short_dir: Path) -> None:
    with served(short_dir, nested(short_dir, 1)) as mesh:
        everything(mesh, short_dir, 1)
        wardens = [
            pid
            for pid in descendants(mesh.process.pid)
            if b"warden_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(wardens) == 2
        for pid in wardens:
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            names = {entry.partition(b"=")[0] for entry in entries}
            # What the interpreter itself adds, where the locale is C (PEP 538).
            assert names <= {b"", b"LD_LIBRARY_PATH", b"LC_CTYPE"}
            assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_a_nested_mesh_without_a_runtime_dir_says_what_to_do(short_dir: Path) -> None:
    (short_dir / "inner.toml").write_text('[[plugin]]\nname = "p"\ncommand = ["true"]\n')
    command = ["-m", "meshtrio", "serve", f"{short_dir}/inner.toml"]
    environment = {"XDG_RUNTIME_DIR": str(short_dir / "xdg")}
    config = plugin("nested", *command, cwd=ROOT, env=environment, restart="never")
    (short_dir / "mesh.toml").write_text(config)
    (short_dir / "xdg").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "meshtrio", "serve", str(short_dir / "mesh.toml")],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "runs here" in line:
                assert f"the mesh (pid {process.pid}) that started this program" in line
                assert "as its plugin 'nested'" in line
                assert "a runtime dir of its own: use --runtime-dir" in line
                break
        else:
            pytest.fail("it ended without a word")
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(20) == 0
