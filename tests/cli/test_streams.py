"""`serve`, and plugins, whose standard streams are closed, full or gone, and SIGHUP."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh_processes import (
    ECHO_PLUGIN_DIRECTORY,
    PLUGINS_DIRECTORY,
    MeshProcess,
    accepts_connections,
    plugin_table,
    wait_until,
)

ORDERLY = str(PLUGINS_DIRECTORY / "sigterm_recorder.py")
CLOSED = [
    " ".join(f"{number}{sign}&-" for number, sign in streams)
    for count in (1, 2, 3)
    for streams in itertools.combinations([(0, "<"), (1, ">"), (2, ">")], count)
]
"""Every combination of closed streams, as a shell writes it."""


def serve(folder: Path, *before: str, **settings: Any) -> subprocess.Popen[bytes]:
    """Start a mesh whose plugin writes to `folder/ended` how it was ended."""
    (folder / "mesh.toml").write_text(plugin_table("orderly", ORDERLY, str(folder / "ended")))
    command = [*before, sys.executable, "-m", "meshtrio", "serve", str(folder / "mesh.toml")]
    command += ["--runtime-dir", str(folder / "run")]
    defaults = {"stdin": subprocess.DEVNULL, "preexec_fn": reset_sighup}
    return subprocess.Popen(command, **{**defaults, **settings})


def reset_sighup() -> None:
    """Whoever runs the tests may do so below nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def serving(folder: Path, *before: str, **settings: Any) -> Iterator[MeshProcess]:
    process = serve(folder, *before, **settings)
    mesh = MeshProcess(process, folder / "run", Path(os.devnull))
    try:
        wait_until(lambda: accepts_connections(mesh.socket) and exit_text(mesh) == "waiting")
        yield mesh
    finally:
        process.kill()
        process.wait()
        wait_until(lambda: not mesh.plugin_pids(), timeout=5)


def exit_text(mesh: MeshProcess) -> str:
    """Return how the plugin was ended, as far as it could write that."""
    path = mesh.runtime_dir.parent / "ended"
    return path.read_text() if path.exists() else ""


def streams_of(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]


def take_terminal() -> None:
    """Make stdin's terminal the controlling one of this session, as a terminal's shell has it."""
    reset_sighup()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_terminal_that_is_closed_stops_the_mesh_in_order(short_dir: Path) -> None:
    master, slave = os.openpty()
    settings = {"stdin": slave, "stdout": slave, "stderr": slave, "preexec_fn": take_terminal}
    with serving(short_dir, start_new_session=True, **settings) as mesh:
        os.close(slave)
        os.close(master)
        assert mesh.process.wait(20) == 0
        assert exit_text(mesh) == "stopped in order"
        assert not mesh.socket.exists()


def test_a_mesh_whose_terminal_has_gone_without_a_word_goes_on(short_dir: Path) -> None:
    """Not its controlling terminal: what it writes fails with EIO."""
    master, slave = os.openpty()
    settings = {"stdin": slave, "stdout": slave, "stderr": slave}
    with serving(short_dir, start_new_session=True, **settings) as mesh:
        os.close(slave)
        os.close(master)
        assert mesh.run_command("restart", "orderly", "--timeout", "0.5").returncode == 1
        assert mesh.ps()[0]["name"] == "orderly"
        assert mesh.stop() == 0
        assert exit_text(mesh) == "stopped in order"


def test_below_nohup_sighup_is_ignored(short_dir: Path) -> None:
    with serving(short_dir, "nohup", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as mesh:
        mesh.process.send_signal(signal.SIGHUP)
        assert mesh.ps()[0]["name"] == "orderly"
        assert mesh.stop() == 0


@pytest.mark.long
def test_any_of_its_streams_may_be_closed(short_dir: Path) -> None:
    with ExitStack() as stack:
        meshes = []
        for number, closed in enumerate(CLOSED):
            folder = short_dir / str(number)
            folder.mkdir()
            shell = ("sh", "-c", f'exec "$@" {closed}', "sh")
            meshes.append(stack.enter_context(serving(folder, *shell, stdout=subprocess.DEVNULL)))
        for mesh, closed in zip(meshes, CLOSED, strict=True):
            for number, target in enumerate(streams_of(mesh.process.pid)):
                assert (f"{number}" in closed) <= (target == os.devnull), (closed, target)
        for mesh in meshes:
            mesh.process.send_signal(signal.SIGTERM)
        for mesh in meshes:
            assert mesh.process.wait(20) == 0
            assert exit_text(mesh) == "stopped in order"


def test_a_reader_of_its_log_that_goes_costs_lines_and_nothing_else(short_dir: Path) -> None:
    reading, writing = os.pipe()
    with serving(short_dir, stdout=writing, stderr=writing) as mesh:
        os.close(writing)
        os.close(reading)
        assert mesh.run_command("stop", "orderly").returncode == 0
        assert mesh.ps()[0]["state"] == "stopped"
        assert mesh.stop() == 0


@pytest.mark.parametrize("arguments", [("serve", "/no/such/file"), ("--help",), ("ps",)])
def test_a_command_whose_disk_is_full_or_terminal_gone_ends_without_a_traceback(
    arguments: tuple[str, ...], short_dir: Path
) -> None:
    """What it can say of that it says to whichever stream there is."""
    command = [sys.executable, "-m", "meshtrio", *arguments]
    environment = {**os.environ, "MESH_SOCKET": str(short_dir / "none")}
    master, slave = os.openpty()
    os.close(master)
    with open("/dev/full", "wb") as full, os.fdopen(slave, "wb", buffering=0) as gone:
        for stdout, stderr in ((full, full), (gone, gone), (full, gone)):
            done = subprocess.run(
                command, stdout=stdout, stderr=stderr, env=environment, timeout=60, check=False
            )
            assert done.returncode in (0, 1, 2), (stdout, done)
        silent = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=environment, timeout=60, check=False
        )
    assert b"Traceback" not in silent.stderr


def test_a_log_on_a_disk_that_is_full_costs_lines_and_nothing_else(short_dir: Path) -> None:
    with open("/dev/full", "wb") as full, serving(short_dir, stdout=full, stderr=full) as mesh:
        assert mesh.run_command("stop", "orderly").returncode == 0
        assert mesh.stop() == 0


@pytest.mark.long
def test_any_stream_of_a_plugin_may_be_closed(short_dir: Path) -> None:
    program = f'exec "{sys.executable}" "{ECHO_PLUGIN_DIRECTORY / "echo_plugin.py"}"'
    processes = []
    try:
        for number, closed in enumerate(CLOSED):
            path = short_dir / f"{number}.sock"
            process = subprocess.Popen(
                ["sh", "-c", f"{program} {closed}"],
                env={**os.environ, "PLUGIN_SOCKET": str(path)},
                stdin=subprocess.DEVNULL,
                preexec_fn=reset_sighup,
            )
            processes.append((process, path, closed))
        for process, path, closed in processes:
            wait_until(path.exists)
            for number, target in enumerate(streams_of(process.pid)):
                assert (f"{number}" in closed) <= (target == os.devnull), (closed, target)
            process.send_signal(signal.SIGHUP)
        for process, _, _ in processes:
            assert process.wait(20) == 0
    finally:
        for process, _, _ in processes:
            process.kill()
            process.wait()
