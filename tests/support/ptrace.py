"""A process that traces others by ptrace(2) and does nothing else, as a debugger that waits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_PROGRAM = """
import ctypes, os, sys

libc = ctypes.CDLL(None, use_errno=True)
for pid in map(int, sys.argv[1:]):
    if libc.ptrace(0x4206, pid, None, None):  # PTRACE_SEIZE
        sys.exit(f"{pid}: {os.strerror(ctypes.get_errno())}")
print("traces", flush=True)
sys.stdin.read()
"""


@contextmanager
def trace_tasks(*tasks: int) -> Iterator[subprocess.Popen[bytes]]:
    """Trace processes, or single threads, during the block, and never wait for them.

    A process that ends is then kept as a zombie for the tracer.
    """
    tracer = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *map(str, tasks)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with tracer:
        assert tracer.stdout is not None
        assert tracer.stderr is not None
        try:
            if not tracer.stdout.readline():
                pytest.skip(f"ptrace(2) is not allowed here: {tracer.stderr.read().decode()}")
            yield tracer
        finally:
            tracer.kill()
