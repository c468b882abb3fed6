"""What a process writes, as far as the mesh can keep up with it."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import attrs
import pytest
import trio

from meshtrio.config import OutputConfig
from meshtrio.contract import DRAIN_CUT, DRAIN_DONE
from meshtrio.supervise import events
from meshtrio.supervise.listening import Listener
from meshtrio.supervise.processes.output import Ring


@attrs.define
class Written:
    """A process that has written something and ended."""

    stdout: int
    stderr: int
    pid: int = 1
    leader_ended: trio.Event = attrs.field(factory=trio.Event)


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

    written = Written(pipe_with(b"\n" * 60_000), pipe_with(b""))
    with trio.fail_after(60):
        async with Listener(config, Ring(), emit).listening(written) as all_read:  # type: ignore[arg-type]
            await all_read.wait()
    assert found == {events.LineWritten: 100, events.LinesDropped: 59_900}


@pytest.mark.parametrize("burst", [100, 1])
async def test_a_report_of_a_drain_is_found_in_the_middle_of_a_line(burst: int) -> None:
    """Another thread writes more than the kernel puts into a pipe in one piece."""
    lines: list[str] = []

    def emit(kind: object, **values: Any) -> None:
        lines.extend(values.get("line", "").split())

    data = f'one\ntwo\nth{DRAIN_CUT}"/p"}}\n{DRAIN_DONE}\nree\nfour\n'.encode()
    written = Written(pipe_with(b""), pipe_with(data))
    listener = Listener(OutputConfig(burst=burst, lines_per_second=0.001), Ring(), emit)
    with trio.fail_after(60):
        async with listener.listening(written) as all_read:  # type: ignore[arg-type]
            await all_read.wait()
    assert listener.reported_drain
    assert listener.cut_calls == ["/p"]
    assert lines == ["one", "two", "th", "ree", "four"][:burst]
    assert listener.stderr_tail == ("one", "two", "th", "ree", "four")
