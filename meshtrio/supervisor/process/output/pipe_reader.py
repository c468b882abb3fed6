"""Reading the pipes of plugins without the plugins deciding how much of the loop that takes.

Of each pipe, `MAX_READS_PER_SECOND` reads of up to 64 KiB are made in the long run, and fewer
while it floods: a plugin that writes faster than that waits in write(2). What was read is handled
in slices of `_TIME_SLICE` seconds; slices after the first of a read are handled one at a time, in
turn with those of all other pipes of the process, so that any number of flooding plugins takes one
slice of an iteration of the loop. Once the process has ended what is left is read at once.
"""

from __future__ import annotations

import os
from typing import Protocol

import trio

from meshtrio.util.token_bucket import TokenBucket

_READ_SIZE = 64 * 1024
MAX_READS_PER_SECOND = 100.0
_READ_BURST = 50.0
_FLOOD_PAUSE = 0.05
"""Seconds that a pipe rests after a read of which lines were dropped."""
_MAX_FINAL_READ = 1024 * 1024
"""Bytes read at once at the end: the most that an unprivileged process can make a pipe hold."""


class PipeConsumer(Protocol):
    """What is done with a pipe's bytes. No method waits."""

    def feed(self, data: bytes) -> None:
        """Take what was read."""

    def handle(self) -> bool:
        """Handle some of it, for a millisecond at most; False when all of it has been."""

    @property
    def is_flooding(self) -> bool:
        """Whether lines of what was handled last were dropped."""

    def finish(self) -> None:
        """Nothing more is read: handle what is left, an unfinished line above all."""


_lock_var: trio.lowlevel.RunVar[trio.Lock] = trio.lowlevel.RunVar("meshtrio output turns")


def _get_lock() -> trio.Lock:
    try:
        return _lock_var.get()
    except LookupError:
        lock = trio.Lock()
        _lock_var.set(lock)
        return lock


async def read_pipe(pipe: int, consumer: PipeConsumer, exited: trio.Event) -> None:
    """Hand everything that a pipe has to a consumer, until its end. Takes the descriptor over.

    Args:
        pipe: A file descriptor.
        consumer: Takes the bytes.
        ended: Set when the process has ended; its last output is wanted without delay.

    Cancellation: stops reading. What was read already is handled all the same.
    """
    reads = TokenBucket(_READ_BURST, MAX_READS_PER_SECOND)
    async with trio.lowlevel.FdStream(pipe) as stream:
        try:
            while data := await stream.receive_some(_READ_SIZE):
                consumer.feed(data)
                await _handle_all(consumer, stream, exited)
                await _throttle_reads(reads, consumer, exited)
        finally:
            with trio.CancelScope(shield=True):
                await _handle_all(consumer, stream, exited)
            consumer.finish()


async def _handle_all(
    consumer: PipeConsumer, stream: trio.lowlevel.FdStream, exited: trio.Event
) -> None:
    if not consumer.handle():
        return
    emptied = False
    with trio.CancelScope(shield=True):
        more = True
        while more:
            if exited.is_set() and not emptied:
                # How the process ended is told with its last line, which may be still in there.
                emptied = True
                for data in read_available(stream.fileno()):
                    consumer.feed(data)
            async with _get_lock():
                more = consumer.handle()


def read_available(pipe: int) -> list[bytes]:
    """What is in a pipe now, which does not block."""
    found: list[bytes] = []
    try:
        while sum(map(len, found)) < _MAX_FINAL_READ and (data := os.read(pipe, _READ_SIZE)):
            found.append(data)
    except OSError:
        pass  # It is empty.
    return found


async def _throttle_reads(reads: TokenBucket, consumer: PipeConsumer, exited: trio.Event) -> None:
    """Rest before the next read, if this was one of many or of a flood; not once it has ended."""
    rest = 0.0 if reads.try_acquire(trio.current_time()) else 1 / MAX_READS_PER_SECOND
    if consumer.is_flooding:
        rest = _FLOOD_PAUSE
    if rest and not exited.is_set():
        with trio.move_on_after(rest):
            await exited.wait()
