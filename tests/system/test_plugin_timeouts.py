"""Timeouts of connections that a plugin sets for its own server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

RUN = """
from meshtrio import Timeouts, plugin
plugin.run(timeouts=Timeouts(handshake=0.25))
"""
SERVE = """
import trio
from functools import partial
from meshtrio import Timeouts, plugin
trio.run(partial(plugin.serve, timeouts=Timeouts(handshake=0.25)))
"""


@contextmanager
def run_plugin(program: str, path: Path) -> Iterator[None]:
    """Run a plugin without a mesh, which serves on a Unix socket."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PLUGIN_", "MESH_"))}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment | {"PLUGIN_SOCKET": str(path)}) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)


def connect(path: Path) -> socket.socket:
    """Connect to a plugin as soon as it listens."""
    sock = socket.socket(socket.AF_UNIX)
    while True:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            sock.connect(str(path))
            return sock
        time.sleep(0.01)


@pytest.mark.parametrize("program", [RUN, SERVE], ids=["run", "serve"])
def test_a_client_that_sends_nothing_is_closed(program: str, short_dir: Path) -> None:
    with run_plugin(program, short_dir / "s"), connect(short_dir / "s") as sock:
        received = b"".join(iter(lambda: sock.recv(4096), b""))
    assert b"the peer did not speak HTTP/2 within 0.25 s" in received
