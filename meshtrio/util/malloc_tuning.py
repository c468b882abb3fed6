"""Large messages without page faults: glibc is set to keep what it frees, for a while.

By default it gives each large message's pages back to the kernel and faults them in again for the
next one, which is half the cost of a 1 MiB call. After a peak the kernel gets them back at once.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import cache
from typing import Any

import trio

from meshtrio.rpc.peer_accounts import PROCESS_MEMORY

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h: from how much free memory on, and for which sizes, the kernel gets pages back."""
_TRIM_THRESHOLD = 64 * 1024 * 1024
_MMAP_THRESHOLD = 32 * 1024 * 1024
_MIN_TRIM_SIZE = 16 * 1024 * 1024
"""Bytes that calls no longer hold for which the kernel is given pages back; it takes some 0.1 ms
for each MiB."""
_MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def tune_malloc() -> None:
    """Keep up to 64 MB of what this process frees, once it has been seen to move large messages.

    Done once; not at all where the environment says how malloc is to behave (see mallopt(3)), nor
    with another C library than glibc.
    """
    mallopt = _libc_function("mallopt")
    if mallopt is not None and not any(name in os.environ for name in _MALLOC_VARIABLES):
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


async def trim_malloc() -> None:
    """Give the kernel back what calls have held since the last time, if that was much.

    Freed memory would otherwise stay with the process wherever something still used lies behind it.
    In a thread, since the kernel takes its time.
    """
    if PROCESS_MEMORY.peak - PROCESS_MEMORY.held < _MIN_TRIM_SIZE:
        return
    PROCESS_MEMORY.peak = PROCESS_MEMORY.held
    trim = _libc_function("malloc_trim")
    if trim is not None:
        with suppress(RuntimeError):  # No thread can be started now.
            await trio.to_thread.run_sync(trim, 0, abandon_on_cancel=True)


def _libc_function(name: str) -> Any:
    """Return a function that only glibc has; None elsewhere."""
    return getattr(ctypes.CDLL(None), name, None)
