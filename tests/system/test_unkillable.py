"""Processes that a mesh may not signal: one of them costs neither the mesh nor other plugins."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import PLUGINS, plugin, until
from tests.unprivileged import UID, as_user, served_as_user, set_user_id_program

MINIMAL = ("-I", "-S", "minimal.py")
STEADY = plugin("steady", *MINIMAL, ready_timeout=60)


def as_root(folder: Path, name: str = "rooted") -> str:
    """A plugin that becomes root by a set-user-ID program, whoever has started it."""
    as_user()
    command = [*set_user_id_program(folder), sys.executable, *MINIMAL]
    return (
        f'[[plugin]]\nname = "{name}"\ncommand = {json.dumps(command)}\ncwd = "{PLUGINS}"\n'
        # So that the mesh may connect to the socket of another user.
        "ready_timeout = 60\nstop_timeout = 0.2\ncontainment = { umask = 0 }\n"
    )


def test_a_plugin_that_cannot_be_killed_is_reported_and_left(short_dir: Path) -> None:
    config = as_root(short_dir) + STEADY
    with served_as_user(short_dir, config, ready=2) as mesh:
        pids = {row["name"]: row["pid"] for row in mesh.ps()}
        assert Path(f"/proc/{pids['rooted']}").stat().st_uid == 0
        done = mesh.run("stop", "rooted")
        assert done.returncode == 0, done.stderr
        text = f"pid {pids['rooted']} (python"
        mesh.wait_for(text)
        why = "cannot be killed, left running: it runs as user root"
        assert why in mesh.log
        rows = {row["name"]: row for row in mesh.ps()}
        assert rows["rooted"]["state"] == "stopped"
        assert why in rows["rooted"]["reason"]
        assert (rows["steady"]["pid"], rows["steady"]["state"]) == (pids["steady"], "ready")
        # It is started again beside what was left, which ps still shows until that has ended.
        done = mesh.run("start", "rooted")
        assert done.returncode == 0, done.stderr
        rows = {row["name"]: row for row in mesh.ps()}
        assert rows["rooted"]["state"] == "ready"
        assert str(pids["rooted"]) in rows["rooted"]["reason"]
        os.kill(pids["rooted"], signal.SIGKILL)
        until(lambda: {row["name"]: row["reason"] for row in mesh.ps()}["rooted"] == "")
        assert not Path(f"/proc/{pids['rooted']}").exists()
        assert mesh.stop() == 0
        assert "1 could not be (rooted/0)" in mesh.log
        assert "1 processes stopped by themselves" in mesh.log
        assert "Traceback" not in mesh.log
        assert not Path(f"/proc/{pids['steady']}").exists()


def test_the_warden_kills_the_others(short_dir: Path) -> None:
    config = as_root(short_dir, "a") + as_root(short_dir, "b") + STEADY
    with served_as_user(short_dir, config, ready=3) as mesh:
        pids = {row["name"]: row["pid"] for row in mesh.ps()}
        mesh.process.kill()
        mesh.process.wait()
        until(lambda: not Path(f"/proc/{pids['steady']}").exists())
        assert Path(f"/proc/{pids['a']}").exists()


CHILD = """
import subprocess, sys
sys.path.insert(0, "tests/plugins")
subprocess.Popen(sys.argv[1:])
import minimal
minimal.main()
"""


def test_a_child_of_a_plugin_that_cannot_be_killed_is_reported(short_dir: Path) -> None:
    as_user()
    command = [*set_user_id_program(short_dir), "sleep", "3600"]
    root = Path(__file__).parents[2]
    config = plugin("parent", "-c", CHILD, *command, cwd=root, ready_timeout=60, stop_timeout=0.2)
    with served_as_user(short_dir, config, ready=1) as mesh:
        (parent,) = [row["pid"] for row in mesh.ps()]
        (child,) = until(lambda: [pid for pid in mesh.pids() if pid != parent])
        until(lambda: Path(f"/proc/{child}").stat().st_uid == 0)
        assert mesh.run("stop", "parent").returncode == 0
        mesh.wait_for(f"parent/0: pid {child} (sleep) cannot be killed, left running")
        assert mesh.ps()[0]["reason"].endswith("whose processes this mesh may not signal")
        assert mesh.stop() == 0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("plain", ""),
        ("set-user-ID", "is set-user-ID: it runs as root"),
        ("set-user-ID, unreadable", "is set-user-ID: it runs as root"),
        ("set-group-ID", "is set-group-ID"),
        ("file capabilities", "has file capabilities"),
        ("script", "is set-user-ID: it runs as root"),
        ("set-user-ID script", ""),
        ("own", ""),
    ],
)
def test_check_warns_of_programs_that_the_mesh_could_not_stop(
    kind: str, expected: str, short_dir: Path
) -> None:
    command = as_user()
    short_dir.chmod(0o755)
    program = short_dir / "program"
    shutil.copy("/bin/true", program)
    modes = {"set-user-ID": 0o4755, "set-group-ID": 0o2755, "script": 0o4755, "own": 0o4755}
    modes["set-user-ID, unreadable"] = 0o4711
    if kind == "own":
        os.chown(program, UID, UID)
    program.chmod(modes.get(kind, 0o755))
    if kind == "file capabilities":
        # Version 2, effective, with CAP_NET_RAW (capabilities(7)).
        value = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
        os.setxattr(program, "security.capability", value)
    if "script" in kind:
        script = short_dir / "script"
        script.write_text(f"#!{program if kind == 'script' else '/bin/sh'}\n")
        script.chmod(0o4755)
        program = script
    config = short_dir / "mesh.toml"
    config.write_text(f'[[plugin]]\nname = "p"\ncommand = ["{program}"]\n')
    check = [sys.executable, "-m", "meshtrio", "check", "--json", str(config)]
    check += ["--runtime-dir", str(short_dir / "run")]
    done = subprocess.run([*command, *check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["warnings"]
    assert len(found) == bool(expected)
    assert expected in "".join(found)
    # Root may signal all.
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["warnings"] == []
