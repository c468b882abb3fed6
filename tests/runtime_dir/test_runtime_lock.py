"""Mesh runs in the lock file of a runtime dir: recorded, kept, removed, and validated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshtrio.config import Containment, MeshConfig, PluginConfig
from meshtrio.runtime_dir import directory, lock_file
from meshtrio.runtime_dir.claim import claim_runtime_dir

ID, OTHER = "ab" * 16, "cd" * 16


def lock_of(folder: Path) -> Path:
    return folder / "run" / lock_file.LOCK_FILE_NAME


def test_mesh_runs_are_recorded_until_they_are_removed(short_dir: Path) -> None:
    folder, lock = short_dir / "run", lock_of(short_dir)
    with claim_runtime_dir(folder) as claim:
        assert claim.recorded_mesh_runs() == {}
        for mesh_id, users in ((ID, [0]), (OTHER, [0]), (ID, [65534, 0])):
            lock_file.append_line(lock, lock_file.format_mesh_run(mesh_id, users))
        lock_file.append_line(lock, "p-0.sock")
    with claim_runtime_dir(folder) as claim:
        assert claim.recorded_mesh_runs() == {ID: [0, 65534], OTHER: [0]}
        lock_file.append_line(lock, "q-0.sock")
        claim.remove_mesh_runs([OTHER])
        assert claim.recorded_mesh_runs() == {ID: [0, 65534]}
        assert "q-0.sock" in lock.read_text()
    with claim_runtime_dir(folder) as claim:
        # All of its lines are removed, including the one from before a user was added.
        lock_file.append_line(lock, lock_file.format_mesh_run(ID, [0]))
        lock_file.remove_mesh_run(lock, ID)
        assert claim.recorded_mesh_runs() == {}
    assert lock.read_text() == f"{os.getpid()}\n"


def test_a_recreated_directory_keeps_the_mesh_runs(short_dir: Path) -> None:
    folder, lock = short_dir / "run", lock_of(short_dir)
    with claim_runtime_dir(folder) as claim:
        lock_file.append_line(lock, lock_file.format_mesh_run(ID, [0]))
        lock.unlink()
        folder.rmdir()
        claim.recreate()
        assert claim.recorded_mesh_runs() == {ID: [0]}
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
def test_malformed_lines_are_no_mesh_runs(line: str, short_dir: Path) -> None:
    folder, lock = short_dir / "run", lock_of(short_dir)
    with claim_runtime_dir(folder):
        pass
    lock.write_bytes(b"1\n" + line.encode("utf-8", "surrogateescape") + b"\n")
    with claim_runtime_dir(folder) as claim:
        assert claim.recorded_mesh_runs() == {}


def test_mesh_runs_in_a_file_of_another_user_are_ignored(short_dir: Path) -> None:
    """Otherwise a user who may write to it could have processes killed."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    folder, lock = short_dir / "run", lock_of(short_dir)
    with claim_runtime_dir(folder) as claim:
        lock_file.append_line(lock, lock_file.format_mesh_run(ID, [0]))
        assert claim.recorded_mesh_runs() == {ID: [0]}
        os.chown(lock, 12345, -1)
        assert claim.recorded_mesh_runs() == {}


def test_the_number_of_mesh_runs_is_bounded(short_dir: Path) -> None:
    lock = lock_of(short_dir)
    with claim_runtime_dir(short_dir / "run") as claim:
        for number in range(100):
            lock_file.append_line(lock, lock_file.format_mesh_run(f"{number:032x}", [0]))
        assert list(claim.recorded_mesh_runs()) == [f"{number:032x}" for number in range(36, 100)]


def test_users_of_plugins_are_those_that_there_are() -> None:
    plugins = [
        PluginConfig(name, ["true"], containment=Containment(user=user))
        for name, user in (("a", None), ("b", "nobody"), ("c", "0"), ("d", "no-such-user"))
    ]
    assert directory.resolve_plugin_uids(MeshConfig(plugins)) == {0, 65534}
