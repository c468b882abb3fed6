"""Large messages without page faults: glibc is told to keep what it frees.

By default it gives each large message's pages back to the kernel and faults them in again for the
next one, which is half the cost of a 1 MiB call.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h: from how much free memory on, and for which sizes, the kernel gets pages back."""
_KEPT = 64 * 1024 * 1024
_FROM_THE_HEAP = 32 * 1024 * 1024
_USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> None:
    """Keep up to 64 MB of what this process frees, once it has been seen to move large messages.

    Done once; not at all where the environment says how malloc is to behave (see mallopt(3)), nor
    with another C library than glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(name in os.environ for name in _USERS_OWN):
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _FROM_THE_HEAP)
