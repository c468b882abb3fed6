"""Opens descriptors 0, 1 and 2 in a program that was started without them (`serve 2>&-`).

Otherwise the first files and sockets that it opens would get these numbers, and what is printed to
stderr would be written to a socket.
"""

from __future__ import annotations

import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""Names in `sys` and modes, indexed by descriptor."""


def open_missing_streams() -> None:
    """Open /dev/null for each standard stream that is closed. Must be called before any open."""
    for descriptor in range(len(_STREAMS)):
        try:
            os.fstat(descriptor)
        except OSError:
            redirect_to_null(descriptor)
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            # It was closed when Python started. Not by its number, which may be in use by now.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def redirect_to_null(descriptor: int) -> None:
    """Replace a descriptor by /dev/null: it is closed, or its reader has gone."""
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
    os.set_inheritable(descriptor, True)
