"""Reading the output of processes that write more than the mesh keeps."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import attrs
import pytest
import trio

from meshtrio.config import OutputConfig
from meshtrio.contract import DRAIN_CUT_CALL, DRAIN_DONE, IDLE
from meshtrio.supervisor import events
from meshtrio.supervisor.process.output.output_lines import LineBuffer
from meshtrio.supervisor.runs.output_reader import OutputReader


@attrs.define
class EndedProcess:
    """A process that has written something and ended."""

    stdout: int
    stderr: int
    pid: int = 1
    leader_exited: trio.Event = attrs.field(factory=trio.Event)


def pipe_with(data: bytes) -> int:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


async def test_a_mesh_that_is_slow_at_lines_finds_that_they_came_too_fast(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Handling a line takes as long as its config allows two of them: all would be let through."""
    config, found = OutputConfig(burst=100, lines_per_second=1000), Counter[object]()

    def emit(kind: object, **values: Any) -> None:
        found[kind] += values.get("count", 1)
        autojump_clock.jump(0.002)

    written = EndedProcess(pipe_with(b"\n" * 60_000), pipe_with(b""))
    with trio.fail_after(60):
        async with OutputReader(config, LineBuffer(), emit).reading(written) as all_read:  # type: ignore[arg-type]
            await all_read.wait()
    assert found == {events.LineWritten: 100, events.LinesDropped: 59_900}


async def test_the_end_of_a_process_is_not_delayed_by_lines_that_are_not_handled_yet(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The mesh gets so little CPU time that a line takes a tenth of a second."""
    config, found = OutputConfig(burst=10_000), Counter[object]()

    def emit(kind: object, **values: Any) -> None:
        found[kind] += values.get("count", 1)
        time.sleep(0.001)  # so that each line is a slice of its own
        autojump_clock.jump(0.1)

    written = EndedProcess(pipe_with(b"line\n" * 5000), pipe_with(b""))
    written.leader_exited.set()
    began = trio.current_time()
    async with OutputReader(config, LineBuffer(), emit).reading(written) as all_read:  # type: ignore[arg-type]
        await all_read.wait()
    assert trio.current_time() - began < 2 * 5.2
    assert found.total() == 5000
    assert found[events.LinesDropped] > 4800


@pytest.mark.parametrize("burst", [100, 1])
async def test_a_report_of_a_drain_is_found_in_the_middle_of_a_line(burst: int) -> None:
    """Another thread writes more than the kernel puts into a pipe in one piece."""
    lines: list[str] = []

    def emit(kind: object, **values: Any) -> None:
        lines.extend(values.get("line", "").split())

    data = f'one\ntwo\nth{DRAIN_CUT_CALL}"/p"}}\n{DRAIN_DONE}\nree\nfour\n'.encode()
    written = EndedProcess(pipe_with(b""), pipe_with(data))
    listener = OutputReader(OutputConfig(burst=burst, lines_per_second=0.001), LineBuffer(), emit)
    with trio.fail_after(60):
        async with listener.reading(written) as all_read:  # type: ignore[arg-type]
            await all_read.wait()
    assert listener.has_drain_report
    assert listener.cut_calls == ["/p"]
    assert lines == ["one", "two", "th", "ree", "four"][:burst]
    assert listener.stderr_tail == ("one", "two", "th", "ree", "four")


@pytest.mark.parametrize("is_expected", [True, False])
async def test_a_report_of_idleness_is_no_line_if_it_is_expected(is_expected: bool) -> None:
    lines: list[str] = []
    reports: list[None] = []

    def emit(kind: object, **values: Any) -> None:
        lines.append(values["line"])

    data = f'one\n{IDLE}\ntwo\n{IDLE}\n{{"meshtrio": "idly"}}\n'.encode()
    written = EndedProcess(pipe_with(b""), pipe_with(data))
    listener = OutputReader(OutputConfig(), LineBuffer(), emit)
    if is_expected:
        listener.on_idle = lambda: reports.append(None)
    with trio.fail_after(60):
        async with listener.reading(written) as all_read:  # type: ignore[arg-type]
            await all_read.wait()
    assert len(reports) == (2 if is_expected else 0)
    others = ["one", "two", '{"meshtrio": "idly"}']
    assert lines == (others if is_expected else ["one", IDLE, "two", IDLE, others[2]])
    assert not listener.has_drain_report


async def test_what_was_left_in_a_pipe_that_others_hold_is_handled_in_slices() -> None:
    """A child of the process keeps the pipe open, so that reading is given up."""
    passes, lines = 0, Counter[int]()

    def emit(kind: object, **_: Any) -> None:
        lines[passes] += kind is events.LineWritten
        end = time.perf_counter() + 0.0002
        while time.perf_counter() < end:
            pass

    async def count_passes() -> None:
        nonlocal passes
        while True:
            await trio.lowlevel.checkpoint()
            passes += 1

    reader, writer = os.pipe()
    written = EndedProcess(reader, pipe_with(b""))
    listener = OutputReader(OutputConfig(), LineBuffer(), emit)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with listener.reading(written):  # type: ignore[arg-type]
                await trio.testing.wait_all_tasks_blocked()
                os.write(writer, b"\n" * 2000)
                listener.read_remaining()
                nursery.start_soon(count_passes)
            nursery.cancel_scope.cancel()
    os.close(writer)
    assert lines.total() == 2000
    # A slice of 1 ms has five of them; all were handled in one pass before.
    assert max(lines.values()) <= 20
