"""What is measured; every function gives the figures of one round, in seconds, bytes or shares."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.benchmarks.supervision.fleet import (
    MINIMAL_PLUGIN,
    POLL,
    PYTHON_PLUGIN,
    Fleet,
    PluginProgram,
    cpu_nanoseconds,
    read_pages,
    resident,
    serving_pid,
)
from tests.benchmarks.supervision.supervisors import (
    RunningFleet,
    run_bare_popen,
    run_meshtrio,
    wait_for_event,
)
from tests.support.mesh_processes import accepts_connections

Supervisor = Callable[[Fleet], AbstractContextManager[RunningFleet]]
IMPORTS = "import trio, purerpc, google.protobuf"
MANY, FEW = 110, 10
SETTLE = 2.0


@contextmanager
def run_fleet(
    supervisor: Supervisor, kind: PluginProgram, count: int
) -> Iterator[tuple[RunningFleet, Fleet]]:
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        fleet = Fleet(kind, count, Path(name))
        with supervisor(fleet) as found:
            yield found, fleet


def measure_start(supervisor: Supervisor, count: int, kind: PluginProgram = PYTHON_PLUGIN) -> float:
    """From the first spawn until so many Python plugins are up."""
    with run_fleet(supervisor, kind, count) as (found, _):
        return found.seconds


def measure_pages(kind: PluginProgram) -> tuple[float, float]:
    """Bytes of an idle Python plugin, one of many: private ones, and its share of all (PSS)."""
    with run_fleet(run_meshtrio, kind, FEW) as (_, fleet):
        time.sleep(SETTLE)
        found = [read_pages(serving_pid(path)) for path in fleet.sockets()]
    private, proportional = zip(*found, strict=True)
    return statistics.mean(private), statistics.mean(proportional)


def measure_imports() -> float:
    """An interpreter that imports what every plugin does, and ends."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.monotonic() - began


def measure_recovery(supervisor: Supervisor) -> float:
    """From the SIGKILL of a Python plugin until its successor is up."""
    with run_fleet(supervisor, PYTHON_PLUGIN, 1) as (_, fleet):
        time.sleep(SETTLE)
        (path,) = fleet.sockets()
        began = time.monotonic()
        os.kill(serving_pid(path), signal.SIGKILL)
        while accepts_connections(path):
            time.sleep(POLL)
        while not accepts_connections(path):
            time.sleep(POLL)
        return time.monotonic() - began


def measure_restarts(rounds: int, kind: PluginProgram) -> Iterator[dict[str, float]]:
    """One plugin of a mesh, killed again and again, with the two floors measured in between."""
    with run_fleet(run_meshtrio, kind, 1) as (found, fleet):
        assert found.events is not None
        for _ in range(rounds):
            floor = {"imports": measure_imports(), "bare": measure_start(run_bare_popen, 1)}
            killed = time.monotonic()
            os.kill(serving_pid(fleet.sockets()[0]), signal.SIGKILL)
            # A forked process has begun when its start is reported, so that the fork counts, too.
            exited = wait_for_event(found.events, "Exited")[2]
            spawned = wait_for_event(found.events, "Starting")[2]
            ready = wait_for_event(found.events, "Ready")[2]
            began = spawned if kind.start == "exec" else exited
            yield {**floor, "spawn to ready": ready - began, "kill to ready": ready - killed}


def measure_reactions(rounds: int) -> Iterator[float]:
    """From the SIGKILL of a plugin until the mesh has told of it."""
    with run_fleet(run_meshtrio, MINIMAL_PLUGIN, 1) as (found, fleet):
        assert found.events is not None
        for _ in range(rounds):
            pid = serving_pid(fleet.sockets()[0])
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            yield wait_for_event(found.events, "Exited")[2] - killed
            wait_for_event(found.events, "Ready")


def measure_memory(supervisor: Supervisor) -> float:
    """Bytes that a supervisor's memory grows by with each plugin."""

    def used(count: int) -> int:
        with run_fleet(supervisor, MINIMAL_PLUGIN, count) as (found, _):
            time.sleep(SETTLE)
            return resident(found.pid)

    return (used(MANY) - used(FEW)) / (MANY - FEW)


def measure_idle_cpu(supervisor: Supervisor, seconds: float) -> float:
    """The share of a core that a supervisor of 100 plugins that do nothing takes."""
    with run_fleet(supervisor, MINIMAL_PLUGIN, 100) as (found, _):
        time.sleep(SETTLE)
        before = cpu_nanoseconds(found.pid)
        time.sleep(seconds)
        return (cpu_nanoseconds(found.pid) - before) / 1e9 / seconds
