"""A runtime dir that other users change while a mesh uses it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from meshtrio.config import Containment, PluginConfig
from meshtrio.runtime_dir import directory
from meshtrio.runtime_dir.claim import ClaimedRuntimeDir, claim_runtime_dir
from meshtrio.util.errors import ConfigError

NOBODY = 65534
ROUNDS = 300

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")

SWAP = """
import ctypes, os, sys
one, other, uid = sys.argv[1].encode(), sys.argv[2].encode(), int(sys.argv[3])
os.setuid(uid)
libc = ctypes.CDLL(None)
print("swapping", flush=True)
while True:
    libc.renameat2(-100, one, -100, other, 2)  # RENAME_EXCHANGE
"""


def bind(path: Path) -> None:
    """Make a socket without a listener."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@contextmanager
def swapping(one: Path, other: Path, uid: int) -> Iterator[None]:
    """Exchange two files repeatedly as another user."""
    command = [sys.executable, "-S", "-c", SWAP, str(one), str(other), str(uid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "swapping\n"
            yield
        finally:
            process.kill()


@contextmanager
def victim(folder: Path, name: str) -> Iterator[Path]:
    """Another program's socket with the name of one of ours is kept."""
    path = folder / "victim" / name
    path.parent.mkdir(mode=0o711)
    bind(path)
    inode = path.lstat().st_ino
    yield path
    assert path.lstat().st_ino == inode


def test_a_folder_that_is_swapped_for_a_link_leads_nowhere(short_dir: Path) -> None:
    """Removing a plugin's directory never removes anything outside of it."""
    plugin = PluginConfig("p", ["true"], containment=Containment(group=str(os.getegid())))
    folder = short_dir / "run"
    path = directory.plugin_socket_path(folder, plugin, 0)
    with victim(short_dir, path.name) as other:
        folder.mkdir(mode=0o700)
        (folder / "mesh.lock").write_text(f"1\n{path.relative_to(folder)}\n")
        path.parent.mkdir(mode=0o700)
        (path.parent / "kept").touch()
        link = folder / "link"
        link.symlink_to(other.parent)
        with swapping(path.parent, link, os.getuid()):
            for _ in range(ROUNDS):
                with claim_runtime_dir(folder), suppress(NotADirectoryError):
                    directory.prepare_plugin_socket(folder, plugin, path)
                    directory.prepare_plugin_socket(folder, plugin, path)
                assert other.is_socket()


@as_root
def test_a_contained_user_that_swaps_its_files_keeps_no_mesh_and_no_plugin_from_starting(
    short_dir: Path,
) -> None:
    """The other user makes sockets, and links to root's, at the path of the plugin's socket."""
    short_dir.chmod(0o755)
    plugin = PluginConfig("p", ["true"], containment=Containment(user=str(NOBODY)))
    folder = short_dir / "run"
    path = directory.plugin_socket_path(folder, plugin, 0)
    with victim(short_dir, path.name) as other:
        with claim_runtime_dir(folder):
            directory.prepare_plugin_socket(folder, plugin, path)
            for name in ("a", "b"):
                (path.parent / name).symlink_to(other)
            with swapping(path.parent / "a", path.parent / "b", NOBODY):
                for _ in range(ROUNDS):
                    for left in ("a", "b"):
                        with suppress(FileExistsError):
                            os.link(path.parent / left, path, follow_symlinks=False)
                    directory.prepare_plugin_socket(folder, plugin, path)
                    assert not os.path.lexists(path)
        for _ in range(3):
            with claim_runtime_dir(folder):
                pass


@as_root
@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "link", "socket"])
def test_what_a_contained_user_leaves_keeps_no_mesh_from_starting(
    kind: str, short_dir: Path
) -> None:
    plugin = PluginConfig("p", ["true"], containment=Containment(user=str(NOBODY)))
    folder = short_dir / "run"
    path = directory.plugin_socket_path(folder, plugin, 0)
    with victim(short_dir, "x") as other:
        with claim_runtime_dir(folder):
            directory.prepare_plugin_socket(folder, plugin, path)
            match kind:
                case "file":
                    path.write_text("precious")
                case "folder":
                    path.mkdir()
                case "fifo":
                    os.mkfifo(path)
                case "link":
                    path.symlink_to(other)
                case "socket":
                    bind(path)
        with claim_runtime_dir(folder):
            if kind in ("link", "socket"):
                assert not os.path.lexists(path.parent)
                directory.prepare_plugin_socket(folder, plugin, path)
            else:
                assert os.path.lexists(path)
                with pytest.raises(FileExistsError, match="is not a socket"):
                    directory.prepare_plugin_socket(folder, plugin, path)


