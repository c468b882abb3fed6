"""TCP ports for servers that are started later, by another process.

A port that the kernel chose may be taken again as soon as it is closed. These are from below
its ephemeral range (`ip_local_port_range`, 32768 by default), each is given out once in a process,
and each worker of pytest-xdist has a range of its own.
"""

from __future__ import annotations

import os
import random
import socket
from itertools import cycle

_FIRST = 20_000
_RANGE_SIZE = 1000
_MAX_WORKERS = 12

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _MAX_WORKERS
_start = _FIRST + _worker * _RANGE_SIZE
_offset = random.SystemRandom().randrange(_RANGE_SIZE)
"""Runs beside each other start at different ports."""
_candidates = cycle(_start + (_offset + number) % _RANGE_SIZE for number in range(_RANGE_SIZE))


def find_free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    for _ in range(_RANGE_SIZE):
        port = next(_candidates)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no free port from {_start} on")
