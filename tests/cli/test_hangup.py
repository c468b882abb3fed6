"""SIGHUP of `serve`: it reloads the config, and a closed terminal stops the mesh in order."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    MeshProcess,
    accepts_connections,
    plugin_table,
    wait_until,
)
from tests.support.process_tracking import descendant_pids, hold_pidfds, wait_until_ended
from tests.tools import find_debian_tool

STEADY = plugin_table("steady", "-I", "-S", "minimal.py")
ADDED = plugin_table("added", "-I", "-S", "minimal.py")


def orderly_table(folder: Path) -> str:
    """A plugin that writes to `folder/ended` how it was ended."""
    program = str(PLUGINS_DIRECTORY / "sigterm_recorder.py")
    return plugin_table("orderly", program, str(folder / "ended"))


def is_orderly_waiting(folder: Path) -> bool:
    path = folder / "ended"
    return path.exists() and path.read_text() == "waiting"


def write_config(folder: Path, config: str) -> None:
    """Replace the file at once: the mesh may read it at any time."""
    (folder / "new").write_text(config)
    os.replace(folder / "new", folder / "mesh.toml")


def serve_command(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "meshtrio", "serve", str(folder / "mesh.toml")]
    return [*command, "--runtime-dir", str(folder / "run")]


def reset_sighup() -> None:
    """The tests may be run below nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def serving(folder: Path, config: str, **settings: Any) -> Iterator[MeshProcess]:
    """Serve without a terminal, unless `settings` of Popen give it one."""
    write_config(folder, config)
    with (folder / "log").open("wb") as log:
        defaults = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        defaults |= {"preexec_fn": reset_sighup, "start_new_session": True}
        process = subprocess.Popen(serve_command(folder), **{**defaults, **settings})
    mesh = MeshProcess(process, folder / "run", folder / "log")
    try:
        mesh.wait_for_log("the mesh is up")
        yield mesh
    finally:
        process.kill()
        process.wait()
        wait_until(lambda: not mesh.plugin_pids())


