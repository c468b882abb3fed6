"""Reading from a socket, with busy polling or sleeping."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import trio

from meshtrio.rpc.write_buffer import WriteBuffer
from meshtrio.transport.busy_poll import BusyPoll
from meshtrio.transport.transport import Buffer, Transport
from meshtrio.util.malloc_tuning import MallocTuning
from tests.support.polling import POLL_TIME, FixedPoll

MAX_BYTES = 65536


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
    with count_sleeps() as found, trio.move_on_after(10 * POLL_TIME):
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
        await trio.sleep(2 * POLL_TIME)
        other.try_send([b"x"])
    (found, found_poll, _), (missed, missed_poll, displaced) = policy.recorded
    assert 0 < found_poll <= found
    assert POLL_TIME <= missed_poll < missed
    assert displaced < missed_poll


async def test_time_in_which_the_process_has_no_core_is_recorded(
    pair: tuple[Transport, Transport],
) -> None:
    one, other = pair
    policy = one.busy_poll = FixedPoll()

    async def block() -> None:
        await trio.lowlevel.checkpoint()  # The poll begins.
        time.sleep(2 * POLL_TIME)  # noqa: ASYNC251 - as if another process had run
        other.try_send([b"x"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.receive, MAX_BYTES)
        nursery.start_soon(block)
    ((_, polled, displaced),) = policy.recorded
    assert POLL_TIME < displaced <= polled


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
        with trio.move_on_after(POLL_TIME):
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


# -- polling in the task that waits --------------------------------------------------------------


class Reads:
    """What the reads of a task in `receive`, and those of one in `poll`, have brought."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.received: list[bytes | OSError] = []
        self.polled: list[bytes] = []

    async def receive_all(self) -> None:
        try:
            while data := await self.transport.receive(MAX_BYTES):
                self.received.append(data)
        except OSError as exc:
            self.received.append(exc)
        else:
            self.received.append(b"")

    def process(self, data: bytes) -> bool:
        self.polled.append(data)
        return True

    async def poll(self, max_bytes: int = MAX_BYTES, count: int = 1) -> None:
        """Poll until as many reads have been made, by any task."""
        await self.transport.poll(
            max_bytes, self.process, lambda: len(self.polled) + len(self.received) >= count
        )


@pytest.fixture
async def reads(
    pair: tuple[Transport, Transport], nursery: trio.Nursery
) -> AsyncIterator[tuple[Reads, Transport]]:
    """A task in `receive`, which sleeps, and the other end of its connection."""
    one, other = pair
    found, policy = Reads(one), FixedPoll()
    one.busy_poll = policy
    policy.poll_time = 0.0
    nursery.start_soon(found.receive_all)
    await trio.testing.wait_all_tasks_blocked()
    policy.poll_time = POLL_TIME
    assert one.can_poll
    yield found, other
    nursery.cancel_scope.cancel()


async def test_the_task_that_waits_reads(
    pair: tuple[Transport, Transport], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(*_: object) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    one, other = pair
    found = Reads(one)
    monkeypatch.setattr(Transport, "_sleep", sleep)  # Or it may come first, by chance.
    nursery.start_soon(found.receive_all)
    await trio.testing.wait_all_tasks_blocked()
    other.try_send([b"x" * 10])
    await found.poll(max_bytes=8)
    assert found.polled == [b"x" * 8]
    await found.poll(max_bytes=8, count=2)
    assert found.polled == [b"x" * 8, b"x" * 2]
    assert one.can_poll
    nursery.cancel_scope.cancel()


async def test_only_one_task_polls(reads: tuple[Reads, Transport]) -> None:
    found, other = reads
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.poll)
        for _ in range(2):
            await trio.lowlevel.checkpoint()
        assert not found.transport.can_poll
        other.try_send([b"x"])
    assert found.transport.can_poll


async def test_the_task_in_receive_sleeps_meanwhile(pair: tuple[Transport, Transport]) -> None:
    one, _ = pair
    found = Reads(one)
    one.busy_poll = FixedPoll(3600.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.receive_all)  # It polls.
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(POLL_TIME):
            await found.poll()
        await trio.testing.wait_all_tasks_blocked()  # It would not be, if it polled still.
        nursery.cancel_scope.cancel()


async def test_a_poll_that_finds_nothing_ends(reads: tuple[Reads, Transport]) -> None:
    found, other = reads
    with trio.fail_after(60):
        await found.poll()
    assert found.polled == []
    other.try_send([b"x"])
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert found.received == [b"x"]
    policy = found.transport.busy_poll
    assert isinstance(policy, FixedPoll)
    ((waited, polled, _),) = policy.recorded
    assert POLL_TIME <= polled <= waited


async def test_each_wait_is_recorded_once(reads: tuple[Reads, Transport]) -> None:
    found, other = reads
    for count in range(1, 4):
        other.try_send([b"x"])
        await found.poll(count=count)
    await trio.testing.wait_all_tasks_blocked(0.01)
    policy = found.transport.busy_poll
    assert isinstance(policy, FixedPoll)
    assert len(policy.recorded) == 3
    assert all(polled <= waited for waited, polled, _ in policy.recorded)


async def test_a_poll_goes_on_as_long_as_its_reader_lets_it(
    reads: tuple[Reads, Transport],
) -> None:
    found, other = reads
    other.try_send([b"x"])
    await found.transport.poll(MAX_BYTES, lambda data: bool(found.process(data)) and False, bool)
    assert b"".join([*found.polled, *found.received]) == b"x"  # type: ignore[list-item]
    assert found.transport.can_poll


async def test_an_end_is_left_to_receive(reads: tuple[Reads, Transport]) -> None:
    found, other = reads
    other.send_eof()
    with trio.fail_after(60):
        await found.poll()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert found.polled == []
    assert found.received == [b""]


async def test_an_error_is_left_to_receive(
    reads: tuple[Reads, Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, other = reads

    def fail(self: Transport, *_: Any) -> Any:
        raise ConnectionResetError(104, "reset")

    with monkeypatch.context() as patched:
        patched.setattr(Transport, "_try_receive", fail)
        with trio.fail_after(60):
            await found.poll()
    other.try_send([b"x"])
    await trio.testing.wait_all_tasks_blocked(0.01)
    (error,) = found.received
    assert isinstance(error, ConnectionResetError)


async def test_a_poll_that_is_cancelled_loses_nothing(reads: tuple[Reads, Transport]) -> None:
    found, other = reads
    for count in range(20):
        with trio.CancelScope() as scope:
            scope.cancel()
            await found.poll(count=1000)
        assert scope.cancelled_caught
        other.try_send([b"%02d" % count])
    other.send_eof()
    await trio.testing.wait_all_tasks_blocked(0.01)
    everything = b"".join(each for each in found.received if isinstance(each, bytes))
    assert everything == b"".join(b"%02d" % count for count in range(20))
    assert found.polled == []


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
