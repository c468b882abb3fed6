"""What a process that only serves sets up of its memory: the C library's heap and the collector.

By default glibc gives each large message's pages back to the kernel and faults them in again for
the next one, which is half the cost of a 1 MiB call. After a peak the kernel gets them back.
"""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from functools import cache
from typing import Any

import trio

from meshtrio.rpc.accounts import PROCESS

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h: from how much free memory on, and for which sizes, the kernel gets pages back."""
_KEPT = 64 * 1024 * 1024
_FROM_THE_HEAP = 32 * 1024 * 1024
_WORTH_IT = 16 * 1024 * 1024
"""Bytes that calls no longer hold for which the kernel is given pages back; it takes some 0.1 ms
for each MiB."""
_USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> None:
    """Keep up to 64 MB of what this process frees, once it has been seen to move large messages.

    Done once; not at all where the environment says how malloc is to behave (see mallopt(3)), nor
    with another C library than glibc.
    """
    mallopt = _function_of_libc("mallopt")
    if mallopt is not None and not any(name in os.environ for name in _USERS_OWN):
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _FROM_THE_HEAP)


async def return_freed_memory() -> None:
    """Give the kernel back what calls have held since the last time, if that was much.

    Freed memory would otherwise stay with the process wherever something still used lies behind it.
    """
    if PROCESS.peak - PROCESS.held >= _WORTH_IT:
        PROCESS.peak = PROCESS.held
        await trim_heap()


async def trim_heap() -> None:
    """Give freed pages back to the kernel, in a thread, since it takes its time."""
    trim = _function_of_libc("malloc_trim")
    if trim is not None:
        with suppress(RuntimeError):  # No thread can be started now.
            await trio.to_thread.run_sync(trim, 0, abandon_on_cancel=True)


def freeze_startup_objects() -> None:
    """Leave the objects that exist by now out of garbage collections.

    In a mesh these are 60,000 functions, classes and the like, which live as long as the process. A
    full collection visits each of them, which takes 0.04 s, while the event loop waits. Only for
    processes that do nothing but serve.
    """
    gc.freeze()


def _function_of_libc(name: str) -> Any:
    """Return a function that only glibc has; None elsewhere."""
    return getattr(ctypes.CDLL(None), name, None)
