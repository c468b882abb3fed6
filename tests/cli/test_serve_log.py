"""The log of `serve`: whole lines in either form, whoever reads and whatever plugins write."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshtrio.cli.serve_log import BackgroundLogHandler, ConsoleFormatter, format_parsed_line
from meshtrio.supervisor.log_line import ParsedLine
from meshtrio.telemetry.logs.formatters import JsonFormatter
from tests.plugins.odd_log_lines import LINES
from tests.support.mesh_processes import plugin_table, serve_mesh, wait_until

_F_SETPIPE_SZ = 1031


def read(line: str) -> Any:
    """Parse JSON strictly."""

    def no(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(line, parse_constant=no)
    assert set(found) <= {
        *("time", "level", "logger", "message", "event", "plugin", "instance", "pid", "stream"),
        *("fields", "trace_id", "span_id", "exception"),
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    return found


# -- a mesh of real processes ----------------------------------------------------------------


def test_json_is_an_object_a_line_whatever_a_plugin_writes(short_dir: Path) -> None:
    config = plugin_table("weird", "odd_log_lines.py") + '[mesh.log]\nformat = "json"\n'
    with serve_mesh(short_dir, config) as mesh:
        mesh.wait_for_log('"message":"the end"')
        assert mesh.stop() == 0
        records = [read(line) for line in mesh.log.splitlines()]
    lines = [each for each in records if each.get("stream")]
    assert len(lines) == len(LINES)
    assert {(each["plugin"], each["instance"], each["stream"]) for each in lines} == {
        ("weird", 0, "stdout")
    }
    events = [each["event"] for each in records if "event" in each]
    assert events == ["starting", "stopping", "stopped"]
    (starting,) = (each for each in records if each.get("event") == "starting")
    assert starting["message"] == f"weird/0: started as pid {lines[0]['pid']}"
    assert (starting["logger"], starting["level"]) == ("meshtrio.mesh", "INFO")
    failed = next(each for each in lines if each["message"] == "it failed")
    del failed["time"], failed["pid"]
    assert failed == {
        "level": "ERROR",
        "logger": "shop.orders",
        "message": "it failed",
        "plugin": "weird",
        "instance": 0,
        "stream": "stdout",
        "fields": {"order": 17, "why": "no such table"},
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
        "exception": "Traceback (most recent call last):\n  in f\nOSError: no such table",
    }
    assert lines[0]["logger"] == "meshtrio.plugin.weird"
    assert lines[4]["fields"] == {"n": "NaN", "big": "Infinity", "huge": "-Infinity"}


def test_the_console_shows_a_line_of_json_as_people_read_it(short_dir: Path) -> None:
    with serve_mesh(short_dir, plugin_table("weird", "odd_log_lines.py")) as mesh:
        mesh.wait_for_log("weird/0 | the end")
        lines = mesh.log.split("\n")
    at = next(number for number, line in enumerate(lines) if "it failed" in line)
    ids = "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7"
    said = f'it failed [error] order=17 why="no such table" logger=shop.orders {ids}'
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}} weird/0 \| {re.escape(said)}", lines[at])
    assert [line.lstrip() for line in lines[at + 1 : at + 4]] == [
        "weird/0 | Traceback (most recent call last):",
        "weird/0 |   in f",
        "weird/0 | OSError: no such table",
    ]
    two = next(number for number, line in enumerate(lines) if "| two" in line)
    assert lines[two].endswith("| two n=NaN big=Infinity huge=-Infinity")
    assert lines[two + 1].endswith(r"| lines \x1b[2J")
    # What is no JSON is as it was written.
    assert any(line.endswith("weird/0 | plain") for line in lines)


def serve(folder: Path, config: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A mesh that ends by itself."""
    (folder / "mesh.toml").write_text(config)
    command = [sys.executable, "-m", "meshtrio", "serve", str(folder / "mesh.toml"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


FAILING = plugin_table(
    "bad",
    "startup_faults.py",
    "exit-at-once",
    max_restarts=0,
    escalate="mesh",
    restart="on-failure",
)


def test_what_ends_a_mesh_is_a_record_too(short_dir: Path) -> None:
    found = serve(short_dir, FAILING, "--runtime-dir", f"{short_dir}/r", "--log-format", "json")
    assert found.returncode == 1
    *_, last = [read(line) for line in found.stderr.splitlines()]
    assert (last["level"], last["logger"]) == ("CRITICAL", "meshtrio.mesh")
    assert last["message"].startswith("plugin bad/0 exited with status 3")
    plain = serve(short_dir, FAILING, "--runtime-dir", f"{short_dir}/r")
    assert plain.returncode == 1
    assert "\nmeshtrio: plugin bad/0 exited with status 3" in plain.stderr


def test_the_command_line_goes_before_the_config(short_dir: Path) -> None:
    config = FAILING + '[mesh.log]\nformat = "json"\nlevel = "debug"\n'
    options = ("--log-level", "error", "--log-format", "console")
    found = serve(short_dir, config, "--runtime-dir", f"{short_dir}/r", *options)
    assert "ready after" not in found.stderr
    assert "started as pid" not in found.stderr
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} mesh: error: bad/0", found.stderr, re.MULTILINE)


def test_what_is_no_form_or_level_is_refused(short_dir: Path) -> None:
    found = serve(short_dir, '[mesh.log]\nformat = "yaml"\nlevel = "loud"\nlevle = "x"\n')
    assert found.returncode == 2
    form, level, key = found.stderr.splitlines()
    assert form.endswith("mesh: log: format: must be one of console, json, not 'yaml'")
    assert level.endswith("level: must be one of debug, info, warning, error, not 'loud'")
    assert "did you mean 'level'?" in key
    option = serve(short_dir, "", "--log-level", "loud")
    assert option.returncode == 2
    assert "'loud' is not one of" in option.stderr


# -- its handler -----------------------------------------------------------------------------


class SlowReader:
    """A reader that may be slow, and a handler that writes to it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.handler = BackgroundLogHandler(self.writing, JsonFormatter())

    def log(self, message: object, *arguments: object) -> None:
        """Log through the handler, as a logger does."""
        self.handler.handle(
            logging.LogRecord("tests", logging.INFO, __file__, 1, message, arguments, None)
        )

    def read_to_the_end(self) -> list[str]:
        """All there is, while the handler writes what it has left."""
        found = bytearray()

        def read_all() -> None:
            while data := os.read(self.reading, 1 << 20):
                found.extend(data)

        reader = threading.Thread(target=read_all)
        reader.start()
        self.handler.drain_and_stop()
        os.close(self.writing)
        reader.join(20)
        return found.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[SlowReader]:
    found = SlowReader()
    yield found
    os.close(found.reading)


def count_records(lines: list[str]) -> tuple[int, int]:
    """Return the number of records, and of those reported as missing."""
    records = [read(line)["message"] for line in lines]
    missing = [re.fullmatch(r"dropped (\d+) lines of this log", m) for m in records]
    return sum(found is None for found in missing), sum(int(f[1]) for f in missing if f)


def test_a_reader_who_stands_still_holds_nobody_up(pipe: SlowReader) -> None:
    for number in range(30_000):
        pipe.log("line %d", number)
    written, missing = count_records(pipe.read_to_the_end())
    assert written + missing == 30_000
    assert 10_000 <= written < 15_000


def test_long_records_are_held_within_a_bound(pipe: SlowReader) -> None:
    for _ in range(1500):
        pipe.log("x" * 60_000)
    assert pipe.handler.writer.pending * 60_000 < 65 * 1024 * 1024
    written, missing = count_records(pipe.read_to_the_end())
    assert written + missing == 1500
    assert missing > 300


def test_a_line_that_was_written_in_part_breaks_no_other(pipe: SlowReader) -> None:
    fcntl.fcntl(pipe.writing, _F_SETPIPE_SZ, 4096)
    os.set_blocking(pipe.writing, False)
    pipe.log("x" * 10_000)
    wait_until(lambda: pipe.handler.lost)
    torn = os.read(pipe.reading, 8192)
    pipe.log("after")
    rest = pipe.read_to_the_end()
    assert torn.startswith(b'{"time"')
    assert torn.endswith(b"xx")
    assert rest.pop(0) == ""
    assert count_records(rest) == (1, 1)


def test_one_record_is_not_more_lines_than_somebody_reads() -> None:
    found = format_parsed_line(
        ParsedLine("x\n" * 4000, logging.ERROR, exception="e", fields={"n": 1})
    )
    assert found[0] == "x [error] n=1"
    assert len(found) == 301
    assert found[-1] == "… (3702 more lines)"


class FailingStr:
    def __str__(self) -> str:
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    "formatter", [JsonFormatter(), ConsoleFormatter()], ids=["json", "console"]
)
def test_who_logs_something_wrong_does_not_fail(
    formatter: logging.Formatter, pipe: SlowReader
) -> None:
    pipe.handler.setFormatter(formatter)
    pipe.log("%d of them", "some")
    pipe.log("%s", FailingStr())
    pipe.log(FailingStr())
    lines = pipe.read_to_the_end()
    assert len(lines) == 3
    assert "some" in lines[0] or "%d of them" in lines[0]
