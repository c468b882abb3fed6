"""What is measured; every function gives the figures of one round, in seconds, bytes or shares."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.benchmarks.supervision.fleet import (
    POLL,
    PYTHON,
    TINY,
    Fleet,
    Kind,
    accepts,
    cpu_nanoseconds,
    resident,
    serving_pid,
)
from tests.benchmarks.supervision.supervisors import Up, bare, meshtrio, wait_for

Supervisor = Callable[[Fleet], AbstractContextManager[Up]]
IMPORTS = "import trio, purerpc, google.protobuf"
MANY, FEW = 110, 10
SETTLE = 2.0


@contextmanager
def up(supervisor: Supervisor, kind: Kind, count: int) -> Iterator[tuple[Up, Fleet]]:
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        fleet = Fleet(kind, count, Path(name))
        with supervisor(fleet) as found:
            yield found, fleet


def start(supervisor: Supervisor, count: int) -> float:
    """From the first spawn until so many Python plugins are up."""
    with up(supervisor, PYTHON, count) as (found, _):
        return found.seconds


def imports() -> float:
    """An interpreter that imports what every plugin does, and ends."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.monotonic() - began


def recover(supervisor: Supervisor) -> float:
    """From the SIGKILL of a Python plugin until its successor is up."""
    with up(supervisor, PYTHON, 1) as (_, fleet):
        time.sleep(SETTLE)
        (path,) = fleet.sockets()
        began = time.monotonic()
        os.kill(serving_pid(path), signal.SIGKILL)
        while accepts(path):
            time.sleep(POLL)
        while not accepts(path):
            time.sleep(POLL)
        return time.monotonic() - began


def lives(rounds: int) -> Iterator[dict[str, float]]:
    """One plugin of a mesh, killed again and again, with the two floors measured in between."""
    with up(meshtrio, PYTHON, 1) as (found, fleet):
        assert found.told is not None
        for _ in range(rounds):
            floor = {"imports": imports(), "bare": start(bare, 1)}
            killed = time.monotonic()
            os.kill(serving_pid(fleet.sockets()[0]), signal.SIGKILL)
            spawned = wait_for(found.told, "Starting")[2]
            ready = wait_for(found.told, "Ready")[2]
            yield {**floor, "spawn to ready": ready - spawned, "kill to ready": ready - killed}


def reactions(rounds: int) -> Iterator[float]:
    """From the SIGKILL of a plugin until the mesh has told of it."""
    with up(meshtrio, TINY, 1) as (found, fleet):
        assert found.told is not None
        for _ in range(rounds):
            pid = serving_pid(fleet.sockets()[0])
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            yield wait_for(found.told, "Exited")[2] - killed
            wait_for(found.told, "Ready")


def memory(supervisor: Supervisor) -> float:
    """Bytes that a supervisor's memory grows by with each plugin."""

    def used(count: int) -> int:
        with up(supervisor, TINY, count) as (found, _):
            time.sleep(SETTLE)
            return resident(found.pid)

    return (used(MANY) - used(FEW)) / (MANY - FEW)


def idle(supervisor: Supervisor, seconds: float) -> float:
    """The share of a core that a supervisor of 100 plugins that do nothing takes."""
    with up(supervisor, TINY, 100) as (found, _):
        time.sleep(SETTLE)
        before = cpu_nanoseconds(found.pid)
        time.sleep(seconds)
        return (cpu_nanoseconds(found.pid) - before) / 1e9 / seconds
