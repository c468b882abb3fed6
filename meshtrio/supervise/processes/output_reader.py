"""Reading the pipes of plugins without the plugins deciding how much of the loop that takes.

Of each pipe, `MAX_READS_PER_SECOND` reads of up to 64 KiB are made in the long run, and fewer while
it floods: a plugin that writes faster than that waits in write(2). What was read is handled in
slices of `_SLICE` seconds; slices after the first of a read are handled one at a time, in turn with
those of all other pipes of the process, so that any number of flooding plugins takes one slice of
an iteration of the loop. Once the process has ended what is left is read at once, and its lines are
handled for up to `_LAST_LINES_TIMEOUT` seconds: a restart must not wait any longer for the log.
"""

from __future__ import annotations

import math
import os
from typing import Protocol

import trio

from meshtrio.wire.budget import Budget

_READ_SIZE = 64 * 1024
MAX_READS_PER_SECOND = 100.0
_READ_BURST = 50.0
_FLOOD_PAUSE = 0.05
"""Seconds that a pipe rests after a read of which lines were dropped."""
_LAST_LINES_TIMEOUT = 5.0
"""Much longer than it takes, unless the mesh gets next to no CPU time."""
_MAX_LEFT = 1024 * 1024
"""Bytes read at once at the end: the most that an unprivileged process can make a pipe hold."""


class Consumer(Protocol):
    """What is done with a pipe's bytes. No method waits."""

    def feed(self, data: bytes) -> None:
        """Take what was read."""

    def handle(self) -> bool:
        """Handle some of it, for a millisecond at most; False when all of it has been."""

    def skip_lines(self) -> None:
        """Keep all lines that have been read without handling each of them."""

    @property
    def floods(self) -> bool:
        """Whether lines of what was handled last were dropped."""

    def finish(self) -> None:
        """Nothing more is read: handle what is left, an unfinished line above all."""


_turns: trio.lowlevel.RunVar[trio.Lock] = trio.lowlevel.RunVar("meshtrio output turns")


def _lock() -> trio.Lock:
    try:
        return _turns.get()
    except LookupError:
        lock = trio.Lock()
        _turns.set(lock)
        return lock


async def read_output(pipe: int, consumer: Consumer, ended: trio.Event) -> None:
    """Hand everything that a pipe has to a consumer, until its end. Takes the descriptor over.

    Args:
        pipe: A file descriptor.
        consumer: Takes the bytes.
        ended: Set when the process has ended; its last output is wanted without delay.

    Cancellation: stops reading. What was read already is handled all the same.
    """
    reads = Budget(_READ_BURST, MAX_READS_PER_SECOND)
    async with trio.lowlevel.FdStream(pipe) as stream:
        try:
            while data := await stream.receive_some(_READ_SIZE):
                consumer.feed(data)
                await _handle_all(consumer, stream, ended)
                await _pace(reads, consumer, ended)
        finally:
            with trio.CancelScope(shield=True):
                await _handle_all(consumer, stream, ended)
            consumer.finish()


async def _handle_all(
    consumer: Consumer, stream: trio.lowlevel.FdStream, ended: trio.Event
) -> None:
    if not consumer.handle():
        return
    deadline = math.inf
    with trio.CancelScope(shield=True):
        more = True
        while more:
            if trio.current_time() > deadline:
                consumer.skip_lines()
                return
            if ended.is_set() and deadline == math.inf:
                # How the process ended is told with its last line, which may be still in there.
                deadline = trio.current_time() + _LAST_LINES_TIMEOUT
                for data in left_in(stream.fileno()):
                    consumer.feed(data)
            async with _lock():
                more = consumer.handle()


def left_in(pipe: int) -> list[bytes]:
    """What is in a pipe now, which does not block."""
    found: list[bytes] = []
    try:
        while sum(map(len, found)) < _MAX_LEFT and (data := os.read(pipe, _READ_SIZE)):
            found.append(data)
    except OSError:
        pass  # It is empty.
    return found


async def _pace(reads: Budget, consumer: Consumer, ended: trio.Event) -> None:
    """Rest before the next read, if this was one of many or of a flood; not once it has ended."""
    rest = 0.0 if reads.take(trio.current_time()) else 1 / MAX_READS_PER_SECOND
    if consumer.floods:
        rest = _FLOOD_PAUSE
    if rest and not ended.is_set():
        with trio.move_on_after(rest):
            await ended.wait()
