"""Connects to a Unix socket in namespaces of its own: `FLAGS OWNER PATH [FOLDER]`.

A program and not a fork of the test: unshare(2) refuses a process with threads, and libraries that
others have imported, such as grpcio, start some in a fork.

It writes a line when it is in its namespaces, and waits for one; FOLDER is then put in the place of
/proc. In the end it writes what `unix.connect` has raised, if anything.
"""

from __future__ import annotations

import ctypes
import os
import sys

from meshtrio.transport import dial

MS_PRIVATE, MS_REC, MS_BIND = 0x40000, 0x4000, 0x1000


def main(flags: str, owner: str, path: str, *folder: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(int(flags)):
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    print("in namespaces", flush=True)
    sys.stdin.readline()
    for each in folder:
        if libc.mount(None, b"/", None, MS_PRIVATE | MS_REC, None) or libc.mount(
            os.fsencode(each), b"/proc", None, MS_BIND, None
        ):
            sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
        assert not os.path.lexists("/proc/self/fd")
    try:
        dial.connect_unix(path, frozenset({int(owner)})).close()
    except OSError as exc:
        print(f"{type(exc).__name__}: {exc}")


if __name__ == "__main__":
    main(*sys.argv[1:])
