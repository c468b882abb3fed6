"""Holds signals while a program executes another one, so that none is lost or fatal."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from meshtrio.supervisor.process.spawn.signal_dispositions import is_caught_in_place_of_ignoring


def _record(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number is in the pipe."""


class SignalHold:
    """Signals of this process, between `begin` and execve(2) or `undo`.

    The mask of this thread, which execve keeps, makes signals pending. Another thread may still
    catch one. Python writes the number of each signal that it catches to a pipe, even if no handler
    has run yet; the pipe is inherited.
    """

    def __init__(self) -> None:
        self.pipe = -1
        """The end of the pipe that the new program reads."""
        self.mask: set[int] = set()
        """The signals that were blocked before."""
        self._write_end = -1
        self._wakeup = -1
        self._handlers: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def begin(self) -> None:
        """Begin to hold signals. Raises OSError. Must be called in the main thread."""
        self.pipe, self._write_end = os.pipe()
        os.set_blocking(self.pipe, False)
        os.set_blocking(self._write_end, False)
        self.mask = set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())))
        self._wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                is_ignored = is_caught_in_place_of_ignoring(handler)
                self._handlers[number] = handler
                signal.signal(number, signal.SIG_IGN if is_ignored else _record)

    def undo(self) -> None:
        """Restore handlers and mask, and deliver what was held."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write_end)
        caught = take_signals(self.pipe)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
        for number in caught:
            signal.raise_signal(number)


def take_signals(pipe: int) -> set[int]:
    """Read the numbers of held signals, and close the pipe."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        while data := os.read(pipe, 4096):
            found.update(data)
    os.close(pipe)
    return found
