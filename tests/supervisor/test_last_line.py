"""The last line of stderr that says something: what a plugin's end is explained by."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from meshtrio.errors import PluginFailedError
from meshtrio.supervisor import events
from meshtrio.supervisor.event_text import describe_event
from meshtrio.supervisor.log_line import find_last_line
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import plugin_table

TWO_ERRORS = """
import trio

async def fail(number):
    raise ValueError(f"boom {number}")

async def main():
    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        nursery.start_soon(fail, 1)
        nursery.start_soon(fail, 1)

trio.run(main)
"""


@pytest.mark.parametrize(
    ("lines", "last"),
    [
        ([], ""),
        (["first", "last"], "last"),
        (["ValueError: boom", "", "   "], "ValueError: boom"),
        (["error: broken", "^^^^^^", "~~~~~"], "error: broken"),
        (["Ошибка: нет файла", "────────"], "Ошибка: нет файла"),
        (["panic: oh", "", "goroutine 1 [running]:", "exit status 2"], "exit status 2"),
        (["| a | table |", "+---+-------+", "done |"], "done |"),
        (["?!", "--"], "?!"),
        (["+---+", "  "], ""),
        (
            ["    | ValueError: boom", "    +------------------------------------"],
            "ValueError: boom",
        ),
        (["    | TypeError: no", "    +---------------- ... ----------------"], "TypeError: no"),
        (["  | ValueError: boom"], "| ValueError: boom"),
        ([" 1 | print(x)", "error[E0425]: cannot find value"], "error[E0425]: cannot find value"),
    ],
)
def test_the_last_line_with_letters_or_digits_is_taken(lines: list[str], last: str) -> None:
    assert find_last_line(lines) == last


def test_a_trio_programs_is_its_error_and_not_the_frame_around_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_ERRORS], capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    assert set(lines[-1].strip()) == set("+-")
    assert find_last_line(lines) == "ValueError: boom 1"


async def test_events_and_errors_tell_it(short_dir: Path) -> None:
    config = plugin_table("bad", "-c", TWO_ERRORS, restart="never")
    async with run_mesh(config, short_dir) as watched:
        exited = await watched.wait_for_event(events.Exited)
        _, text = describe_event(exited.event)
        assert text.endswith("exited with status 1; last stderr line: ValueError: boom 1")
        with pytest.raises(PluginFailedError, match=r"last stderr line: ValueError: boom 1$"):
            with trio.fail_after(20):
                await watched.mesh.start("bad")
