"""Descriptors 0, 1 and 2, which a program may be started without (`serve 2>&-`).

Whatever it opens first would then get their numbers, and what is printed to "stderr" would go into
a socket.
"""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""By their descriptors."""


def open_missing_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed. To be called first of all."""
    for descriptor in range(len(_STREAMS)):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_null(descriptor)
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            # Python found it closed when it started. Not by the number, which something else may
            # have got since.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def redirect_to_null(descriptor: int) -> None:
    """Have what is still written to a descriptor discarded: whoever read it is gone."""
    _open_null(descriptor)


def _open_null(descriptor: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
    os.set_inheritable(descriptor, True)
