"""Upgrades of a mesh under `serve`, seen from outside."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.mesh_processes import MeshProcess


def upgrade(mesh: MeshProcess) -> None:
    """Upgrade a mesh, which has to succeed."""
    done = mesh.run_command("upgrade")
    assert done.returncode == 0, f"{done.stderr}\n{mesh.log}"
    assert "the plugins have kept running" in done.stdout


def count_descriptors(pid: int) -> dict[str, int]:
    """Count the descriptors of a process by kind, apart from those of trio's own start-up."""
    found: dict[str, int] = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        kind = target.partition(":")[0]
        found[kind] = found.get(kind, 0) + 1
    return found


def identify(mesh: MeshProcess) -> list[tuple[Any, ...]]:
    """Return what has to stay the same of each instance."""
    keys = ("name", "instance", "pid", "state", "restarts", "socket")
    return [tuple(row[key] for key in keys) for row in mesh.ps()]


@contextmanager
def connecting_all_the_time(address: Path | tuple[str, int]) -> Iterator[list[str]]:
    """Connect to a socket in a tight loop during the block; yields the errors."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    where = address if isinstance(address, tuple) else str(address)
    errors: list[str] = []
    stopped = threading.Event()
    count = 0

    def connect() -> None:
        nonlocal count
        while not stopped.is_set():
            with socket.socket(family) as client:
                client.settimeout(30)
                try:
                    client.connect(where)
                except OSError as exc:
                    errors.append(repr(exc))
            count += 1
            stopped.wait(0.002)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield errors
    finally:
        stopped.set()
        thread.join()
        assert count > 10
