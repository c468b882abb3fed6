"""Plugins that flood their output: the mesh goes on, and nothing else is lost."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.client.channel import connect_to
from meshtrio.supervisor import events
from tests.plugins import flooding_echo
from tests.support.connection_pairs import echo_request
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.proc import read_stat

FLOODING = str(PLUGINS_DIRECTORY / "flooding_echo.py")
FLOODERS = 10
CALLS = 20
TARGET = [("x-mesh-target", "plugin.echo")]


def flooding_plugin_tables(kind: str) -> str:
    # Their health is not what this is about: they share few CPUs with all that they do.
    patient = {"ready_timeout": 600, "liveness": {"interval": 0}, "output": {"log_level": "error"}}
    return "".join(plugin_table(f"{kind}-{n}", FLOODING, kind, **patient) for n in range(FLOODERS))


@pytest.mark.parametrize("kind", flooding_echo.KINDS)
def test_the_loop_does_not_stand_still_for_floods(kind: str, short_dir: Path) -> None:
    """Ten plugins that wrote newlines as fast as they could held up gateway calls for 10 s.

    Measured is the mesh's own CPU time for each call, which a busy machine does not change: what it
    reads and handles between two steps of a call is bounded. It is 2 to 7 ms; the limit has room
    for a machine that is ten times slower.
    """
    with serve_mesh(
        short_dir, echo_plugin_table() + flooding_plugin_tables(kind), min_ready=FLOODERS + 1
    ) as mesh:
        before = cpu_seconds(mesh.process.pid)
        began = time.monotonic()
        trio.run(call_through, mesh.socket)
        used = cpu_seconds(mesh.process.pid) - before
        assert used / CALLS < 0.2, f"{used} s of CPU, {time.monotonic() - began} s"


async def call_through(socket: Path) -> None:
    with trio.fail_after(600):
        async with connect_to(f"unix:{socket}") as channel:
            stub = channel.stub(EchoServiceStub)
            for _ in range(CALLS):
                await stub.Echo(echo_request("hi"), metadata=TARGET)


def cpu_seconds(pid: int) -> float:
    fields = read_stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_last_line_of_a_flood_explains_the_end(short_dir: Path) -> None:
    config = plugin_table("dying", FLOODING, "dies", restart="never")
    with serve_mesh(short_dir, config) as mesh:
        mesh.wait_for_log("last stderr line: the last line of stderr")
        (row,) = mesh.ps()
        assert "the last line of stderr" not in row["reason"]
        services = json.loads(mesh.run_command("services", "plugin.dying", "--json").stdout)
        (departure,) = services[0]["departures"]
        assert departure["stderr_tail"][-1] == "the last line of stderr"
        (last,) = mesh.run_command("logs", "dying", "-n", "1", "--json").stdout.splitlines()
        assert json.loads(last)["text"] == "the last line of stderr"


def test_no_line_is_lost_that_does_not_come_too_fast(short_dir: Path) -> None:
    """Neither of many at once, nor at the end of the process."""
    program = "for n in range(4000): print('line', n, flush=n % 7 == 0)"
    config = plugin_table("normal", "-c", program, restart="never", output={"kept": 10_000})
    with serve_mesh(short_dir, config) as mesh:
        wait_until(lambda: mesh.ps()[0]["state"] == "exited")
        found = mesh.run_command("logs", "normal", "--json").stdout.splitlines()
        texts = [json.loads(line)["text"] for line in found]
        assert texts == [f"line {n}" for n in range(4000)]
        wait_until(lambda: f"| line {3999}\n" in mesh.log)
        assert [line.rpartition("| ")[2] for line in mesh.log.splitlines() if "| line" in line] == [
            f"line {n}" for n in range(4000)
        ]


def test_what_is_dropped_of_a_flood_is_counted(short_dir: Path) -> None:
    program = "import os; [os.write(1, b'\\n' * 50_000) for _ in range(20)]; print('end')"
    output = {"burst": 100, "lines_per_second": 1}
    config = plugin_table("fast", "-c", program, restart="never", output=output)
    with serve_mesh(short_dir, config) as mesh:
        mesh.wait_for_log("exited with status 0")
        wait_until(lambda: mesh.ps()[0]["state"] == "exited")
        notes = [line for line in mesh.log.splitlines() if "more lines on stdout dropped" in line]
        dropped = sum(int(line.partition("| ")[2].split()[0]) for line in notes)
        told = sum(line.endswith(("| ", "| end")) for line in mesh.log.splitlines())
        assert dropped + told == 1_000_001
        (last,) = mesh.run_command("logs", "fast", "-n", "1", "--json").stdout.splitlines()
        assert json.loads(last)["text"] == "end"


async def test_a_drain_is_reported_within_a_flood(short_dir: Path) -> None:
    config = plugin_table("lines", FLOODING, "lines", output={"burst": 1, "lines_per_second": 1})
    async with run_mesh(config, short_dir) as watched:
        with trio.fail_after(120):
            await watched.wait_for_event(events.LinesDropped)
            (drained,) = await watched.mesh.drain("lines")
        assert drained.cut_calls_known
