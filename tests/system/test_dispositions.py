"""Programs that were started with signals ignored, as shells start what runs in the background."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import PLUGINS, Served, plugin, until

IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)
EMBEDDED = """
import sys, trio
from meshtrio import mesh
from meshtrio.config import load

trio.run(mesh.main, load(sys.argv[1]))
"""


def ignored_by(pid: int) -> set[int]:
    """The signals among `IGNORED` that a process ignores, by the kernel's account."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            mask = int(line.split()[1], 16)
            return {number for number in IGNORED if mask >> (number - 1) & 1}
    raise AssertionError(f"{pid} has no SigIgn")


def started(folder: Path, *command: str) -> Served:
    """A program that runs a mesh in `folder`, and was started with signals ignored."""
    config = plugin("stuck", str(PLUGINS / "faulty.py"), "ignore-sigterm", stop_timeout=0.2)
    (folder / "mesh.toml").write_text(f'[mesh]\nruntime_dir = "{folder}/run"\n\n{config}')

    def ignore() -> None:
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)

    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, str(folder / "mesh.toml")],
            stdout=log,
            stderr=log,
            preexec_fn=ignore,
        )
    return Served(process, folder / "run", folder / "log")


@pytest.mark.parametrize(
    "command", [("-m", "meshtrio", "serve"), ("-c", EMBEDDED)], ids=["serve", "embedded"]
)
def test_plugins_have_the_default_dispositions(command: tuple[str, ...], short_dir: Path) -> None:
    mesh = started(short_dir, *command)
    try:
        (pid,) = until(mesh.pids)
        assert ignored_by(pid) == set()
        assert mesh.process.poll() is None
    finally:
        mesh.process.kill()
        mesh.process.wait()
        until(lambda: not mesh.pids())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_by_a_signal_that_it_was_started_to_ignore(
    number: int, short_dir: Path
) -> None:
    mesh = started(short_dir, "-m", "meshtrio", "serve")
    try:
        mesh.wait_for("ignoring")
        assert mesh.stop(number) == 0
    finally:
        mesh.process.kill()
