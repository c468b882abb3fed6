"""A schedule that does not wait for replies: an open loop.

The kernel's timer keeps it, since the event loops round their own timeouts up to a millisecond.
"""

from __future__ import annotations

import ctypes
import os
import time
from types import TracebackType
from typing import Self

_LIBC = ctypes.CDLL(None, use_errno=True)
# From <sys/timerfd.h>; Python has had these calls since 3.13.
_TFD_TIMER_ABSTIME = 1
_START_DELAY = 0.001


class _TimerSpec(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = tuple(
        (name, ctypes.c_long) for name in ("interval_s", "interval_ns", "first_s", "first_ns")
    )


class Pacer:
    """Is readable whenever calls are due: `rate` times a second, `count` times altogether."""

    def __init__(self, rate: float, count: int) -> None:
        self._interval = 1e9 / rate
        self._count = count
        self._done = 0
        self._began = 0

    def __enter__(self) -> Self:
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = _check(_LIBC.timerfd_create(time.CLOCK_MONOTONIC, flags))
        self._began = time.monotonic_ns() + int(_START_DELAY * 1e9)
        spec = _TimerSpec(0, int(self._interval), *divmod(self._began, 10**9))
        _check(_LIBC.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    @property
    def has_ended(self) -> bool:
        return self._done == self._count

    def take_due(self) -> list[float]:
        """Return when the calls that are due now were due, by `time.monotonic`."""
        try:
            ticks = int.from_bytes(os.read(self._fd, 8), "little")
        except BlockingIOError:
            return []
        first = self._done
        self._done = min(first + ticks, self._count)
        return [
            (self._began + number * self._interval) / 1e9 for number in range(first, self._done)
        ]


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
