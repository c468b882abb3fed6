"""The memory of large messages is used again while they come often, and released after that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from echo.v1.echo_pb2 import EchoReply

from meshtrio.util.message_buffers import MessageBuffers

SIZE = 1000


@pytest.fixture
async def buffers(autojump_clock: trio.testing.MockClock) -> AsyncIterator[MessageBuffers]:
    found = MessageBuffers(unused_time=1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.release_when_unused)
        await trio.testing.wait_all_tasks_blocked()
        yield found
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [SIZE, SIZE - 1, SIZE // 2, SIZE + 1, SIZE + SIZE // 9])
async def test_a_buffer_of_about_the_size_is_used_again(buffers: MessageBuffers, size: int) -> None:
    first = buffers.take(SIZE)
    buffers.give_back(first)
    second = buffers.take(size)
    assert second is first
    assert len(second) == size
    assert buffers.kept_size == 0


@pytest.mark.parametrize("size", [SIZE // 2 - 1, SIZE + SIZE // 5])
async def test_one_of_another_size_is_not(buffers: MessageBuffers, size: int) -> None:
    first = buffers.take(SIZE)
    buffers.give_back(first)
    second = buffers.take(size)
    assert second is not first
    assert len(second) == size


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
async def test_one_of_which_a_view_exists_is_not(buffers: MessageBuffers, size: int) -> None:
    first = buffers.take(SIZE)
    with memoryview(first):
        buffers.give_back(first)
        assert len(buffers.take(size)) == size
    assert len(first) == SIZE


async def test_few_are_kept_and_no_very_large_one(buffers: MessageBuffers) -> None:
    buffers.give_back(bytearray(5 * 1024 * 1024))
    assert buffers.kept_size == 0
    for _ in range(10):
        buffers.give_back(bytearray(SIZE))
    assert buffers.kept_size == 2 * SIZE


async def test_they_are_released_if_unused_for_a_while(buffers: MessageBuffers) -> None:
    for _ in range(5):
        await trio.sleep(0.7)
        buffers.give_back(buffers.take(SIZE))
        assert buffers.kept_size == SIZE
    await trio.sleep(2.1)
    assert (buffers.kept_size, buffers.is_keeping) == (0, False)
    buffers.give_back(bytearray(SIZE))
    assert buffers.kept_size == 0


async def test_they_are_released_if_the_task_is_cancelled() -> None:
    buffers = MessageBuffers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(buffers.release_when_unused)
        await trio.testing.wait_all_tasks_blocked()
        await buffers.release_when_unused()  # One task does it.
        buffers.give_back(bytearray(SIZE))
        nursery.cancel_scope.cancel()
    assert (buffers.kept_size, buffers.is_keeping) == (0, False)


async def test_a_parsed_message_keeps_nothing_of_the_buffer(buffers: MessageBuffers) -> None:
    reply = EchoReply(message="x" * 500)
    buffer = bytearray(reply.SerializeToString())
    parsed = buffers.parse(EchoReply.FromString, buffer)
    assert buffers.kept_size == len(buffer)
    buffer[:] = bytes(len(buffer))
    assert parsed == reply


class Keeping:
    """Takes the place of a message, and keeps its data."""

    def __init__(self, data: Any) -> None:
        self.data = data

    @classmethod
    def FromString(cls, data: Any) -> Keeping:
        return cls(data)


async def test_what_may_keep_its_data_gets_bytes_of_its_own(buffers: MessageBuffers) -> None:
    parsed = buffers.parse(Keeping.FromString, bytearray(b"data"))
    assert type(parsed.data) is bytes
    assert parsed.data == b"data"
    assert buffers.kept_size == 0


async def test_they_can_be_released_at_once(buffers: MessageBuffers) -> None:
    buffers.give_back(buffers.take(SIZE))
    buffers.release()
    await trio.testing.wait_all_tasks_blocked()
    assert (buffers.kept_size, buffers.is_keeping) == (0, False)


async def test_the_last_message_that_was_sent_is_kept(buffers: MessageBuffers) -> None:
    buffers.keep_sent(bytes(SIZE))
    buffers.keep_sent(bytes(SIZE + 1))
    buffers.keep_sent(bytes(5 * 1024 * 1024))
    assert buffers.kept_size == SIZE + 1
    await trio.sleep(2.1)
    assert buffers.kept_size == 0
    buffers.keep_sent(bytes(SIZE))
    assert buffers.kept_size == 0
