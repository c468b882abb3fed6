"""The runtime dir: its path, and claiming it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from meshtrio.config import Access, AccessRule, Containment, MeshConfig, PluginConfig
from meshtrio.runtime_dir import directory
from meshtrio.runtime_dir.claim import claim_runtime_dir
from meshtrio.runtime_dir.paths import default_runtime_dir
from meshtrio.runtime_dir.trust import find_mesh_socket
from meshtrio.util.errors import ConfigError


def test_the_default_is_below_xdg_runtime_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert default_runtime_dir() == Path("/run/user/7/meshtrio")


def test_the_default_without_xdg_has_the_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert default_runtime_dir() == Path(f"/tmp/meshtrio-{os.getuid()}")


def test_clients_look_at_mesh_socket_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_SOCKET", "/elsewhere/mesh.sock")
    assert find_mesh_socket() == Path("/elsewhere/mesh.sock")
    monkeypatch.delenv("MESH_SOCKET")
    assert find_mesh_socket() == default_runtime_dir() / "mesh.sock"


def test_it_is_claimed_once_at_a_time(short_dir: Path) -> None:
    for _ in range(2):
        with claim_runtime_dir(short_dir):
            with pytest.raises(ConfigError, match=f"pid {os.getpid()}"):
                with claim_runtime_dir(short_dir):
                    pass


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_refused(kind: str, short_dir: Path) -> None:
    path = short_dir / "x"
    if kind == "file":
        path.write_text("")
    else:
        path.symlink_to(short_dir)
    with pytest.raises(ConfigError), claim_runtime_dir(path):
        pass


def test_a_path_of_107_bytes_is_just_short_enough() -> None:
    plugin = PluginConfig(name="p", command=["true"], instances=11)
    room = 107 - len("/p-10.b.sock")
    directory.validate(MeshConfig([plugin], runtime_dir="/" + "x" * (room - 1)))
    with pytest.raises(ConfigError, match=r"p-10\.b\.sock: .* 107 bytes, this has 108"):
        directory.validate(MeshConfig([plugin], runtime_dir="/" + "x" * room))


def contained(**containment: str) -> MeshConfig:
    plugin = PluginConfig("p", ["true"], containment=Containment(**containment))
    return MeshConfig([plugin], runtime_dir="/run/x")


@pytest.mark.parametrize("containment", [{"user": "no-such-user"}, {"group": "no-such-group"}])
def test_a_user_that_is_not_there_is_refused_before_anything_starts(
    containment: dict[str, str],
) -> None:
    with pytest.raises(ConfigError, match=r"plugin 'p': containment: there is no .*no-such"):
        directory.validate(contained(**containment))


def test_only_root_can_run_plugins_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="only a mesh that runs as root"):
        directory.validate(contained(user="root"))


def test_a_lost_runtime_dir_is_recreated(short_dir: Path) -> None:
    folder = short_dir / "x"
    with claim_runtime_dir(folder) as claim:
        assert not claim.is_lost
        shutil.rmtree(folder)
        assert claim.is_lost
        claim.recreate()
        assert not claim.is_lost
        assert folder.stat().st_mode & 0o777 == 0o700
        shutil.rmtree(folder)
        with claim_runtime_dir(folder):
            assert claim.is_lost
            with pytest.raises(ConfigError, match="another mesh runs here"):
                claim.recreate()
            (folder / "mesh.sock").touch()
        assert folder.exists()


def test_users_that_are_not_there_are_refused(tmp_path: Path) -> None:
    access = Access(control=AccessRule(users=["no-such-user"], groups=["no-such-group"]))
    with pytest.raises(ConfigError) as caught:
        directory.validate(MeshConfig(access=access, runtime_dir=tmp_path))
    assert caught.value.problems == [
        "mesh: access.control: there is no user 'no-such-user'",
        "mesh: access.control: there is no group 'no-such-group'",
    ]
