"""Reading from a socket, with busy polling or sleeping."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager

import pytest
import trio

from meshtrio.rpc.write_buffer import WriteBuffer
from meshtrio.transport.busy_poll import BusyPoll
from meshtrio.transport.transport import Buffer, Transport
from meshtrio.util.malloc_tuning import MallocTuning

MAX_BYTES = 65536
SPIN = 0.05
"""So long that a process which has to wait for the processor meanwhile changes nothing."""


class FixedPoll(BusyPoll):
    """Polls in every wait, and records them."""

    def __init__(self, poll_time: float = SPIN) -> None:
        super().__init__(poll_time)
        self.poll_time = poll_time
        self.recorded: list[tuple[float, float, float]] = []

    def record_wait(
        self,
        now: float,
        waited: float,
        polled: float = 0.0,
        displaced: float = 0.0,
        cpu: float = 0.0,
    ) -> None:
        self.recorded.append((waited, polled, displaced))


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
    one, other = (Transport(sock, FixedPoll()) for sock in socket.socketpair())
    yield one, other
    one.close()
    other.close()


async def count_rounds_until_sleep(reader: Transport) -> int:
    """Count the passes of the loop until it sleeps, while nothing is received."""
    with count_sleeps() as found, trio.move_on_after(10 * SPIN):
        await reader.receive(MAX_BYTES)
    assert found.sleeps
    return found.rounds


@pytest.mark.parametrize("policy", [BusyPoll(), FixedPoll(0.0)], ids=["nothing known", "off"])
async def test_without_a_time_to_poll_it_sleeps(
    pair: tuple[Transport, Transport], policy: BusyPoll
) -> None:
    pair[0].busy_poll = policy
    assert await count_rounds_until_sleep(pair[0]) < 5


async def test_with_a_time_to_poll_it_looks_again_for_a_while(
    pair: tuple[Transport, Transport],
) -> None:
    assert await count_rounds_until_sleep(pair[0]) >= 5


async def test_waits_are_recorded(pair: tuple[Transport, Transport]) -> None:
    one, other = pair
    policy = one.busy_poll = FixedPoll()
    other.try_send([b"x"])
    await one.receive(MAX_BYTES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.receive, MAX_BYTES)
        await trio.sleep(2 * SPIN)
        other.try_send([b"x"])
    (found, found_poll, _), (missed, missed_poll, displaced) = policy.recorded
    assert 0 < found_poll <= found
    assert SPIN <= missed_poll < missed
    assert displaced < missed_poll


async def test_time_in_which_the_process_has_no_core_is_recorded(
    pair: tuple[Transport, Transport],
) -> None:
    one, other = pair
    policy = one.busy_poll = FixedPoll()

    async def block() -> None:
        await trio.lowlevel.checkpoint()  # The poll begins.
        time.sleep(2 * SPIN)  # noqa: ASYNC251 - as if another process had run
        other.try_send([b"x"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.receive, MAX_BYTES)
        nursery.start_soon(block)
    ((_, polled, displaced),) = policy.recorded
    assert SPIN < displaced <= polled


async def test_a_receive_that_is_cancelled_in_a_poll_loses_nothing_and_records_nothing(
    pair: tuple[Transport, Transport],
) -> None:
    one, other = pair
    policy = one.busy_poll = FixedPoll(3600.0)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.receive, MAX_BYTES)
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert scope.cancelled_caught
    assert not policy.recorded
    other.try_send([b"x"])
    assert await one.receive(MAX_BYTES) == b"x"


async def test_others_run_while_it_looks(pair: tuple[Transport, Transport]) -> None:
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
