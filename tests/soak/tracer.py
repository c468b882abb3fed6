"""Trace a process, kill it and do not wait for it: `python -m tests.soak.tracer PID SECONDS`.

Until this ends the process is a zombie that its parent cannot reap, as below gdb or strace.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

_SEIZE = 0x4206


def main() -> None:
    pid, seconds = int(sys.argv[1]), float(sys.argv[2])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(_SEIZE, pid, None, None):
        sys.exit(f"cannot trace {pid}: {os.strerror(ctypes.get_errno())}")
    os.kill(pid, signal.SIGKILL)
    time.sleep(seconds)


if __name__ == "__main__":
    main()
