"""What cannot be served is refused: one clear line a mistake, exit status 2, nothing started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mesh_processes import echo_plugin_table, plugin_table, run_meshtrio, serve_mesh

GOOD = plugin_table("good", "startup_faults.py", "never-bind")

CASES = {
    "unknown key": (GOOD + "instance = 2\n", "plugin 'good': instance: is not a key", "instances"),
    "unknown table": ("[plugins]\n", "plugins: is not a key", "did you mean 'plugin'"),
    "wrong type": (GOOD + 'instances = "2"\n', "instances: must be a whole number", "'2'"),
    "wrong choice": (GOOD + 'restart = "sometimes"\n', "restart: must be one of always", "never"),
    "out of range": (GOOD + "instances = 0\n", "instances: must be at least 1", "0"),
    "nested": (GOOD + "backoff = { factor = 2 }\n", "backoff: factor: is not a key", "multiplier"),
    "duplicate name": (GOOD + GOOD, "two plugins are named 'good'", "rename"),
    "missing command": ('[[plugin]]\nname = "bare"\n', "plugin 'bare': command: is missing", ""),
    "missing name": ('[[plugin]]\ncommand = ["true"]\n', "plugin number 1: name: is missing", ""),
    "no such program": (
        '[[plugin]]\nname = "x"\ncommand = ["no-such-program"]\n',
        "command: 'no-such-program' is not on the PATH",
        "",
    ),
    "a shell line": (
        '[[plugin]]\nname = "x"\ncommand = "a b"\n',
        "must be a list",
        "without a shell",
    ),
    "no such folder": (
        plugin_table("x", "startup_faults.py", cwd=Path("nowhere")),
        "cwd: ",
        "is not a folder",
    ),
    "reserved variable": (GOOD + 'env = { PLUGIN_NAME = "x" }\n', "env: PLUGIN_NAME is set", ""),
    "bad name": (plugin_table("a/b", "startup_faults.py"), "name: 'a/b' is not a name", ""),
    "not TOML": ("[[plugin\n", "is not TOML", ""),
}


def assert_refused(done: subprocess.CompletedProcess[str], *parts: str, lines: int = 1) -> None:
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == lines, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line(case: str, command: str, short_dir: Path) -> None:
    config, *parts = CASES[case]
    path = short_dir / "mesh.toml"
    path.write_text(config)
    run_dir = short_dir / "run"
    done = run_meshtrio(command, str(path), "--runtime-dir", str(run_dir))
    assert_refused(done, str(path), *parts)
    assert not run_dir.exists()


def test_every_mistake_is_reported_at_once(short_dir: Path) -> None:
    path = short_dir / "mesh.toml"
    path.write_text(
        GOOD + 'instance = 2\nready_timeout = -1\n[[plugin]]\nname = "x"\n[mesh]\ny = 1\n'
    )
    done = run_meshtrio("check", str(path))
    assert_refused(done, "instance: ", "ready_timeout: ", "command: is missing", "mesh: y", lines=4)


def test_a_file_that_is_not_there(short_dir: Path) -> None:
    assert_refused(run_meshtrio("check", str(short_dir / "none.toml")), "none.toml: cannot be read")


def test_a_good_config_is_said_to_be_good(short_dir: Path) -> None:
    path = short_dir / "mesh.toml"
    path.write_text(echo_plugin_table(instances=2))
    done = run_meshtrio("check", str(path))
    assert done.returncode == 0
    assert "1 plugin, 2 instances" in done.stdout


def test_a_socket_path_that_is_too_long(short_dir: Path) -> None:
    path = short_dir / "mesh.toml"
    path.write_text(GOOD)
    folder = short_dir / ("x" * 100)
    done = run_meshtrio("serve", str(path), "--runtime-dir", str(folder))
    length = len(str(folder / "mesh.sock"))
    assert_refused(done, str(folder / "mesh.sock"), "107", str(length), lines=2)
    assert not folder.exists()


def test_a_second_mesh_on_the_same_folder(short_dir: Path) -> None:
    with serve_mesh(short_dir, GOOD) as mesh:
        done = run_meshtrio(
            "serve", str(short_dir / "mesh.toml"), "--runtime-dir", str(mesh.runtime_dir)
        )
        assert_refused(done, "another mesh runs here", str(mesh.process.pid))
        assert mesh.ps() != []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of another user")
def test_a_folder_of_another_user(short_dir: Path) -> None:
    folder = short_dir / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    (short_dir / "mesh.toml").write_text(GOOD)
    done = run_meshtrio("serve", str(short_dir / "mesh.toml"), "--runtime-dir", str(folder))
    assert_refused(done, str(folder), "belongs to uid 12345")
    assert list(folder.iterdir()) == []


def test_a_folder_that_others_may_write_to(short_dir: Path) -> None:
    folder = short_dir / "open"
    folder.mkdir()
    folder.chmod(0o777)
    (short_dir / "mesh.toml").write_text(GOOD)
    done = run_meshtrio("serve", str(short_dir / "mesh.toml"), "--runtime-dir", str(folder))
    assert_refused(done, "others may write to it", "chmod 700")


def test_a_plugin_run_by_hand_says_what_it_lacks() -> None:
    program = Path(__file__).parents[2] / "examples" / "echo-plugin" / "echo_plugin.py"
    environment = {k: v for k, v in os.environ.items() if k != "PLUGIN_SOCKET"}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert_refused(done, "PLUGIN_SOCKET is not set")
