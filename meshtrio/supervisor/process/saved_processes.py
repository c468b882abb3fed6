"""What a mesh hands over to itself, of its processes, when it executes its new code.

Descriptors are given by their numbers, which stay the same. Times are seconds of CLOCK_MONOTONIC,
since the clock of trio starts anew with each program.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import attrs
import trio

from meshtrio.config import StartMethod

CLOSED = -1
"""The number of a pipe that has ended."""


def to_monotonic(when: float) -> float:
    """Convert a time of trio's clock to CLOCK_MONOTONIC."""
    return when - trio.current_time() + time.monotonic()


def from_monotonic(when: float) -> float:
    """Convert a time of CLOCK_MONOTONIC to trio's clock."""
    return when - time.monotonic() + trio.current_time()


@attrs.frozen(kw_only=True)
class SavedPipe:
    """A pipe of a process's output, and what was read from it and not handled yet."""

    descriptor: int
    """The read end; `CLOSED` if it has ended."""
    data: bytes = b""
    """The beginning of a line, and lines behind it that were not handled."""
    truncated: int = 0
    """Number of bytes of the first line that were dropped."""
    dropped: int = 0
    """Number of lines that were dropped and not reported yet."""
    partial_stderr_line: bytes = b""
    """The beginning of a line that is to be among the last of stderr."""


@attrs.frozen(kw_only=True)
class SavedProcess:
    """A process that the mesh has started."""

    pid: int
    pidfd: int
    stdout: SavedPipe
    stderr: SavedPipe
    cgroup: Path | None = None
    start_method: StartMethod = StartMethod.EXEC


@attrs.frozen(kw_only=True)
class SavedWarden:
    """The warden, and what it watches."""

    pid: int
    pidfd: int
    socket: int
    """The socket to it."""
    watched: Mapping[int, int]
    """The pidfds of watched processes, by pid."""
    templates: tuple[int, ...] = ()
    """Pids of those that are templates."""


@attrs.frozen(kw_only=True)
class SavedReparented:
    """An unmarked child of the mesh that a plugin has left."""

    pid: int
    pidfd: int
    plugins: tuple[int, ...]
    """Pids of the plugins of which one has started it."""


@attrs.frozen(kw_only=True)
class SavedChild:
    """A child that is to be reaped when that becomes possible."""

    pid: int
    pidfd: int


@attrs.frozen(kw_only=True)
class SavedTemplateKey:
    """The fields of a `TemplateKey`."""

    interpreter: tuple[str, ...]
    modules: tuple[str, ...]
    search_path: str | None
    cwd: str
    env: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    user: str | None
    group: str | None
    nice: int | None


@attrs.frozen(kw_only=True)
class SavedTemplate:
    """A template that serves."""

    key: SavedTemplateKey
    name: str
    launch_id: str
    process: SavedProcess
    control: int
    """The mesh's end of its control socket."""
    started_at: float
    started_ticks: float
    plugins: tuple[str, ...] = ()
    """The plugins that are forked from it."""


@attrs.frozen(kw_only=True)
class SavedMeshRun:
    """The marks of the mesh's processes."""

    id: str
    pidfd: int
    """The pidfd of the mesh that plugins inherit."""
    users: tuple[int, ...]
    next_run_number: int


@attrs.frozen(kw_only=True)
class SavedProcesses:
    """The processes of a mesh apart from the plugins', and what they are found by."""

    mesh_run: SavedMeshRun
    warden: SavedWarden
    is_subreaper: bool = False
    reparented: tuple[SavedReparented, ...] = ()
    deferred: tuple[SavedChild, ...] = ()
    templates: tuple[SavedTemplate, ...] = ()
    cgroup_lock: int | None = None
