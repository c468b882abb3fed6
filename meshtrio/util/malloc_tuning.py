"""Settings of glibc's malloc for processes that move large messages.

By default glibc returns the pages of each large message to the kernel and faults them in again for
the next one, which is half the cost of a call with 1 MiB. Tuned, it keeps up to 64 MiB of what the
process frees, and returns them after a peak.

The settings concern the whole process, so they are used only in processes that run nothing but
meshtrio: `plugin.run` and `meshtrio serve` call `MALLOC_TUNING.enable`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import trio

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), from malloc.h."""
_TRIM_THRESHOLD = 64 * 1024 * 1024
"""Size of free memory, in bytes, above which glibc returns pages to the kernel."""
_MMAP_THRESHOLD = 32 * 1024 * 1024
"""Size of an allocation, in bytes, above which it gets pages of its own."""
_MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def _find_libc_function(name: str) -> Any:
    """Return a function of the C library; None if it has no such function, as musl."""
    return getattr(ctypes.CDLL(None), name, None)


class MallocTuning:
    """Tunes malloc once it is enabled and large messages have been seen."""

    def __init__(
        self,
        find_function: Callable[[str], Any] = _find_libc_function,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._find_function = find_function
        self._is_configured = any(name in environ for name in _MALLOC_VARIABLES)
        self._is_enabled = self._is_tuned = False

    def enable(self) -> None:
        """Allow `tune` and `trim` to act; for programs that own their process."""
        self._is_enabled = True

    @property
    def is_allowed(self) -> bool:
        """Whether malloc is tuned when it pays, or already is by the environment."""
        return self._is_enabled or self._is_configured

    def tune(self) -> None:
        """Make malloc keep what is freed, since the process moves large messages.

        Does nothing the second time, if the environment configures malloc (see mallopt(3)), or with
        another C library than glibc.
        """
        if self._is_tuned or not self._is_enabled:
            return
        self._is_tuned = True
        mallopt = self._find_function("mallopt")
        if mallopt is not None and not self._is_configured:
            mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
            mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)

    async def trim(self) -> None:
        """Return free memory to the kernel, in a thread; it takes about 0.1 ms per MiB.

        Freed memory would otherwise stay with the process below anything that is still in use.
        Cancellation: returns immediately, and the thread finishes by itself.
        """
        trim = self._find_function("malloc_trim") if self._is_enabled else None
        if trim is not None:
            with suppress(RuntimeError):  # No thread can be started now.
                await trio.to_thread.run_sync(trim, 0, abandon_on_cancel=True)


MALLOC_TUNING = MallocTuning()
"""The tuning of this process."""
