"""A mesh inside a plugin of another: nothing of either is left, however the outer one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mesh_processes import ROOT, plugin_table, serve_mesh
from tests.support.process_tracking import (
    PROCESSES_PER_MESH,
    descendant_pids,
    hold_pidfds,
    nested_mesh_pids,
    nested_mesh_table,
    template_pids,
    wait_until_ended,
)


@pytest.mark.parametrize("depth", [1, 2])
def test_killing_the_outer_mesh_leaves_nothing_of_the_inner_ones(
    depth: int, short_dir: Path
) -> None:
    with serve_mesh(short_dir, nested_mesh_table(short_dir, depth)) as mesh:
        with hold_pidfds(nested_mesh_pids(mesh, short_dir, depth)) as pidfds:
            # Of each mesh inside: itself, its warden, and its plugins with what they started;
            # and the warden of the outer mesh, and its template if there is one.
            own = 1 + len(template_pids(mesh.process.pid))
            assert len(pidfds) == own + depth * (2 + PROCESSES_PER_MESH)
            mesh.process.send_signal(signal.SIGKILL)
            wait_until_ended(pidfds)


def test_an_inner_mesh_that_is_killed_by_its_outer_leaves_nothing(short_dir: Path) -> None:
    """As one that does not stop in time: there is no time at all."""
    with serve_mesh(short_dir, nested_mesh_table(short_dir, 1, stop_timeout=0)) as mesh:
        with hold_pidfds(nested_mesh_pids(mesh, short_dir, 1)) as pidfds:
            assert mesh.stop() == 0
            wait_until_ended(pidfds)


def test_wardens_have_a_clean_environment(short_dir: Path) -> None:
    with serve_mesh(short_dir, nested_mesh_table(short_dir, 1)) as mesh:
        nested_mesh_pids(mesh, short_dir, 1)
        wardens = [
            pid
            for pid in descendant_pids(mesh.process.pid)
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
    config = plugin_table("nested", *command, cwd=ROOT, env=environment, restart="never")
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
