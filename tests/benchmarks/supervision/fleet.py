"""What every supervisor is given: the same plugins, at sockets that tell when they are up."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

import attrs

from tests.support.mesh_processes import (
    ECHO_PLUGIN_DIRECTORY,
    PLUGINS_DIRECTORY,
    accepts_connections,
)

POLL = 0.0005
START_TIMEOUT = 120.0


@attrs.frozen
class PluginProgram:
    """A program that serves on its PLUGIN_SOCKET."""

    command: tuple[str, ...]
    cwd: Path
    start: str = "exec"
    """How a mesh starts it."""


PYTHON_PLUGIN = PluginProgram((sys.executable, "echo_plugin.py"), ECHO_PLUGIN_DIRECTORY)
"""An ordinary plugin: trio, purerpc, protobuf, meshtrio."""
FORKED_PLUGIN = attrs.evolve(PYTHON_PLUGIN, start="fork,echo.v1.echo_grpc")
"""The same, started by fork."""
SLOW_IMPORT_PLUGIN = PluginProgram(
    (sys.executable, "slow_import_echo.py"), PLUGINS_DIRECTORY, "fork,slow_import"
)
"""A plugin that imports a module which takes a second."""
MINIMAL_PLUGIN = PluginProgram((sys.executable, "-I", "-S", "minimal.py"), PLUGINS_DIRECTORY)
"""Starts in some milliseconds, for what is not about the plugin."""


@attrs.frozen
class Fleet:
    """`count` plugins of a kind, with their sockets in `folder`."""

    kind: PluginProgram
    count: int
    folder: Path

    def sockets(self) -> list[Path]:
        return [self.folder / f"p{number}-0.sock" for number in range(self.count)]

    def environments(self) -> list[dict[str, str]]:
        return [
            {**os.environ, "PLUGIN_SOCKET": str(s), "PLUGIN_INSTANCE": "0"} for s in self.sockets()
        ]


def wait_until_up(paths: list[Path]) -> float:
    """Wait for all to accept; gives when the last did (seconds, monotonic)."""
    end = time.monotonic() + START_TIMEOUT
    for path in paths:
        while not accepts_connections(path):
            if time.monotonic() > end:
                raise SystemExit(f"nothing listens on {path} after {START_TIMEOUT:g} s")
            time.sleep(POLL)
    return time.monotonic()


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_pages(pid: int) -> tuple[int, int]:
    """Bytes of a process that only it has, and its share of all that it has in memory (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {words[0].rstrip(":"): int(words[1]) * 1024 for words in map(str.split, lines)}
    return sizes["Private_Clean"] + sizes["Private_Dirty"], sizes["Pss"]


def cpu_nanoseconds(pid: int) -> int:
    """CPU time of all threads of a process, as finely as the scheduler keeps it."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((thread / "schedstat").read_text().split()[0])
    return total


def serving_pid(path: Path) -> int:
    """Who listens on a socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], sys.byteorder)
