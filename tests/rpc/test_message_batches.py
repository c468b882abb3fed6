"""Messages that a task sends without waiting are written together, and none waits for long."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.rpc import receive_stream, write_buffer
from meshtrio.rpc.receive_stream import ReceiveStream
from meshtrio.rpc.write_buffer import MessageBatch
from meshtrio.transport.transport import Buffer, Transport
from meshtrio.util.concurrency import call_before_waiting
from tests.support.connection_pairs import connect_pair, echo_reply, echo_request


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Transport]:
    """The transport of each write."""
    monkeypatch.setattr(write_buffer, "_MAX_WRITE_DELAY", 60.0)
    written: list[Transport] = []
    send = Transport.try_send

    def recorded(transport: Transport, buffers: list[Buffer]) -> int:
        written.append(transport)
        return send(transport, buffers)

    monkeypatch.setattr(Transport, "try_send", recorded)
    return written


class Streaming(EchoServiceServicer):
    """Replies as the function given by a test says."""

    def __init__(self, reply: Callable[[Any], AsyncIterator[EchoReply]]) -> None:
        self._reply = reply

    async def Chat(self, requests: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        async for reply in self._reply(requests):
            yield reply


async def test_requests_of_a_generator_are_written_together(writes: list[Transport]) -> None:
    async def count(requests: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        number = len([None async for _ in requests])
        yield echo_reply(str(number))

    async def send() -> AsyncIterator[EchoRequest]:
        for number in range(100):
            yield echo_request(str(number))

    async with connect_pair(Streaming(count)) as pair:
        writes.clear()
        assert [reply.message async for reply in pair.stub.Chat(send())] == ["100"]
        # The request headers, the first message, all others with the end of the stream.
        assert writes.count(pair.client.transport) <= 4


async def test_replies_of_a_generator_are_written_together(writes: list[Transport]) -> None:
    async def count(requests: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        for number in range(100):
            yield echo_reply(str(number))

    async with connect_pair(Streaming(count)) as pair:
        writes.clear()
        async with pair.stub.Chat() as call:
            await call.close()
            assert [reply.message async for reply in call] == [str(n) for n in range(100)]
        assert writes.count(pair.server.transport) <= 4


@pytest.mark.usefixtures("writes")
async def test_a_message_is_written_before_its_generator_waits() -> None:
    """On both sides: each waits until the other has its last message."""
    got_request, got_reply = trio.Event(), trio.Event()

    async def reply_twice(requests: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        async for request in requests:
            if request.message == "second":
                got_request.set()
                for text in ("first", "second", "third"):
                    yield echo_reply(text)
                await got_reply.wait()

    async def send() -> AsyncIterator[EchoRequest]:
        yield echo_request("first")
        yield echo_request("second")
        await got_request.wait()

    async with connect_pair(Streaming(reply_twice)) as pair:
        with trio.fail_after(10):
            async for reply in pair.stub.Chat(send()):
                if reply.message == "third":
                    got_reply.set()


@pytest.mark.usefixtures("writes")
async def test_what_was_sent_is_written_when_a_handler_fails() -> None:
    async def fail(requests: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        for text in ("first", "second", "third"):
            yield echo_reply(text)
        raise NotImplementedError

    async with connect_pair(Streaming(fail)) as pair, pair.stub.Chat() as call:
        got = [(await call.receive_message()).message for _ in range(3)]
        with pytest.raises(purerpc.UnimplementedError):
            await call.receive_message()
    assert got == ["first", "second", "third"]


async def test_messages_are_written_before_their_task_waits_for_a_turn(
    writes: list[Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(receive_stream, "perf_counter", lambda: float(next(clock)))
    wait = ReceiveStream._wait_for_turn
    unwritten: list[int] = []

    async def recorded(stream: ReceiveStream) -> None:
        if not stream._connection.is_client:
            unwritten.append(len(stream._connection._engine._outgoing))
        await wait(stream)

    async def count(requests: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        for number in range(100):
            yield echo_reply(str(number))

    async with connect_pair(Streaming(count)) as pair:
        monkeypatch.setattr(ReceiveStream, "_wait_for_turn", recorded)
        async with pair.stub.Chat() as call:
            await call.close()
            assert [reply.message async for reply in call] == [str(n) for n in range(100)]
    assert len(unwritten) > 5
    assert not any(unwritten)


@pytest.mark.parametrize(
    ("steps", "flushed_after"),
    [
        # A step is the time since the message before, in ms.
        ([0, 0, 0, 0], [1]),
        ([0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], [1, 7]),
        ([0, 10, 10, 10], [1, 2, 3, 4]),
        ([0, 0.1, 10, 0.1], [1, 3]),
    ],
    ids=["at once", "for half a millisecond", "a slow task", "a task that was slow once"],
)
def test_only_a_fast_task_delays_its_messages(
    steps: list[float], flushed_after: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, sent, flushes = 0.0, 0, list[int]()
    monkeypatch.setattr(write_buffer, "perf_counter", lambda: now)
    batch = MessageBatch(lambda: flushes.append(sent))
    for step in steps:
        now += step / 1000
        sent += 1
        batch.add(10)
    assert flushes == flushed_after


def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_buffer, "perf_counter", lambda: 0.0)
    flushes = []
    batch = MessageBatch(lambda: flushes.append(None))
    for _ in range(10):
        batch.add(5000)
    assert len(flushes) == 3  # The first, and then each time that 16 KiB are exceeded.


# -- call_before_waiting ------------------------------------------------------------------------


async def test_what_does_not_wait_has_no_callback() -> None:
    async def at_once() -> int:
        return 5

    called: list[None] = []
    assert await call_before_waiting(at_once(), lambda: called.append(None)) == 5
    assert not called


async def test_what_waits_has_one_callback_before_its_first_wait() -> None:
    called: list[str] = []

    async def wait_twice() -> str:
        called.append("begun")
        await trio.lowlevel.checkpoint()
        called.append("waited")
        await trio.lowlevel.checkpoint()
        return "done"

    assert await call_before_waiting(wait_twice(), lambda: called.append("callback")) == "done"
    assert called == ["begun", "callback", "waited"]


@pytest.mark.parametrize("waits", [False, True])
async def test_exceptions_pass(waits: bool) -> None:
    async def fail() -> None:
        if waits:
            await trio.lowlevel.checkpoint()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await call_before_waiting(fail(), lambda: None)


async def test_cancellation_passes_in_and_may_be_caught_there() -> None:
    cleaned_up: list[float] = []

    async def sleep() -> str:
        with trio.move_on_after(0.01):
            try:
                await trio.sleep_forever()
            finally:
                cleaned_up.append(time.perf_counter())
        return "moved on"

    assert await call_before_waiting(sleep(), lambda: None) == "moved on"
    with trio.CancelScope() as scope:
        scope.cancel()
        await call_before_waiting(trio.sleep_forever(), lambda: None)  # noqa: ASYNC105
    assert scope.cancelled_caught
    assert len(cleaned_up) == 1