# -- the lock file -----------------------------------------------------------------------------


def test_a_file_in_the_place_of_the_lock_file_is_not_truncated(short_dir: Path) -> None:
    """The directory itself is known then, so that its content is not checked."""
    folder = short_dir / "run"
    with claim_runtime_dir(folder) as claim:
        (folder / "precious").write_text("precious")
        (folder / "precious").rename(folder / "mesh.lock")
        assert claim.is_lost
        with pytest.raises(ConfigError, match="was not written by a mesh"):
            claim.recreate()
        assert (folder / "mesh.lock").read_text() == "precious"
        (folder / "mesh.lock").unlink()
        claim.recreate()
        assert not claim.is_lost


@pytest.mark.parametrize("content", ["", "4711\n"])
def test_a_hard_link_in_the_place_of_the_lock_file_is_not_written_to(
    content: str, short_dir: Path
) -> None:
    folder, precious = short_dir / "run", short_dir / "precious"
    folder.mkdir(mode=0o700)
    precious.write_text(content)
    (folder / "mesh.lock").hardlink_to(precious)
    with claim_runtime_dir(folder) as claim:
        assert not claim.is_lost
        with pytest.raises(ConfigError, match="another mesh runs here"):
            ClaimedRuntimeDir(folder)
    assert precious.read_text() == content
    assert precious.stat().st_nlink == 1


def test_another_name_for_the_lock_file_keeps_no_mesh_from_starting(short_dir: Path) -> None:
    """Other users can make one if fs.protected_hardlinks is 0; the records are kept."""
    folder = short_dir / "run"
    plugin = PluginConfig("p", ["true"])
    path = directory.plugin_socket_path(folder, plugin, 0)
    folder.mkdir(mode=0o700)
    (folder / "mesh.lock").write_text(f"1\n{path.name}\n")
    bind(path)
    (short_dir / "name").hardlink_to(folder / "mesh.lock")
    with claim_runtime_dir(folder) as claim:
        assert not path.exists()
        assert not claim.is_lost
    assert (short_dir / "name").read_text() == f"1\n{path.name}\n"


def test_a_fifo_in_the_place_of_the_lock_file_is_not_waited_for(short_dir: Path) -> None:
    folder = short_dir / "run"
    with claim_runtime_dir(folder) as claim:
        (folder / "mesh.lock").unlink()
        os.mkfifo(folder / "mesh.lock")
        assert claim.is_lost
        with pytest.raises(ConfigError, match="not a regular file"):
            claim.recreate()
    with pytest.raises(ConfigError, match="nothing in it was changed"):
        ClaimedRuntimeDir(folder)


def test_a_link_in_the_place_of_the_lock_file_is_not_followed(short_dir: Path) -> None:
    folder, precious = short_dir / "run", short_dir / "precious"
    precious.write_text("4711\n")
    with claim_runtime_dir(folder) as claim:
        (folder / "mesh.lock").unlink()
        (folder / "mesh.lock").symlink_to(precious)
        assert claim.is_lost
        with pytest.raises(ConfigError, match="cannot be locked"):
            claim.recreate()
    assert precious.read_text() == "4711\n"
