"""What plugins made with meshtrio log, from their processes to whoever reads it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.contract import MAX_LINE_LENGTH
from meshtrio.errors import PluginDiedError
from meshtrio.messages import control
from meshtrio.supervisor import events
from tests.support.cli_commands import ECHO_METHOD, run_command_ok
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    plugin_table,
    serve_mesh,
    wait_for_server,
)
from tests.support.otlp_collector import run_collector

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
METADATA = [("traceparent", f"00-{TRACE}-{SPAN}-01")]
TALKATIVE = plugin_table("talkative", "logging_echo.py")


@asynccontextmanager
async def run_logging_plugin(
    folder: Path, config: str = TALKATIVE
) -> AsyncIterator[tuple[RecordedMesh, Any]]:
    """Run a mesh with a plugin that logs what calls say; yields a stub of the plugin as well."""
    async with run_mesh(config, folder) as watched:
        async with watched.mesh.connect("plugin.talkative") as channel:
            with trio.fail_after(40):
                yield watched, channel.stub(EchoServiceStub)


def lines_written(watched: RecordedMesh) -> list[str]:
    found = [each.event for each in watched.find_events(events.LineWritten, plugin="talkative")]
    return [each.line for each in found if isinstance(each, events.LineWritten)]


async def test_a_record_keeps_its_logger_and_the_ids_of_its_call(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with run_logging_plugin(short_dir) as (watched, stub):
        await stub.Echo(EchoRequest(message="warning it is late"), metadata=METADATA)
        await stub.Echo(EchoRequest(message="info not traced"))
        await watched.wait_for_line("not traced")
        async with connect_to_mesh(watched.mesh.socket) as channel:
            asked = DynamicStub(channel, control.DESCRIPTOR.services_by_name["Control"])
            read = [line async for line in asked.ReadLogs(control.ReadLogsRequest())]
    assert json.loads(lines_written(watched)[0]) == {
        "level": "WARNING",
        "logger": "shop.orders",
        "message": "it is late",
        "trace_id": TRACE,
        "span_id": SPAN,
        "order": 17,
    }
    late, untraced = read
    assert (late.level, late.message, late.logger) == ("WARNING", "it is late", "shop.orders")
    assert (late.trace_id, late.span_id, late.stream) == (TRACE, SPAN, "stderr")
    assert (untraced.level, untraced.message, untraced.trace_id) == ("INFO", "not traced", "")
    record = next(each for each in caplog.records if each.getMessage() == "it is late")
    said = record.__dict__
    assert (record.name, record.levelname) == ("meshtrio.plugin.talkative", "WARNING")
    assert (said["logger"], said["trace_id"], said["span_id"]) == ("shop.orders", TRACE, SPAN)
    assert said["fields"] == {"order": 17}


@pytest.mark.parametrize("sampling", [1, 0])
async def test_where_calls_are_traced_the_ids_are_those_of_the_span(
    sampling: int, short_dir: Path
) -> None:
    """And there are none of what is not recorded, which has one trace id for many calls."""
    traces = f'[mesh.telemetry]\ntraces = "unix:{short_dir / "c"}"\nsampling = {sampling}\n'
    async with run_collector(short_dir / "c") as collector:
        async with run_logging_plugin(short_dir, traces + TALKATIVE) as (watched, stub):
            await stub.Echo(EchoRequest(message="warning it is late"))
            line = (await watched.wait_for_line("it is late")).event
            assert isinstance(line, events.LineWritten)
            assert line.fields is not None
            if sampling:
                (served_call,) = await collector.wait_for_spans("Recv.echo.v1.EchoService.Echo")
                assert line.fields["trace_id"] == served_call.span.trace_id.hex()
                assert line.fields["span_id"] == served_call.span.span_id.hex()
            else:
                assert set(line.fields) == {"level", "logger", "message", "order"}


async def test_an_exception_is_one_record_and_the_last_words_are_its_own(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with run_logging_plugin(
        short_dir, plugin_table("talkative", "logging_echo.py", restart="never")
    ) as (
        watched,
        stub,
    ):
        with pytest.raises(PluginDiedError) as caught:
            await stub.Echo(EchoRequest(message="die of it"))
        await watched.wait_for_event(events.GaveUp)
    first, *_, last = caught.value.stderr_tail
    assert (first, last) == ("it failed: of it", "such table")
    assert "Traceback (most recent call last):" in caught.value.stderr_tail
    (record,) = (each for each in caplog.records if each.name == "meshtrio.plugin.talkative")
    assert record.levelname == "ERROR"
    assert record.exc_text is not None
    assert record.exc_text.endswith("RuntimeError: no\nsuch table")
    assert any("last stderr line: such table" in each.getMessage() for each in caplog.records)


async def test_a_record_is_within_what_a_mesh_keeps_of_a_line(short_dir: Path) -> None:
    async with run_logging_plugin(short_dir) as (watched, stub):
        await stub.Echo(EchoRequest(message="long"))
        line = (await watched.wait_for_line("xxx")).event
    assert isinstance(line, events.LineWritten)
    assert line.truncated_bytes == 0
    assert len(line.line) <= MAX_LINE_LENGTH
    assert line.fields is not None
    assert line.fields["message"].endswith("more characters)")


async def test_who_sets_up_logging_by_itself_is_left_alone(short_dir: Path) -> None:
    config = plugin_table("talkative", "logging_echo.py", "own")
    async with run_logging_plugin(short_dir, config) as (watched, stub):
        await stub.Echo(EchoRequest(message="info it is hidden"))
        await stub.Echo(EchoRequest(message="error it is shown"))
        await watched.wait_for_line("it is shown")
    assert lines_written(watched) == ["own ERROR it is shown"]


def test_without_a_mesh_it_is_text(short_dir: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "MESH_SOCKET"}
    with subprocess.Popen(
        [sys.executable, str(PLUGINS_DIRECTORY / "logging_echo.py")],
        env={**environment, "PLUGIN_SOCKET": str(short_dir / "s")},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_for_server(short_dir / "s")
            trio.run(warn, short_dir / "s")
            assert process.stderr is not None
            assert process.stderr.readline() == "WARNING shop.orders: it is late\n"
        finally:
            process.terminate()


async def warn(socket: Path) -> None:
    """Have a plugin without a mesh log something."""
    async with connect_to(f"unix:{socket}") as channel:
        await channel.stub(EchoServiceStub).Echo(EchoRequest(message="warning it is late"))


def test_a_command_shows_the_lines_as_people_read_them(short_dir: Path) -> None:
    with serve_mesh(short_dir, TALKATIVE, min_ready=1) as talked:
        for said in ("warning it is late", "fail of it"):
            run_command_ok(
                talked, "call", "plugin.talkative", ECHO_METHOD, json.dumps({"message": said})
            )
        shown = [
            re.sub(r"^[\d:.]+ ", "", each) for each in run_command_ok(talked, "logs").splitlines()
        ]
        assert shown[:2] == [
            "talkative/0 | it is late [warning] order=17 logger=shop.orders",
            "talkative/0 | it failed: of it [error] logger=shop.orders",
        ]
        assert f'  File "{PLUGINS_DIRECTORY / "logging_echo.py"}", line ' in shown[3]
        assert [shown[at].strip() for at in (2, -2, -1)] == [
            "talkative/0 | Traceback (most recent call last):",
            "talkative/0 | RuntimeError: no",
            "talkative/0 | such table",
        ]
        found = [json.loads(line) for line in run_command_ok(talked, "logs", "--json").splitlines()]
        assert [each["level"] for each in found] == ["WARNING", "ERROR"]
        assert [each["logger"] for each in found] == ["shop.orders"] * 2
        assert found[1]["exception"].endswith("RuntimeError: no\nsuch table")
        assert json.loads(found[0]["text"])["order"] == 17
