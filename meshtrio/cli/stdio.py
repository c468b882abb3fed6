"""Reading stdin and writing stdout without blocking trio, and a spinner on stderr."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import AsyncIterator
from functools import partial

import trio

from meshtrio.cli.escaped_stderr import unescaped_stderr
from meshtrio.util.errors import UsageError
from meshtrio.util.text import escape_unprintable

_READ_SIZE = 65536
_MAX_WRITE_SIZE = 4096
"""PIPE_BUF: what a pipe that is writable takes without blocking (pipe(7))."""
_SPINNER_DELAY = 1.0
"""Seconds until the spinner appears, since what it is shown for may be quick."""


async def read_stdin_lines() -> AsyncIterator[str]:
    """Yield each line that is not empty as it arrives. Raises UsageError if it is not UTF-8."""
    rest = b""
    async for data in _read_chunks():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield _decode(line)
    if rest.strip():
        yield _decode(rest)


async def read_stdin() -> str:
    return _decode(b"".join([data async for data in _read_chunks()]))


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        what = data[exc.start : exc.end].hex(" ")
        raise UsageError(f"stdin is not UTF-8: it has the bytes {what}") from None


async def _read_chunks() -> AsyncIterator[bytes]:
    """Read in a thread, which is abandoned on cancellation, since files are always "readable".

    Reads the descriptor: an abandoned thread would hold the lock of `sys.stdin` at exit.
    """
    read = partial(os.read, sys.stdin.fileno(), _READ_SIZE)
    while data := await trio.to_thread.run_sync(read, abandon_on_cancel=True):
        yield data


async def wait_stdout_writable() -> None:
    """Wait until stdout can be written to; its reader may be a pager that does not read.

    A process that blocks in a write would not answer the mesh's PINGs and lose its connection.
    """
    await _wait_writable(sys.stdout.fileno())


async def write_to_descriptor(descriptor: int, data: bytes) -> None:
    """Write all bytes to stdout or stderr, without blocking as `wait_stdout_writable` explains."""
    rest = memoryview(data)
    while rest:
        await _wait_writable(descriptor)
        rest = rest[os.write(descriptor, rest[:_MAX_WRITE_SIZE]) :]


async def _wait_writable(descriptor: int) -> None:
    mode = os.fstat(descriptor).st_mode
    # Nothing else blocks, or can be waited for.
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor):
        await trio.lowlevel.wait_writable(descriptor)


async def show_spinner(text: str) -> None:
    """Show `text` and the elapsed time on stderr, if it is a terminal, until cancelled."""
    if not sys.stderr.isatty():
        return
    began = time.monotonic()
    await trio.sleep(_SPINNER_DELAY)
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    console = Console(file=unescaped_stderr())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(escape_unprintable(text), total=None)
        progress.tasks[0].start_time = began
        await trio.sleep_forever()
