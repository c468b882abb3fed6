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

from tests.support.mesh_processes import PLUGINS_DIRECTORY, plugin_table, wait_until
from tests.support.unprivileged import (
    UID,
    make_setuid_command,
    serve_mesh_as_user,
    unprivileged_command,
)

MINIMAL = ("-I", "-S", "minimal.py")
STEADY = plugin_table("steady", *MINIMAL, ready_timeout=60)


def as_root(folder: Path, name: str = "rooted") -> str:
    """Return the table of a plugin that becomes root by a set-user-ID program."""
    unprivileged_command()
    command = [*make_setuid_command(folder), sys.executable, *MINIMAL]
    return (
        f'[[plugin]]\nname = "{name}"\n'
        f'command = {json.dumps(command)}\ncwd = "{PLUGINS_DIRECTORY}"\n'
        # So that the mesh may connect to the socket of another user.
        "ready_timeout = 60\nstop_timeout = 0.2\ncontainment = { umask = 0 }\n"
    )


def test_a_plugin_that_cannot_be_killed_is_reported_and_left(short_dir: Path) -> None:
    config = as_root(short_dir) + STEADY
    with serve_mesh_as_user(short_dir, config, min_ready=2) as mesh:
        pids = {row["name"]: row["pid"] for row in mesh.ps()}
        assert Path(f"/proc/{pids['rooted']}").stat().st_uid == 0
        done = mesh.run_command("stop", "rooted")
        assert done.returncode == 0, done.stderr
        text = f"pid {pids['rooted']} (python"
        mesh.wait_for_log(text)
        why = "cannot be killed, left running: it runs as user root"
        assert why in mesh.log
        rows = {row["name"]: row for row in mesh.ps()}
        assert rows["rooted"]["state"] == "stopped"
        assert why in rows["rooted"]["reason"]
        assert (rows["steady"]["pid"], rows["steady"]["state"]) == (pids["steady"], "ready")
        # It is started again beside what was left, which ps still shows until that has ended.
        done = mesh.run_command("start", "rooted")
        assert done.returncode == 0, done.stderr
        rows = {row["name"]: row for row in mesh.ps()}
        assert rows["rooted"]["state"] == "ready"
        assert str(pids["rooted"]) in rows["rooted"]["reason"]
        os.kill(pids["rooted"], signal.SIGKILL)
        wait_until(lambda: {row["name"]: row["reason"] for row in mesh.ps()}["rooted"] == "")
        assert not Path(f"/proc/{pids['rooted']}").exists()
        assert mesh.stop() == 0
        assert "1 could not be killed (rooted/0)" in mesh.log
        assert "1 processes stopped in time" in mesh.log
        assert "Traceback" not in mesh.log
        assert not Path(f"/proc/{pids['steady']}").exists()


def test_the_warden_kills_the_others(short_dir: Path) -> None:
    config = as_root(short_dir, "a") + as_root(short_dir, "b") + STEADY
    with serve_mesh_as_user(short_dir, config, min_ready=3) as mesh:
        pids = {row["name"]: row["pid"] for row in mesh.ps()}
        mesh.process.kill()
        mesh.process.wait()
        wait_until(lambda: not Path(f"/proc/{pids['steady']}").exists())
        assert Path(f"/proc/{pids['a']}").exists()


CHILD = """
import subprocess, sys
sys.path.insert(0, "tests/plugins")
subprocess.Popen(sys.argv[1:])
import minimal
minimal.main()
"""


def test_a_child_of_a_plugin_that_cannot_be_killed_is_reported(short_dir: Path) -> None:
    unprivileged_command()
    command = [*make_setuid_command(short_dir), "sleep", "3600"]
    root = Path(__file__).parents[2]
    config = plugin_table(
        "parent", "-c", CHILD, *command, cwd=root, ready_timeout=60, stop_timeout=0.2
    )
    with serve_mesh_as_user(short_dir, config, min_ready=1) as mesh:
        (parent,) = [row["pid"] for row in mesh.ps()]
        (child,) = wait_until(lambda: [pid for pid in mesh.plugin_pids() if pid != parent])
        wait_until(lambda: Path(f"/proc/{child}").stat().st_uid == 0)
        assert mesh.run_command("stop", "parent").returncode == 0
        mesh.wait_for_log(f"parent/0: pid {child} (sleep) cannot be killed, left running")
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
    command = unprivileged_command()
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
