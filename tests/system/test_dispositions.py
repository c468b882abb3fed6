"""Programs that were started with signals ignored, as shells start what runs in the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    MeshProcess,
    plugin_table,
    wait_until,
)

IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGCHLD)
BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
EMBEDDED = """
import logging, sys, trio
from meshtrio import mesh
from meshtrio.config import load

logging.basicConfig(level=logging.INFO)
trio.run(mesh.main, load(sys.argv[1]))
"""
IN_A_THREAD = """
import logging, sys, threading, trio
from meshtrio import mesh
from meshtrio.config import load

logging.basicConfig(level=logging.INFO)
threading.Thread(target=trio.run, args=(mesh.main, load(sys.argv[1]))).start()
"""


def read_signal_set(pid: int, field: str = "SigIgn:") -> set[int]:
    """Return the signals in a field of /proc/PID/status, by default those that are ignored."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            mask = int(line.split()[1], 16)
            return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}
    raise AssertionError(f"{pid} has no {field}")


STUCK = plugin_table(
    "stuck", str(PLUGINS_DIRECTORY / "startup_faults.py"), "ignore-sigterm", stop_timeout=0.2
)


def start_mesh(
    folder: Path, *command: str, config: str = STUCK, blocked: bool = False
) -> MeshProcess:
    """Start a program that runs a mesh in `folder`, with signals ignored or blocked."""
    (folder / "mesh.toml").write_text(f'[mesh]\nruntime_dir = "{folder}/run"\n\n{config}')

    def ignore() -> None:
        if blocked:
            signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        for number in () if blocked else IGNORED:
            signal.signal(number, signal.SIG_IGN)

    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, str(folder / "mesh.toml")],
            stdout=log,
            stderr=log,
            preexec_fn=ignore,
        )
    return MeshProcess(process, folder / "run", folder / "log")


@pytest.mark.parametrize(
    "command",
    [("-m", "meshtrio", "serve"), ("-c", EMBEDDED), ("-c", IN_A_THREAD)],
    ids=["serve", "embedded", "in a thread"],
)
def test_plugins_have_the_default_dispositions(command: tuple[str, ...], short_dir: Path) -> None:
    mesh = start_mesh(short_dir, *command)
    try:
        # Not before the program runs: it may be started by the launcher.
        mesh.wait_for_log("ignoring")
        (pid,) = wait_until(mesh.plugin_pids)
        assert read_signal_set(pid) & {*IGNORED} == set()
        assert mesh.process.poll() is None
        os.kill(pid, signal.SIGKILL)
        mesh.wait_for_log("was killed by SIGKILL")
    finally:
        mesh.process.kill()
        mesh.process.wait()
        wait_until(lambda: not mesh.plugin_pids())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_by_a_signal_that_it_was_started_to_ignore(
    number: int, short_dir: Path
) -> None:
    mesh = start_mesh(short_dir, "-m", "meshtrio", "serve")
    try:
        mesh.wait_for_log("ignoring")
        assert mesh.stop(number) == 0
    finally:
        mesh.process.kill()


@pytest.mark.parametrize("command", [("-m", "meshtrio", "serve"), ("-c", EMBEDDED)], ids=str)
def test_plugins_begin_with_no_signal_blocked(command: tuple[str, ...], short_dir: Path) -> None:
    mesh = start_mesh(short_dir, *command, blocked=True)
    try:
        mesh.wait_for_log("ignoring")
        (pid,) = wait_until(mesh.plugin_pids)
        assert read_signal_set(pid, "SigBlk:") == set()
        if "serve" in command:
            assert mesh.stop(signal.SIGTERM) == 0
    finally:
        mesh.process.kill()
        mesh.process.wait()
        wait_until(lambda: not mesh.plugin_pids())


REAPING = """
import os, sys, threading, time, trio
from meshtrio import mesh
from meshtrio.config import load

def reap():
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.001)

threading.Thread(target=reap, daemon=True).start()
trio.run(mesh.main, load(sys.argv[1]))
"""


def test_a_status_that_other_code_has_taken_is_no_success(short_dir: Path) -> None:
    """Such as that of a library which waits for all children."""
    config = plugin_table(
        "p", "-c", "exit(0)", restart="always", backoff={"initial": 0.01, "maximum": 0.01}
    )
    mesh = start_mesh(short_dir, "-c", REAPING, config=config)
    try:
        # Whoever waits first has it, so that it may take some starts.
        mesh.wait_for_log("ended, but its exit status is not known")
        assert "Traceback" not in mesh.log
    finally:
        mesh.process.kill()
        mesh.process.wait()
        wait_until(lambda: not mesh.plugin_pids())