@contextmanager
def terminal_settings() -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the master of a terminal, and settings of Popen that make it the controlling one."""
    master, slave = os.openpty()

    def take_terminal() -> None:
        reset_sighup()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    try:
        yield master, {"stdin": slave, "preexec_fn": take_terminal, "pass_fds": [slave]}
    finally:
        for descriptor in (master, slave):
            os.close(descriptor)


def names_in(mesh: MeshProcess) -> list[str]:
    return [row["name"] for row in mesh.ps()]


def test_sighup_reloads(short_dir: Path) -> None:
    with serving(short_dir, STEADY) as mesh:
        write_config(short_dir, STEADY + ADDED)
        mesh.process.send_signal(signal.SIGHUP)
        mesh.wait_for_log("reloaded mesh.toml: added added")
        assert names_in(mesh) == ["steady", "added"]
        assert mesh.stop() == 0
        assert "SIGTERM: stopping" in mesh.log


def test_sighup_reloads_in_a_terminal_that_is_open(short_dir: Path) -> None:
    with terminal_settings() as (_, settings), serving(short_dir, STEADY, **settings) as mesh:
        write_config(short_dir, STEADY + ADDED)
        mesh.process.send_signal(signal.SIGHUP)
        mesh.wait_for_log("reloaded mesh.toml: added added")
        assert mesh.stop() == 0


def test_a_wrong_config_changes_nothing(short_dir: Path) -> None:
    with serving(short_dir, STEADY) as mesh:
        before = mesh.ps()[0]["pid"]
        write_config(short_dir, "[mesh]\nno_such_key = 1\n")
        mesh.process.send_signal(signal.SIGHUP)
        mesh.wait_for_log("keeping the current config")
        assert "no_such_key" in mesh.log
        write_config(short_dir, STEADY + '[mesh.log]\nlevel = "debug"\n')
        mesh.process.send_signal(signal.SIGHUP)
        mesh.wait_for_log("reloading mesh.toml: log cannot be changed while the mesh runs")
        assert mesh.ps()[0]["pid"] == before
        assert "Traceback" not in mesh.log


def test_signals_during_a_reload_lead_to_one_more(short_dir: Path) -> None:
    never_ready = plugin_table("slow", "startup_faults.py", "never-bind", ready_timeout=600)
    with serving(short_dir, STEADY) as mesh:
        write_config(short_dir, STEADY + never_ready)
        mesh.process.send_signal(signal.SIGHUP)
        mesh.wait_for_log("slow/0: ")
        for _ in range(5):
            mesh.process.send_signal(signal.SIGHUP)
            mesh.ps()  # By then the mesh has received the signal.
        assert mesh.log.count("SIGHUP: reloading the config") == 1
        # The reload waits for the instance, and fails as that is stopped.
        assert mesh.run_command("stop", "slow").returncode == 0
        wait_until(lambda: mesh.log.count("reloaded mesh.toml: ") == 2)
        mesh.process.send_signal(signal.SIGHUP)
        wait_until(lambda: mesh.log.count("reloaded mesh.toml: ") == 3)
        assert mesh.log.count("SIGHUP: reloading the config") == 3


def test_sighup_is_ignored_while_the_mesh_stops(short_dir: Path) -> None:
    slow = plugin_table("slow", "startup_faults.py", "ignore-sigterm", stop_timeout=2)
    with serving(short_dir, slow) as mesh:
        mesh.wait_for_log("ignoring")
        mesh.process.send_signal(signal.SIGTERM)
        mesh.wait_for_log("SIGTERM: stopping")
        for _ in range(3):
            mesh.process.send_signal(signal.SIGHUP)
        assert mesh.process.wait(60) == 0
        assert "reload" not in mesh.log
        assert "still stopping" not in mesh.log


def test_a_terminal_that_is_closed_stops_the_mesh(short_dir: Path) -> None:
    master, slave = os.openpty()

    def take_terminal() -> None:
        reset_sighup()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    settings = {"stdin": slave, "preexec_fn": take_terminal, "pass_fds": [slave]}
    with serving(short_dir, orderly_table(short_dir), **settings) as mesh:
        wait_until(lambda: is_orderly_waiting(short_dir))
        os.close(slave)
        os.close(master)
        assert mesh.process.wait(60) == 0
        assert "SIGHUP, the terminal was closed: stopping" in mesh.log
        assert "reload" not in mesh.log


def test_a_terminal_that_is_closed_after_sighup_stops_the_mesh(short_dir: Path) -> None:
    """As by zsh, which signals its jobs in the background and exits: these get no other signal."""
    ready, release = short_dir / "ready", short_dir / "release"
    os.mkfifo(ready)
    os.mkfifo(release)
    serve = shlex.join(serve_command(short_dir))
    # The mesh is in a group of its own in the background, as jobs are.
    script = f"set -m; {serve} 2>{short_dir}/log & echo $! >{ready}; read line <{release}"
    write_config(short_dir, orderly_table(short_dir))
    with terminal_settings() as (_, settings):
        shell = subprocess.Popen(["sh", "-c", script], start_new_session=True, **settings)
        with hold_pidfds([int(ready.read_text())]) as pidfds:
            log = short_dir / "log"
            wait_until(lambda: is_orderly_waiting(short_dir))
            (pid,) = pidfds
            os.kill(pid, signal.SIGHUP)
            release.write_text("go on\n")
            shell.wait(60)
            wait_until_ended(pidfds)
        assert (short_dir / "ended").read_text() == "stopped in order"
        assert "SIGHUP, the terminal was closed: stopping" in log.read_text()


@pytest.mark.parametrize(
    "command",
    [
        ["bash", "--norc", "-i"],  # Has the mesh as a job, to which it forwards the signal.
        ["sh", "-c"],  # Waits for the mesh, which is in the foreground with it.
        [],  # The mesh leads the session itself.
    ],
    ids=["interactive shell", "shell", "no shell"],
)
@pytest.mark.parametrize("end", ["kill-session", "kill-server"])
def test_a_closed_tmux_stops_the_mesh_and_leaves_nothing(
    short_dir: Path, command: list[str], end: str
) -> None:
    tmux = [find_debian_tool("tmux"), "-S", str(short_dir / "tmux"), "-f", "/dev/null"]
    log = short_dir / "log"
    write_config(short_dir, orderly_table(short_dir))
    serve = f"{shlex.join(serve_command(short_dir))} 2>{log}"
    if command == ["sh", "-c"]:
        program = [shlex.join([*command, f"{serve}; echo $?"])]
    elif command:
        program = [shlex.join(command)]
    else:
        program = [f"exec {serve}"]
    subprocess.run(
        [*tmux, "new-session", "-d", "-s", "test", *program],
        preexec_fn=reset_sighup,
        check=True,
        timeout=60,
    )
    try:
        if command[:1] == ["bash"]:
            subprocess.run([*tmux, "send-keys", serve, "Enter"], check=True, timeout=60)
        wait_until(lambda: is_orderly_waiting(short_dir))
        wait_until(lambda: accepts_connections(short_dir / "run" / "mesh.sock"))
        shown = [*tmux, "display-message", "-p", "#{pane_pid}"]
        pane = int(subprocess.run(shown, capture_output=True, check=True, timeout=60).stdout)
        with hold_pidfds({pane, *descendant_pids(pane)}) as pidfds:
            subprocess.run([*tmux, end], check=True, timeout=60)
            wait_until_ended(pidfds)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, timeout=60, capture_output=True)
    assert (short_dir / "ended").read_text() == "stopped in order"
    text = log.read_text()
    assert "mesh stopped: " in text
    assert "Traceback" not in text
