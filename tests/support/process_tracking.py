"""Processes that a test follows by pidfd, and namespaces that it makes for them."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.mesh_processes import (
    MeshProcess,
    child_pids,
    pids_with_environment,
    plugin_table,
    wait_until,
)

EXIT_TIMEOUT = 60.0
"""Seconds in which processes that have to end have ended, on any machine."""


def warden_pids(parent: int) -> list[int]:
    """Return the pids of the wardens of a mesh."""
    return _find_children(parent, b"warden_main")


def template_pids(parent: int) -> list[int]:
    """Return the pids of the templates of a mesh."""
    return _find_children(parent, b"template_main")


def _find_children(parent: int, word: bytes) -> list[int]:
    found = []
    for pid in child_pids(parent):
        with suppress(FileNotFoundError, ProcessLookupError):  # It may end meanwhile.
            if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@contextmanager
def hold_pidfds(pids: Iterable[int]) -> Iterator[dict[int, int]]:
    """Yield a pidfd of each by its pid; processes that are left at the end are killed."""
    pidfds = {pid: os.pidfd_open(pid) for pid in pids}
    try:
        yield pidfds
    finally:
        for pidfd in pidfds.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def has_ended(pidfd: int, timeout: float = 0.0) -> bool:
    """Return whether a process ends within `timeout` seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def wait_until_ended(pidfds: dict[int, int], timeout: float = EXIT_TIMEOUT) -> None:
    end = time.monotonic() + timeout
    left = [pid for pid, fd in pidfds.items() if not has_ended(fd, max(0, end - time.monotonic()))]
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left}
    assert not names


def kill_with_warden(mesh: MeshProcess) -> None:
    """Kill a mesh and its warden at once, so that neither can react to the other."""
    found = [*warden_pids(mesh.process.pid), mesh.process.pid]
    assert len(found) == 2
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in found:
            os.kill(pid, number)
    mesh.process.wait()


def pid_from_log(mesh: MeshProcess, text: str = r"escaped (\d+) for good") -> int:
    """Return the pid that a plugin has logged last."""
    found = wait_until(lambda: re.findall(text, mesh.log))
    return int(found[-1])


def require_namespaces() -> None:
    """Skip the test if no namespaces can be made; fail it in CI."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        assert not os.environ.get("CI"), "only root, and with unshare(1), can make a namespace"
        pytest.skip("only root, and with unshare(1), can make a namespace")


PROCESSES_PER_MESH = 6
"""Two instances of the plugin, each with a child in its group and one in a session of its own."""


def nested_mesh_table(folder: Path, depth: int, **settings: object) -> str:
    """Return the table of a plugin with a mesh in it, with a mesh in a plugin of that, ..."""
    command = ["nested_mesh.py", f"{folder}/i", str(depth)]
    return plugin_table("mesh", *command, ready_timeout=3600, **settings)


def descendant_pids(pid: int) -> set[int]:
    found: set[int] = set()
    left = [pid]
    while left:
        below = child_pids(left.pop())
        found.update(below)
        left += below
    return found


def nested_mesh_pids(mesh: MeshProcess, folder: Path, depth: int) -> set[int]:
    """Return all processes of a mesh and of those inside it, once they all run."""
    runtime_dirs = [f"{folder}/{'i' * (level + 1)}" for level in range(depth)]
    inner = [f"PLUGIN_SOCKET={runtime_dir}/inner" for runtime_dir in runtime_dirs]
    wait_until(
        lambda: all(len(pids_with_environment(mark)) == PROCESSES_PER_MESH for mark in inner)
    )
    found = descendant_pids(mesh.process.pid)
    for mark in (f"PLUGIN_SOCKET={mesh.runtime_dir}/", *inner):
        found.update(pids_with_environment(mark))
    return found


@contextmanager
def serve_mesh_as_pid_1(folder: Path, config: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Serve in a PID namespace of its own; yields what started it, and its pid in ours."""
    require_namespaces()
    (folder / "mesh.toml").write_text(config)
    serve = [sys.executable, "-m", "meshtrio", "serve", str(folder / "mesh.toml")]
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", *serve, "--runtime-dir", folder / "run"],
            stdout=out,
            stderr=out,
        )
    try:
        (init,) = wait_until(lambda: child_pids(process.pid))
        yield process, init
    finally:
        for pid in child_pids(process.pid) if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.wait(20)
