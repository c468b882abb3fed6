"""Launches in the lock file of a runtime dir: recorded, kept, taken out, and never made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshtrio import runtime_dir, runtime_lock
from meshtrio.config import Containment, MeshConfig, PluginConfig

ID, OTHER = "ab" * 16, "cd" * 16


def lock_of(folder: Path) -> Path:
    return folder / "run" / runtime_lock.NAME


def test_launches_are_kept_until_they_are_forgotten(short_dir: Path) -> None:
    folder, lock = short_dir / "run", lock_of(short_dir)
    with runtime_dir.claim(folder) as claim:
        assert claim.launches() == {}
        for mesh_id, users in ((ID, [0]), (OTHER, [0]), (ID, [65534, 0])):
            runtime_lock.add(lock, runtime_lock.launch_line(mesh_id, users))
        runtime_lock.add(lock, "p-0.sock")
    with runtime_dir.claim(folder) as claim:
        assert claim.launches() == {ID: [0, 65534], OTHER: [0]}
        runtime_lock.add(lock, "q-0.sock")
        claim.forget_launches([OTHER])
        assert claim.launches() == {ID: [0, 65534]}
        assert "q-0.sock" in lock.read_text()
    with runtime_dir.claim(folder) as claim:
        # All lines of it, also those from before it had another user.
        runtime_lock.add(lock, runtime_lock.launch_line(ID, [0]))
        runtime_lock.remove_launch(lock, ID)
        assert claim.launches() == {}
    assert lock.read_text() == f"{os.getpid()}\n"


def test_a_folder_that_is_made_again_knows_the_launches(short_dir: Path) -> None:
    folder, lock = short_dir / "run", lock_of(short_dir)
    with runtime_dir.claim(folder) as claim:
        runtime_lock.add(lock, runtime_lock.launch_line(ID, [0]))
        lock.unlink()
        folder.rmdir()
        claim.renew()
        assert claim.launches() == {ID: [0]}
        assert ID in lock.read_text()


@pytest.mark.parametrize(
    "line",
    [
        f"launch {ID}",
        f"launch {ID} ",
        f"launch {ID} -1",
        f"launch {ID} 0,",
        f"launch {ID} root",
        f"launch {ID} 12345678901",
        f"launch {ID[:-1]} 0",
        f"launch {ID}0 0",
        f"launch {ID.upper()} 0",
        "launch  0",
        "launch / 0",
        f" launch {ID} 0",
        f"launch {ID} 0 0",
        "launch \udcff 0",
    ],
)
def test_what_is_no_launch_is_none(line: str, short_dir: Path) -> None:
    folder, lock = short_dir / "run", lock_of(short_dir)
    with runtime_dir.claim(folder):
        pass
    lock.write_bytes(b"1\n" + line.encode("utf-8", "surrogateescape") + b"\n")
    with runtime_dir.claim(folder) as claim:
        assert claim.launches() == {}


def test_a_file_of_another_user_has_no_launches(short_dir: Path) -> None:
    """Whoever may write it could have processes killed."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    folder, lock = short_dir / "run", lock_of(short_dir)
    with runtime_dir.claim(folder) as claim:
        runtime_lock.add(lock, runtime_lock.launch_line(ID, [0]))
        assert claim.launches() == {ID: [0]}
        os.chown(lock, 12345, -1)
        assert claim.launches() == {}


def test_the_number_of_launches_is_bounded(short_dir: Path) -> None:
    lock = lock_of(short_dir)
    with runtime_dir.claim(short_dir / "run") as claim:
        for number in range(100):
            runtime_lock.add(lock, runtime_lock.launch_line(f"{number:032x}", [0]))
        assert list(claim.launches()) == [f"{number:032x}" for number in range(36, 100)]


def test_users_of_plugins_are_those_that_there_are() -> None:
    plugins = [
        PluginConfig(name, ["true"], containment=Containment(user=user))
        for name, user in (("a", None), ("b", "nobody"), ("c", "0"), ("d", "no-such-user"))
    ]
    assert runtime_dir.users_of(MeshConfig(plugins)) == {0, 65534}
