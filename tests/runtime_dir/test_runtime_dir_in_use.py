"""A mesh does not change what other programs have made in its runtime dir."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meshtrio.config import Containment, MeshConfig, PluginConfig
from meshtrio.runtime_dir import directory
from meshtrio.runtime_dir.claim import ClaimedRuntimeDir, claim_runtime_dir
from meshtrio.util.errors import ConfigError
from tests import ROOT

PLUGIN = PluginConfig("p", ["true"])


def bind(path: Path) -> None:
    """Make a socket without a listener."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, mode and time of change of a directory and all files in it."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_mode, status.st_ctime_ns)
    return found


def a_socket(folder: Path) -> None:
    bind(folder / "docker.sock")


def an_empty_folder(folder: Path) -> None:
    (folder / "conf.d").mkdir()


def names_like_ours(folder: Path) -> None:
    bind(folder / "mesh.sock")
    bind(folder / "p-0.sock")
    (folder / "p.d").mkdir()


def a_foreign_lock(folder: Path) -> None:
    (folder / "mesh.lock").write_text("another program's own words\n")


def a_link_as_lock(folder: Path) -> None:
    (folder / "elsewhere").write_text("123\n")
    (folder / "mesh.lock").symlink_to(folder / "elsewhere")


def a_folder_as_lock(folder: Path) -> None:
    (folder / "mesh.lock").mkdir()


def a_name_that_is_not_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xc3")).touch()


@pytest.mark.parametrize(
    "fill",
    [
        a_socket,
        an_empty_folder,
        names_like_ours,
        a_foreign_lock,
        a_link_as_lock,
        a_folder_as_lock,
        a_name_that_is_not_utf8,
    ],
)
def test_a_folder_of_others_is_refused_and_left_as_it_is(
    fill: Callable[[Path], None], short_dir: Path
) -> None:
    folder = short_dir / "run"
    folder.mkdir(mode=0o755)
    fill(folder)
    before = snapshot(folder)
    with pytest.raises(ConfigError) as caught, claim_runtime_dir(folder):
        pass
    assert snapshot(folder) == before
    (problem,) = caught.value.problems
    problem.encode()  # no half of a character
    assert str(folder) in problem
    assert ascii(min(os.listdir(folder))).strip("'")[:3] in problem
    assert "nothing in it was changed" in problem
    assert "--runtime-dir" in problem


def test_serve_refuses_a_system_folder(short_dir: Path) -> None:
    folder = short_dir / "run"
    (folder / "lock").mkdir(parents=True)
    bind(folder / "snapd.sock")
    folder.chmod(0o755)
    before = snapshot(folder)
    (short_dir / "mesh.toml").write_text('[[plugin]]\nname = "p"\ncommand = ["true"]\n')
    command = [sys.executable, "-m", "meshtrio", "serve", str(short_dir / "mesh.toml")]
    done = subprocess.run(
        [*command, "--runtime-dir", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "'lock', 'snapd.sock'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert snapshot(folder) == before


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o500])
def test_an_empty_folder_is_accepted(mode: int, short_dir: Path) -> None:
    folder = short_dir / "run"
    folder.mkdir()
    folder.chmod(mode)
    with claim_runtime_dir(folder):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_a_mesh_has_used_is_accepted_with_what_was_added(short_dir: Path) -> None:
    folder = short_dir / "run"
    for _ in range(2):
        with claim_runtime_dir(folder):
            pass
        bind(folder / "others.sock")
        with claim_runtime_dir(folder):
            assert (folder / "others.sock").is_socket()
        (folder / "others.sock").unlink()


def test_only_what_a_mesh_has_made_is_removed(short_dir: Path) -> None:
    folder = short_dir / "run"
    with claim_runtime_dir(folder):
        path = directory.plugin_socket_path(folder, PLUGIN, 0)
        directory.prepare_plugin_socket(folder, PLUGIN, path)
        for name in ("p-0.sock", "p-1.sock", "other.sock"):
            bind(folder / name)
        (folder / "empty.d").mkdir()
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["empty.d", "mesh.lock", "other.sock", "p-1.sock"]


