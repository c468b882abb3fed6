"""`serve --reload`: files change, and the mesh goes over to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from watchfiles import Change

from meshtrio.cli.auto_reload import ReloadFilter
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    MeshProcess,
    plugin_table,
    wait_until,
)

PLUGIN = (PLUGINS_DIRECTORY / "minimal.py").read_text()


@contextmanager
def serve_with_reload(folder: Path, config: str) -> Iterator[MeshProcess]:
    """Serve a config with --reload; yields once files are watched."""
    (folder / "mesh.toml").write_text(config)
    log = folder / "log"
    command = [sys.executable, "-m", "meshtrio", "serve", "--reload", str(folder / "mesh.toml")]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--runtime-dir", str(folder / "run")], stderr=out, start_new_session=True
        )
    mesh = MeshProcess(process, folder / "run", log)
    try:
        mesh.wait_for_log("watching files")
        mesh.wait_for_log("ready after")
        yield mesh
    finally:
        process.kill()
        process.wait()
        wait_until(lambda: not mesh.plugin_pids())


def replace_file(path: Path, text: str) -> None:
    """Replace a file atomically, as many editors do."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(text)
    unfinished.replace(path)


def ready_pids(mesh: MeshProcess) -> list[int]:
    return [row["pid"] for row in mesh.ps() if row["state"] == "ready"]


def test_a_plugin_is_renewed_when_its_files_change(short_dir: Path) -> None:
    source = short_dir / "code" / "plugin.py"
    source.parent.mkdir()
    source.write_text(PLUGIN)
    with serve_with_reload(short_dir, plugin_table("p", "plugin.py", cwd=source.parent)) as mesh:
        (first,) = ready_pids(mesh)

        replace_file(source, "raise RuntimeError('broken')\n")
        mesh.wait_for_log("p: plugin.py changed")
        mesh.wait_for_log(
            "p was not restarted: the replacement of p/0 exited with status 1; last stderr line"
        )
        mesh.wait_for_log("RuntimeError: broken; the active process keeps running")
        assert ready_pids(mesh) == [first]

        # What it writes itself is no change of it.
        (source.parent / "its.log").write_text("a line")
        replace_file(source, PLUGIN)
        mesh.wait_for_log(f"p/0: stopped, pid {first} ")
        (second,) = ready_pids(mesh)
        assert second != first
        assert "its.log" not in mesh.log

        replace_file(short_dir / "mesh.toml", "[[plugins]]\n")
        mesh.wait_for_log("plugins: is not a key")
        mesh.wait_for_log("keeping the current config")
        config = plugin_table("p", "plugin.py", cwd=source.parent)
        replace_file(
            short_dir / "mesh.toml", config + plugin_table("q", "plugin.py", cwd=source.parent)
        )
        mesh.wait_for_log("reloaded mesh.toml: added q")
        assert second in ready_pids(mesh)
        assert len(ready_pids(mesh)) == 2
        assert mesh.stop() == 0


def test_a_forked_plugin_is_renewed_when_a_module_of_its_template_changes(short_dir: Path) -> None:
    folder = short_dir / "code"
    folder.mkdir()
    (folder / "plugin.py").write_text(f"import helper\nhelper.report()\n{PLUGIN}")
    (folder / "helper.py").write_text("def report(): print('version 1', flush=True)\n")
    config = plugin_table("p", "plugin.py", cwd=folder, start="fork", preload=["helper"])
    with serve_with_reload(short_dir, config) as mesh:
        mesh.wait_for_log("version 1")

        # The successor is started by exec, fails for the same reason, and is given up.
        replace_file(folder / "helper.py", "raise RuntimeError('broken')\n")
        mesh.wait_for_log("not by fork: importing helper failed: RuntimeError: broken")
        mesh.wait_for_log("RuntimeError: broken; the active process keeps running")
        assert [row["start"] for row in mesh.ps()] == ["fork"]

        replace_file(folder / "helper.py", "def report(): print('version 2', flush=True)\n")
        mesh.wait_for_log("version 2")
        wait_until(lambda: "stopped, pid" in mesh.log)
        replace_file(folder / "helper.py", "def report(): print('version 3', flush=True)\n")
        mesh.wait_for_log("version 3")
        wait_until(lambda: mesh.log.count("stopped, pid") == 2)
        assert mesh.stop() == 0


def test_a_plugin_that_has_given_up_is_started_when_its_files_change(short_dir: Path) -> None:
    source = short_dir / "code" / "plugin.py"
    source.parent.mkdir()
    source.write_text("raise SystemExit(3)\n")
    config = plugin_table("p", "plugin.py", cwd=source.parent, restart="never") + plugin_table(
        "other", str(PLUGINS_DIRECTORY / "minimal.py")
    )
    with serve_with_reload(short_dir, config) as mesh:
        mesh.wait_for_log("not restarted (restart policy)")
        replace_file(source, PLUGIN)
        mesh.wait_for_log("p/0: ready after")


def test_without_watchfiles_the_extra_is_named(short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text("")
    program = "import sys; sys.modules['watchfiles'] = None; from meshtrio.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", program, "serve", "--reload", str(short_dir / "mesh.toml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.returncode == 2
    assert found.stderr == ("meshtrio: --reload needs watchfiles: pip install 'meshtrio[reload]'\n")


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("/code/plugin.py", True),
        ("/code/data.json", True),
        ("/code/.venv/lib/x.py", False),
        ("/code/__pycache__/plugin.cpython-311.pyc", False),
        ("/code/out.log", False),
        ("/code/state.sqlite3-journal", False),
        ("/run/p-0.sock", False),
        ("/run/other", False),
        ("/code/mesh.toml", False),
    ],
)
def test_what_counts_as_a_change(path: str, counts: bool) -> None:
    ignored = ReloadFilter.for_mesh(Path("/run"), Path("/code/mesh.toml"))
    assert ignored(Change.modified, path) is counts


def test_a_process_in_the_place_of_an_instance_is_left_there(short_dir: Path) -> None:
    """Whoever debugs a plugin edits its files."""
    source = short_dir / "code" / "plugin.py"
    source.parent.mkdir()
    source.write_text(PLUGIN)
    with serve_with_reload(short_dir, plugin_table("p", "plugin.py", cwd=source.parent)) as mesh:
        attach = [sys.executable, "-m", "meshtrio", "attach", "p", "--", "sleep", "3600"]
        with subprocess.Popen(attach, env=mesh.environment) as process:
            try:
                mesh.wait_for_log("attached by pid")
                replace_file(source, f"{PLUGIN}\n# changed")
                mesh.wait_for_log("p is attached; not starting it")
                assert mesh.ps()[0]["state"] == "attached"
                assert process.poll() is None
            finally:
                process.kill()
        wait_until(lambda: ready_pids(mesh))
