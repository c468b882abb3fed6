"""The output of a task for the caller that runs it."""

from __future__ import annotations

import pytest
import trio

from meshtrio.services import task_runs
from meshtrio.services.task_runs import TaskOutput


async def test_messages_come_in_order_and_the_result_is_the_last() -> None:
    output = TaskOutput()
    output.write("stdout", b"a")
    output.write("stderr", b"b")
    output.finish(None)
    messages = [await output.next_message() for _ in range(3)]
    assert [(m.stdout, m.stderr, m.missed) for m in messages[:2]] == [
        (b"a", b"", 0),
        (b"", b"b", 0),
    ]


async def test_a_slow_caller_misses_output_and_is_told_how_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_runs, "_MAX_BUFFERED_OUTPUT", 600)
    output = TaskOutput()
    for _ in range(4):  # Each of them counts with what a message takes.
        output.write("stdout", b"12345")
    assert [(await output.next_message()).missed for _ in range(2)] == [0, 0]
    output.write("stdout", b"x")
    message = await output.next_message()
    assert (message.stdout, message.missed) == (b"x", 10)


async def test_a_reader_waits_for_the_next_message(autojump_clock: trio.testing.MockClock) -> None:
    output = TaskOutput()
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            await trio.sleep(1)
            output.write("stderr", b"late")

        nursery.start_soon(write)
        assert (await output.next_message()).stderr == b"late"
