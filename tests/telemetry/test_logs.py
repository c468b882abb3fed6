"""What a mesh logs: one record for each event, and each line that a plugin writes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from meshtrio.supervisor import events
from meshtrio.supervisor.event_text import event_name
from tests.plugins.odd_log_lines import LINES
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import echo_plugin_table, plugin_table


def of_plugins(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if hasattr(record, "plugin")]


async def test_one_record_for_each_event_and_line_drops_too(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    output = {"lines_per_second": 100, "burst": 500}
    config = (
        echo_plugin_table()
        + plugin_table("chatter", "startup_faults.py", "chatter", ready_timeout=60, output=output)
        + plugin_table(
            "bad", "startup_faults.py", "exit-at-once", max_restarts=1, backoff={"initial": 0.01}
        )
        + plugin_table("weird", "odd_log_lines.py", ready_timeout=60)
    )
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready, plugin="echo")
        await watched.wait_for_event(events.GaveUp, plugin="bad")
        await watched.wait_for_line("chatter over")
        await watched.wait_for_line("the end")
        await watched.mesh.restart("echo")
    seen = [observed.event for observed in watched.events]
    kinds = {event_name(event) for event in seen}
    assert kinds >= {
        *("starting", "ready", "exited", "restarting", "gave_up", "renewing", "stopping"),
        *("stopped", "line_written", "lines_dropped"),
    }
    found = of_plugins(caplog)
    assert [(record.__dict__["plugin"], record.__dict__["instance"]) for record in found] == [
        (event.plugin, event.instance) for event in seen
    ]
    for record, event in zip(found, seen, strict=True):
        is_line = isinstance(event, events.LineWritten)
        assert record.__dict__["event"] == (None if is_line else event_name(event))
        of_a_plugin = is_line or isinstance(event, events.LinesDropped)
        name = f"meshtrio.plugin.{event.plugin}" if of_a_plugin else "meshtrio.mesh"
        assert record.name == name
        assert record.__dict__["pid"] == getattr(event, "pid", None)
    weird = [record for record in found if record.name == "meshtrio.plugin.weird"]
    assert len(weird) == len(LINES)


async def test_a_line_of_json_becomes_a_record_of_its_own(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with run_mesh(plugin_table("weird", "odd_log_lines.py"), short_dir) as watched:
        await watched.wait_for_line("the end")
    record = next(each for each in of_plugins(caplog) if each.getMessage() == "it failed")
    assert record.levelname == "ERROR"
    assert record.exc_text == "Traceback (most recent call last):\n  in f\nOSError: no such table"
    said = record.__dict__
    assert (said["logger"], said["stream"]) == ("shop.orders", "stdout")
    assert said["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert said["span_id"] == "00f067aa0ba902b7"
    assert said["fields"] == {"order": 17, "why": "no such table"}
    # What formats it as it likes has the exception, too.
    assert logging.Formatter().format(record).endswith("OSError: no such table")
