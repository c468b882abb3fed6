"""Reading from a socket, with busy polling or sleeping."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager

import pytest
import trio

from meshtrio.rpc.write_buffer import WriteBuffer
from meshtrio.transport.transport import Buffer, BusyPoll, Transport
from meshtrio.util.malloc_tuning import MallocTuning

MAX_BYTES = 65536
SPIN = 0.05
"""So long that a process which has to wait for the processor meanwhile changes nothing."""


class SleepCounter(trio.abc.Instrument):
    """Counts passes of the loop, and those that would have slept."""

    def __init__(self) -> None:
        self.rounds = self.sleeps = 0

    def before_io_wait(self, timeout: float) -> None:
        self.rounds += 1
        self.sleeps += timeout > 0


@contextmanager
def count_sleeps() -> Iterator[SleepCounter]:
    found = SleepCounter()
    trio.lowlevel.add_instrument(found)
    try:
        yield found
    finally:
        trio.lowlevel.remove_instrument(found)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Transport, Transport]]:
    one, other = (Transport(sock, BusyPoll(SPIN)) for sock in socket.socketpair())
    yield one, other
    one.close()
    other.close()


async def exchange(one: Transport, other: Transport, times: int) -> None:
    """Have it found out that answers come at once."""
    for _ in range(times):
        other.try_send([b"x"])
        assert await one.receive(MAX_BYTES) == b"x"


async def count_rounds_until_sleep(reader: Transport) -> int:
    """Count the passes of the loop until it sleeps, while nothing is received."""
    with count_sleeps() as found, trio.move_on_after(10 * SPIN):
        await reader.receive(MAX_BYTES)
    assert found.sleeps
    return found.rounds


async def test_who_knows_nothing_sleeps(pair: tuple[Transport, Transport]) -> None:
    assert await count_rounds_until_sleep(pair[0]) < 5


async def test_where_answers_came_at_once_it_looks_again_for_a_while(
    pair: tuple[Transport, Transport],
) -> None:
    await exchange(*pair, 50)
    assert await count_rounds_until_sleep(pair[0]) >= 5


async def test_others_run_while_it_looks(pair: tuple[Transport, Transport]) -> None:
    await exchange(*pair, 50)
    rounds = 0

    async def other() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        with trio.move_on_after(SPIN):
            await pair[0].receive(MAX_BYTES)
        nursery.cancel_scope.cancel()
    assert rounds >= 3


async def test_what_comes_while_it_looks_is_read_and_nothing_is_lost(
    pair: tuple[Transport, Transport],
) -> None:
    one, other = pair
    await exchange(one, other, 50)
    got: list[bytes] = []

    async def read() -> None:
        while True:
            data = await one.receive(MAX_BYTES)
            got.append(data)
            if not data:
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for number in range(100):
            with trio.CancelScope() as scope:
                scope.cancel()
                # One that is cancelled before it has looked takes nothing away.
                await one.receive(MAX_BYTES)
            other.try_send([b"%02d" % number])
            await trio.lowlevel.checkpoint()
        other.send_eof()
    assert b"".join(got) == b"".join(b"%02d" % number for number in range(100))


async def test_an_end_is_seen_while_it_looks(
    pair: tuple[Transport, Transport],
) -> None:
    one, other = pair
    await exchange(one, other, 50)
    other.close()
    assert await one.receive(MAX_BYTES) == b""


# -- large messages ------------------------------------------------------------------------------


class RecordingLibc:
    """Records which of malloc's settings are changed."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def find(self, name: str) -> Callable[..., None]:
        return lambda *args: self.called.append(name)


def make_tuning(libc: RecordingLibc, *, enabled: bool) -> MallocTuning:
    tuning = MallocTuning(libc.find, {})
    if enabled:
        tuning.enable()
    return tuning


@pytest.mark.parametrize("enabled", [False, True])
async def test_reads_are_large_only_where_malloc_keeps_what_is_freed(enabled: bool) -> None:
    tuning = make_tuning(RecordingLibc(), enabled=enabled)
    ours, theirs = socket.socketpair()
    reader, writer = Transport(ours, malloc_tuning=tuning), Transport(theirs)
    sizes = []
    with closing(reader), closing(writer):
        for _ in range(6):
            while writer.try_send([bytes(64 * 1024)]):
                pass
            sizes.append(len(await reader.receive(1024 * 1024)))
    assert sizes[0] == 16 * 1024
    assert (max(sizes) > 64 * 1024) is enabled


@pytest.mark.parametrize("enabled", [False, True])
async def test_large_writes_tune_malloc_and_are_not_copied(enabled: bool) -> None:
    libc, sent = RecordingLibc(), []

    class RecordingTransport(Transport):
        def try_send(self, buffers: list[Buffer]) -> int:
            sent.append(buffers)
            return sum(map(len, buffers))

    ours, theirs = socket.socketpair()
    transport = RecordingTransport(ours, malloc_tuning=make_tuning(libc, enabled=enabled))
    with theirs, closing(transport):
        buffer = WriteBuffer(transport)
        buffer.write([b"small", b"ones"])
        assert (sent, libc.called) == ([[b"smallones"]], [])
        large = bytes(1024 * 1024)
        buffer.write([b"header", large])
    assert sent[1][1] is large
    assert libc.called == (["mallopt", "mallopt"] if enabled else [])
