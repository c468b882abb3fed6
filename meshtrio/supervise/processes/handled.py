"""Which signals a process handles, as /proc says (proc_pid_status(5))."""

from __future__ import annotations

_FIELD = b"SigCgt:"


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal. False where that cannot be read."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            lines = file.read().splitlines()
        mask = next((line for line in lines if line.startswith(_FIELD)), b"0")
        return bool(int(mask.removeprefix(_FIELD), 16) >> (number - 1) & 1)
    except (OSError, ValueError):
        return False
