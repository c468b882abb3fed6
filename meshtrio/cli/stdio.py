"""Stdin and stdout while other things go on: they may be terminals, pipes or files."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator

import trio

from meshtrio.errors import UsageError

_READ_SIZE = 65536


async def read_stdin_lines() -> AsyncIterator[str]:
    """Give each line as it comes, except for empty ones. Raises UsageError for what is not text."""
    rest = b""
    while data := await _read_some():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield _decode(line)
    if rest.strip():
        yield _decode(rest)


async def read_stdin() -> str:
    parts = []
    while data := await _read_some():
        parts.append(data)
    return _decode(b"".join(parts))


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        what = data[exc.start : exc.end].hex(" ")
        raise UsageError(f"stdin is not UTF-8: it has the bytes {what}") from None


async def _read_some() -> bytes:
    """In a thread, since a file cannot be waited for; it is left behind when we are cancelled.

    Not with `sys.stdin`, whose lock such a thread would hold when the interpreter ends.
    """
    return await trio.to_thread.run_sync(
        os.read, sys.stdin.fileno(), _READ_SIZE, abandon_on_cancel=True
    )


async def wait_stdout_writable() -> None:
    """Wait for whoever reads it: a pager, say, that somebody has left standing.

    Were the whole process to wait in a write, it would not answer the mesh either, which takes a
    peer that takes nothing for lost.
    """
    descriptor = sys.stdout.fileno()
    mode = os.fstat(descriptor).st_mode
    # Nothing else ever makes one wait, nor can be waited for.
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor):
        await trio.lowlevel.wait_writable(descriptor)
