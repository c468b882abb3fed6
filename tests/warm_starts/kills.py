"""Kills the mesh, its warden and its template at random instants."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from random import Random

from tests.support.mesh_processes import echo_plugin_table, pids_with_environment, wait_until
from tests.support.process_tracking import hold_pidfds, template_pids, warden_pids

_NAMES = ("template", "mesh", "warden")
VICTIMS = [each for size in (1, 2, 3) for each in combinations(_NAMES, size)]
"""All combinations of processes to kill."""
MAX_SECONDS_LEFT = 2.0
"""Seconds within which everything has to be gone after the mesh was killed."""
_LATEST_INSTANT = 1.5
"""Seconds from the start of the mesh until the latest kill. On a slow machine plugins are starting
then; on a fast one all are ready."""


def measure_kill(folder: Path, victims: tuple[str, ...], random: Random) -> float:
    """Kill some processes of a new mesh at a random instant.

    If the mesh is none of them, it has to continue to work, and is killed then.

    Returns:
        Seconds until nothing was left after the mesh was killed.
    """
    config = echo_plugin_table(
        start="fork", instances=3, backoff={"initial": 0.01}, env={"TEST_OF_KILLS": str(folder)}
    )
    (folder / "mesh.toml").write_text(config)
    command = [sys.executable, "-m", "meshtrio", "serve", str(folder / "mesh.toml")]
    with (folder / "log").open("wb") as log:
        mesh = subprocess.Popen(
            [*command, "--runtime-dir", str(folder / "run")],
            stdout=log,
            stderr=log,
            env={**os.environ, "TEST_OF_KILLS": str(folder)},
        )
    try:
        time.sleep(random.uniform(0.0, _LATEST_INSTANT))  # any instant will do
        killed = _kill(mesh, victims)
        if "mesh" not in victims:
            wait_until(lambda: (folder / "log").read_text().count("ready after") >= 3)
            killed = _kill(mesh, ("mesh",))
        mesh.wait()
        wait_until(lambda: not pids_with_environment(f"TEST_OF_KILLS={folder}"))
        return time.monotonic() - killed
    finally:
        mesh.kill()
        mesh.wait()


def _kill(mesh: subprocess.Popen[bytes], victims: tuple[str, ...]) -> float:
    """Kill those that there are, so that none can react to the end of another; return when."""
    pids = {"mesh": [mesh.pid]}
    pids["warden"], pids["template"] = warden_pids(mesh.pid), template_pids(mesh.pid)
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(hold_pidfds(pid for each in victims for pid in pids[each]))
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pidfd in held.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)
        return time.monotonic()
