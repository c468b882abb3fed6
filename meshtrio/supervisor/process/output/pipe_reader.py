"""Reads the pipes of plugins, with a bound on the time that this takes of the event loop.

Each pipe is read `MAX_READS_PER_SECOND` times a second in the long run, up to 64 KiB at a time, and
less often while lines are being dropped: a plugin that writes faster blocks in write(2). Consumers
handle what was read in slices of a millisecond. Slices after the first of a read take turns with
those of all other pipes, so that any number of flooding plugins takes one slice per iteration of
the loop. When the process has exited the rest is read at once, and its lines are handled for up to
`_LAST_LINES_TIMEOUT` seconds, since a restart must not wait any longer for the log.
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import Protocol

import trio
from trio.lowlevel import FdStream

from meshtrio.util.concurrency import PerRun
from meshtrio.util.token_bucket import TokenBucket

_READ_SIZE = 64 * 1024
MAX_READS_PER_SECOND = 100.0
_READ_BURST = 50.0
_FLOOD_PAUSE = 0.05
"""Seconds until a pipe is read again after lines of a read were dropped."""
_LAST_LINES_TIMEOUT = 5.0
"""Much longer than it takes, unless the mesh gets next to no CPU time."""
_MAX_FINAL_READ = 1024 * 1024
"""Maximum number of bytes of the final read: the largest capacity that an unprivileged process can
give a pipe (fs.pipe-max-size)."""


class PipeConsumer(Protocol):
    """Handles the bytes of a pipe. No method waits."""

    def feed(self, data: bytes) -> None:
        """Add bytes that were read."""

    def handle(self) -> bool:
        """Handle some bytes, for a millisecond at most; return whether some are left."""

    def skip_lines(self) -> None:
        """Keep all lines that were read without handling each of them."""

    @property
    def is_flooding(self) -> bool:
        """Whether lines were dropped when bytes were last handled."""

    def finish(self) -> None:
        """Handle what is left, such as an unfinished line, when the pipe has ended."""


_lock = PerRun(trio.Lock)
"""Held while the lines of one pipe are handled."""


async def read_pipe(pipe: int, consumer: PipeConsumer, exited: trio.Event) -> None:
    """Read a pipe until its end, pass everything to a consumer, and close the pipe.

    When `exited` is set, as the process has exited, the rest is read without delay.

    Cancellation: Stops reading. What was already read is handled.
    """
    reads = TokenBucket(_READ_BURST, MAX_READS_PER_SECOND)
    async with FdStream(pipe) as stream:
        try:
            await _handle_all(consumer, stream, exited)  # What was read before an upgrade.
            while data := await stream.receive_some(_READ_SIZE):
                consumer.feed(data)
                await _handle_all(consumer, stream, exited)
                await _throttle_reads(reads, consumer, exited)
        finally:
            with trio.CancelScope(shield=True):
                await _handle_all(consumer, stream, exited)
            consumer.finish()


async def _handle_all(consumer: PipeConsumer, stream: FdStream, exited: trio.Event) -> None:
    if not consumer.handle():
        return
    deadline = math.inf
    with trio.CancelScope(shield=True):
        more = True
        while more:
            if trio.current_time() > deadline:
                consumer.skip_lines()
                return
            if exited.is_set() and deadline == math.inf:
                # The exit info includes the last line, which may still be in the pipe.
                deadline = trio.current_time() + _LAST_LINES_TIMEOUT
                for data in read_available(stream.fileno()):
                    consumer.feed(data)
            async with _lock.get():
                more = consumer.handle()


def read_available(pipe: int) -> list[bytes]:
    """Read what is in a non-blocking pipe now."""
    found: list[bytes] = []
    with contextlib.suppress(OSError):  # It is empty.
        while sum(map(len, found)) < _MAX_FINAL_READ and (data := os.read(pipe, _READ_SIZE)):
            found.append(data)
    return found


async def _throttle_reads(reads: TokenBucket, consumer: PipeConsumer, exited: trio.Event) -> None:
    """Delay the next read if there were many or lines were dropped, until the process exits."""
    delay = 0.0 if reads.try_acquire(trio.current_time()) else 1 / MAX_READS_PER_SECOND
    if consumer.is_flooding:
        delay = _FLOOD_PAUSE
    if delay and not exited.is_set():
        with trio.move_on_after(delay):
            await exited.wait()
