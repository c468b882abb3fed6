"""Stdin and stdout while other things go on: they may be terminals, pipes or files."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator

import trio

from meshtrio.errors import UsageError

_AT_ONCE = 65536


async def lines_of_stdin() -> AsyncIterator[str]:
    """Give each line as it comes, except for empty ones. Raises UsageError for what is not text."""
    rest = b""
    while data := await _read():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield _text(line)
    if rest.strip():
        yield _text(rest)


async def all_of_stdin() -> str:
    parts = []
    while data := await _read():
        parts.append(data)
    return _text(b"".join(parts))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        what = data[exc.start : exc.end].hex(" ")
        raise UsageError(f"stdin is not UTF-8: it has the bytes {what}") from None


async def _read() -> bytes:
    """In a thread, since a file cannot be waited for; it is left behind when we are cancelled.

    Not with `sys.stdin`, whose lock such a thread would hold when the interpreter ends.
    """
    return await trio.to_thread.run_sync(
        os.read, sys.stdin.fileno(), _AT_ONCE, abandon_on_cancel=True
    )


async def until_stdout_takes_more() -> None:
    """Wait for whoever reads it: a pager, say, that somebody has left standing.

    Were the whole process to wait in a write, it would not answer the mesh either, which takes a
    peer that takes nothing for lost.
    """
    descriptor = sys.stdout.fileno()
    mode = os.fstat(descriptor).st_mode
    # Nothing else ever makes one wait, nor can be waited for.
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor):
        await trio.lowlevel.wait_writable(descriptor)