def test_what_a_killed_mesh_has_made_is_removed_by_the_next(short_dir: Path) -> None:
    folder = short_dir / "run"
    program = f"""
import os, signal, socket
from pathlib import Path
from meshtrio.runtime_dir import directory
from meshtrio.runtime_dir.claim import claim_runtime_dir
from meshtrio.config import PluginConfig

folder, plugin = Path({str(folder)!r}), PluginConfig("gone", ["true"])
with claim_runtime_dir(folder):
    for place in (0, 1):
        path = directory.plugin_socket_path(folder, plugin, 3, place)
        directory.prepare_plugin_socket(folder, plugin, path)
        socket.socket(socket.AF_UNIX).bind(str(path))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(os.listdir(folder)) == ["gone-3.b.sock", "gone-3.sock", "mesh.lock"]
    bind(folder / "gone-4.sock")
    with claim_runtime_dir(folder):
        assert sorted(os.listdir(folder)) == ["gone-4.sock", "mesh.lock"]


@pytest.mark.parametrize("line", ["../victim.sock", "/victim.sock", "a/../../victim.sock", ""])
def test_a_lock_file_that_was_tampered_with_removes_nothing_elsewhere(
    line: str, short_dir: Path
) -> None:
    folder = short_dir / "run"
    with claim_runtime_dir(folder):
        pass
    bind(short_dir / "victim.sock")
    (folder / "mesh.lock").write_text(f"123\n{line}\nmesh.lock\n")
    with claim_runtime_dir(folder):
        assert (folder / "mesh.lock").is_file()
        assert (short_dir / "victim.sock").is_socket()


def test_a_plugins_own_folder_is_removed_unless_something_is_left_in_it(short_dir: Path) -> None:
    group = "nogroup" if os.geteuid() == 0 else str(os.getegid())
    plugin = PluginConfig("p", ["true"], containment=Containment(group=group))
    folder = short_dir / "run"
    for left in (False, True):
        with claim_runtime_dir(folder):
            path = directory.plugin_socket_path(folder, plugin, 0)
            directory.prepare_plugin_socket(folder, plugin, path)
            bind(path)
            if left:
                (path.parent / "state").write_text("precious")
        assert not path.exists()
        assert path.parent.exists() == left
    with claim_runtime_dir(folder):
        assert (path.parent / "state").read_text() == "precious"


def test_a_link_in_place_of_a_plugins_own_folder_is_not_followed(short_dir: Path) -> None:
    plugin = PluginConfig("p", ["true"], containment=Containment(group=str(os.getegid())))
    folder, victim = short_dir / "run", short_dir / "victim"
    victim.mkdir(mode=0o700)
    with claim_runtime_dir(folder):
        (folder / "p.d").symlink_to(victim)
        before = snapshot(victim)
        with pytest.raises(NotADirectoryError):
            directory.prepare_plugin_socket(
                folder, plugin, directory.plugin_socket_path(folder, plugin, 0)
            )
        assert snapshot(victim) == before


def test_a_file_in_place_of_a_plugins_socket_is_not_removed(short_dir: Path) -> None:
    folder = short_dir / "run"
    with claim_runtime_dir(folder):
        path = directory.plugin_socket_path(folder, PLUGIN, 0)
        path.write_text("precious")
        with pytest.raises(FileExistsError, match="is not a socket"):
            directory.prepare_plugin_socket(folder, PLUGIN, path)
    assert path.read_text() == "precious"


def test_a_removed_lock_file_is_made_again_and_sockets_stay(short_dir: Path) -> None:
    folder = short_dir / "run"
    with claim_runtime_dir(folder) as claim:
        path = directory.plugin_socket_path(folder, PLUGIN, 0)
        directory.prepare_plugin_socket(folder, PLUGIN, path)
        bind(path)
        (folder / "mesh.lock").unlink()
        assert claim.is_lost
        claim.recreate()
        assert not claim.is_lost
        assert path.is_socket()
    assert os.listdir(folder) == ["mesh.lock"]


def test_a_folder_that_others_made_in_its_place_is_not_taken(short_dir: Path) -> None:
    folder = short_dir / "run"
    with claim_runtime_dir(folder) as claim:
        folder.rename(short_dir / "moved")
        folder.mkdir(mode=0o700)
        bind(folder / "mesh.sock")
        before = snapshot(folder)
        with pytest.raises(ConfigError, match="nothing in it was changed"):
            claim.recreate()
        assert snapshot(folder) == before
    assert snapshot(folder) == before


@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_is_refused(dangling: bool, short_dir: Path) -> None:
    target = short_dir / "target"
    if not dangling:
        target.mkdir()
    (short_dir / "run").symlink_to(target)
    with pytest.raises(ConfigError, match=r"symbolic link|not a folder"):
        ClaimedRuntimeDir(short_dir / "run")
    assert not target.exists() or os.listdir(target) == []


def test_a_nested_mesh_in_the_outer_runtime_dir_gets_an_explanation(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = short_dir / "run"
    with claim_runtime_dir(folder):
        monkeypatch.setenv("MESH_SOCKET", str(folder / "mesh.sock"))
        monkeypatch.setenv("PLUGIN_NAME", "outer")
        with pytest.raises(ConfigError) as caught:
            ClaimedRuntimeDir(folder)
        (problem,) = caught.value.problems
        assert "as its plugin 'outer'" in problem
        assert f"pid {os.getpid()}" in problem
        assert "a runtime dir of its own: use --runtime-dir" in problem


def test_a_refused_directory_leaks_no_descriptors(short_dir: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    folder = short_dir / "run"
    with claim_runtime_dir(folder):
        for _ in range(3):
            with pytest.raises(ConfigError):
                ClaimedRuntimeDir(folder)
    assert len(os.listdir("/proc/self/fd")) == before


def test_of_a_config_is_absolute() -> None:
    assert directory.resolve_runtime_dir(MeshConfig([PLUGIN], runtime_dir="x")).is_absolute()


def test_a_relative_folder_of_a_removed_cwd_is_refused(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cwd = short_dir / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    cwd.rmdir()
    with pytest.raises(ConfigError, match="give an absolute path"):
        directory.resolve_runtime_dir(MeshConfig([PLUGIN], runtime_dir="x"))
    assert directory.resolve_runtime_dir(MeshConfig([PLUGIN], runtime_dir="/x")) == Path("/x")
