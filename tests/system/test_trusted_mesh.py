"""Which mesh is trusted where nobody has said which: one's own user's, or root's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from meshtrio import mesh
from meshtrio.errors import NoMeshError, UntrustedMeshError
from meshtrio.runtime_dir.trust import trusted_uids
from meshtrio.util.concurrency import open_collapsing_nursery
from tests.support.mesh_processes import echo_plugin_table, run_meshtrio

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")


@pytest.fixture
def default(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default runtime dir, which is not there yet."""
    monkeypatch.delenv("MESH_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    short_dir.chmod(0o777)
    return short_dir / "meshtrio"


async def find_rejection() -> str:
    """Return why `mesh.connect` and `mesh.register` do not trust the mesh."""
    with pytest.raises(UntrustedMeshError) as caught:
        async with mesh.connect("plugin.echo", metadata=(("authorization", "secret"),)):
            pass
    with pytest.raises(UntrustedMeshError):
        async with mesh.register("plugin.echo", "/x"):
            pass
    return str(caught.value.status.status_message)


@contextmanager
def listen_as(uid: int, path: Path) -> Iterator[socket.socket]:
    """Listen as another user. SO_PEERCRED has the user at the time of listen(2)."""
    with socket.socket(socket.AF_UNIX) as listener:
        os.seteuid(uid)
        try:
            listener.bind(str(path))
            listener.listen()
        finally:
            os.seteuid(0)
        listener.setblocking(False)
        yield listener


def receive_from_all(listener: socket.socket) -> bytes:
    heard = b""
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return heard
        with sock:
            sock.settimeout(10)
            while data := sock.recv(65536):
                heard += data


@as_root
async def test_a_folder_of_another_user_is_not_trusted(default: Path) -> None:
    default.mkdir(mode=0o755)
    os.chown(default, NOBODY, NOBODY)
    with listen_as(NOBODY, default / "mesh.sock") as listener:
        reason = await find_rejection()
        assert f"{default} belongs to uid {NOBODY}" in reason
        assert "MESH_SOCKET" in reason
        for arguments in (
            ["ps"],
            ["call", "plugin.echo", "x.Y/Z", "--metadata", "authorization=secret"],
            ["call", "--wait", "plugin.echo", "x.Y/Z"],
        ):
            done = run_meshtrio(*arguments)
            assert done.returncode == 1
            assert f"belongs to uid {NOBODY}" in done.stderr
            assert done.stderr.count("\n") == 1
        assert receive_from_all(listener) == b""


@as_root
async def test_a_server_of_another_user_in_a_folder_of_ones_own_is_not_trusted(
    default: Path,
) -> None:
    default.mkdir(mode=0o700)
    path = default.parent / "mesh.sock"
    with listen_as(NOBODY, path) as listener:
        path.rename(default / "mesh.sock")
        assert f"is served by uid {NOBODY}, not by uid 0" in await find_rejection()
        done = run_meshtrio("ps")
        assert done.returncode == 1
        assert f"is served by uid {NOBODY}, not by uid 0" in done.stderr
        assert receive_from_all(listener) == b""


async def test_a_folder_that_others_may_write_to_is_not_trusted(default: Path) -> None:
    default.mkdir()
    default.chmod(0o777)
    assert "may be written to by others (mode 777)" in await find_rejection()


async def test_links_are_not_trusted(default: Path, short_dir: Path) -> None:
    """Neither in the place of the folder nor of the socket."""
    (short_dir / "elsewhere").mkdir(mode=0o700)
    default.symlink_to(short_dir / "elsewhere")
    assert "is a symbolic link" in await find_rejection()
    default.unlink()
    default.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "other.sock"))
        listener.listen()
        (default / "mesh.sock").symlink_to(short_dir / "other.sock")
        assert "is a symbolic link, which is not followed" in await find_rejection()


@as_root
async def test_a_path_that_is_named_is_trusted(
    default: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default.mkdir(mode=0o755)
    os.chown(default, NOBODY, NOBODY)
    path = default / "mesh.sock"
    with pytest.raises(NoMeshError) as caught:
        async with mesh.connect("plugin.echo", mesh_socket=path):
            pass
    assert not isinstance(caught.value, UntrustedMeshError)
    monkeypatch.setenv("MESH_SOCKET", str(path))
    with pytest.raises(NoMeshError) as caught:
        async with mesh.connect("plugin.echo"):
            pass
    assert not isinstance(caught.value, UntrustedMeshError)


async def test_ones_own_mesh_is_trusted(default: Path, short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text(echo_plugin_table())
    async with open_collapsing_nursery() as nursery:
        await nursery.start(mesh.main, short_dir / "mesh.toml")
        assert (default / "mesh.sock").exists()
        async with mesh.connect("plugin.echo"):
            pass
        done = await trio.to_thread.run_sync(run_meshtrio, "ps")
        assert done.returncode == 0, done.stderr
        nursery.cancel_scope.cancel()


@as_root
def test_a_folder_of_roots_is_trusted_by_other_users(default: Path) -> None:
    default.mkdir(mode=0o711)
    pid = os.fork()
    if not pid:  # Only what a fork of a running program may do.
        try:
            os.setuid(NOBODY)
            os._exit(0 if trusted_uids(None) == {0, NOBODY} else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
