"""Kills the mesh, its warden, its template or a plugin at random instants of an upgrade."""

from __future__ import annotations

import contextlib
import signal
import time
from itertools import combinations
from pathlib import Path
from random import Random

from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    pids_with_environment,
    serve_mesh,
    wait_until,
)
from tests.support.process_tracking import hold_pidfds, template_pids, warden_pids

_NAMES = ("mesh", "warden", "template", "plugin")
VICTIMS = [each for size in (1, 2) for each in combinations(_NAMES, size)]
"""All processes and pairs of processes to kill."""
MAX_SECONDS_LEFT = 10.0
"""Seconds within which everything has to be gone after the mesh was killed: plugins that stop by
themselves, since the warden is killed too, have a few seconds."""
_LATEST_INSTANT = 4.5
"""Seconds from the request to the latest kill; an upgrade takes about as long."""
_INSTANCES = 3


def run_round(folder: Path, victims: tuple[str, ...], random: Random) -> str:
    """Kill some processes of a mesh at a random instant of an upgrade.

    Either everything is gone then, if the mesh is one of them; or the old or the new mesh works and
    is complete.

    Returns:
        What has come of it.
    """
    mark = f"TEST_OF_UPGRADES={folder}"
    config = echo_plugin_table(
        start="fork",
        instances=_INSTANCES,
        backoff={"initial": 0.01},
        env={"TEST_OF_UPGRADES": str(folder)},
    )
    with serve_mesh(folder, config, min_ready=_INSTANCES) as mesh:
        before = {row["pid"] for row in mesh.ps()}
        mesh.process.send_signal(signal.SIGUSR2)
        time.sleep(random.uniform(0.0, _LATEST_INSTANT))  # any instant will do
        killed = _kill(mesh, victims, random)
        if "mesh" in victims:
            result = "everything was gone"
        else:
            result = _check_complete(mesh, before - killed)
            _kill(mesh, ("mesh",), random)
        mesh.process.wait()
        end = time.monotonic() + MAX_SECONDS_LEFT
        wait_until(lambda: not pids_with_environment(mark))
        assert time.monotonic() < end, mesh.log
    return result


def _check_complete(mesh: MeshProcess, survivors: set[int]) -> str:
    """Wait for the end of the upgrade, and check that the mesh is complete."""
    outcomes = ("the mesh was upgraded", "upgrade failed", "the upgrade has failed")
    wait_until(lambda: any(text in mesh.log for text in outcomes))
    wait_until(lambda: [row["state"] for row in mesh.ps()] == ["ready"] * _INSTANCES)
    pids = {row["pid"] for row in mesh.ps()}
    assert survivors <= pids, mesh.log
    assert mesh.process.poll() is None
    wait_until(lambda: len(warden_pids(mesh.process.pid)) == 1)
    assert len(template_pids(mesh.process.pid)) <= 1
    assert mesh.run_command("restart", "echo").returncode == 0
    return "it was upgraded" if outcomes[0] in mesh.log else "the old one went on"


def _kill(mesh: MeshProcess, victims: tuple[str, ...], random: Random) -> set[int]:
    """Kill those that there are, so that none can react to the end of another; return the pids."""
    parent = mesh.process.pid
    pids = {"mesh": [parent], "warden": warden_pids(parent), "template": template_pids(parent)}
    pids["plugin"] = random.sample(sorted(mesh.plugin_pids()), 1) if "plugin" in victims else []
    found = {pid for each in victims for pid in pids[each]}
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(hold_pidfds(found))
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pidfd in held.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)
    return found
