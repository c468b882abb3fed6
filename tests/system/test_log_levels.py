"""From which level on the lines of a plugin are logged, by its config."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from meshtrio.config import LogLevel
from meshtrio.supervisor import events
from meshtrio.util.errors import UsageError
from tests.support.in_process_mesh import run_mesh
from tests.support.log_levels import (
    ALL_LEVELS,
    log_on_all_levels,
    logged_messages,
    logging_echo_table,
    with_level,
)
from tests.support.mesh_processes import plugin_table

LEVELLED = """
import json, sys, time
for level in ("debug", "info", "warning", "error"):
    print(json.dumps({"level": level, "message": f"it is {level}"}))
print("plain text")
sys.stdout.flush()
time.sleep(3600)
"""


REPEATING = """
import sys
for line in open(sys.argv[1]):
    print(line, end="", flush=True)
"""


def plain_output_table(**settings: Any) -> str:
    """Return the table of a plugin without levels that writes a line of each."""
    return plugin_table("levelled", "-c", LEVELLED, ready_timeout=60, **settings)


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["it is debug", "it is info", "it is warning", "it is error", "plain text"]),
        ("info", ["it is info", "it is warning", "it is error", "plain text"]),
        ("warning", ["it is warning", "it is error"]),
        ("error", ["it is error"]),
        (None, ["it is warning", "it is error"]),
    ],
)
async def test_lines_that_matter_less_are_kept_and_not_logged(
    level: str | None, shown: list[str], short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a level of its own, loggers decide as they always do."""
    caplog.set_level("WARNING")
    caplog.handler.setLevel(logging.NOTSET)  # It is the loggers that are asked.
    output = {} if level is None else {"log_level": level}
    async with run_mesh(plain_output_table(output=output), short_dir) as watched:
        await watched.wait_for_line("plain text")
        (kept,) = watched.mesh.log_lines("levelled").values()
    assert logged_messages(caplog, "levelled") == shown
    assert len(kept) == 5


async def test_what_is_disabled_for_all_stays_so(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = plain_output_table(output={"log_level": "debug"})
    logging.disable(logging.WARNING)
    try:
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_line("plain text")
    finally:
        logging.disable(logging.NOTSET)
    assert logged_messages(caplog, "levelled") == ["it is error"]


async def test_a_plugin_logs_from_the_level_on_that_its_config_says(short_dir: Path) -> None:
    config = logging_echo_table(output={"log_level": "debug"})
    async with run_mesh(config, short_dir) as watched:
        await log_on_all_levels(watched, "here")
        lines = [each.event.line for each in watched.find_events(events.LineWritten)]  # type: ignore[attr-defined]
    levels = [json.loads(line)["level"].lower() for line in lines]
    # And nothing of how its headers were decoded.
    assert levels == list(ALL_LEVELS)


async def test_a_program_with_logging_of_its_own_heeds_the_level(short_dir: Path) -> None:
    config = plugin_table("talkative", "logging_echo.py", "own", output={"log_level": "info"})
    async with run_mesh(config, short_dir) as watched:
        await log_on_all_levels(watched, "here")
        lines = [each.event.line for each in watched.find_events(events.LineWritten)]  # type: ignore[attr-defined]
    assert lines == [f"own {level.upper()} {level} here" for level in ALL_LEVELS[1:]]


async def test_a_reload_changes_the_level_and_restarts_nothing(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pipe = short_dir / "pipe"
    config = plugin_table("levelled", "-c", REPEATING, str(pipe), ready_timeout=60)
    os.mkfifo(pipe)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Starting)
        with await trio.to_thread.run_sync(lambda: pipe.open("w", buffering=1)) as write:
            write.write("first\n")
            await watched.wait_for_line("first")
            changed = await watched.mesh.reload(with_level(watched.mesh.config, LogLevel.WARNING))
            assert changed.adjusted == ("levelled",)
            assert not changed.restarted
            write.write('second\n{"level": "warning", "message": "third"}\n')
            await watched.wait_for_line("third")
            await watched.mesh.reload(with_level(watched.mesh.config, None))
            write.write("fourth\n")
            await watched.wait_for_line("fourth")
        assert len(watched.find_events(events.Starting)) == 1
    assert logged_messages(caplog, "levelled") == ["first", "third", "fourth"]
    told = [each.getMessage() for each in caplog.records if "log level" in each.getMessage()]
    assert told == [
        "levelled/0: log level set to warning",
        "levelled/0: log level reset to its program's default",
    ]


async def test_a_reload_cannot_change_the_log_of_the_mesh(short_dir: Path) -> None:
    async with run_mesh(plain_output_table(), short_dir) as watched:
        log = attrs.evolve(watched.mesh.config.log, level=LogLevel.ERROR)
        with pytest.raises(UsageError, match="log cannot be changed while the mesh runs"):
            await watched.mesh.reload(attrs.evolve(watched.mesh.config, log=log))
