"""Commands that look at a mesh: for people, and as JSON for scripts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh as meshes
from tests import ROOT
from tests.support.cli_commands import (
    ECHO_METHOD,
    PRINTING_ECHO_PROGRAM,
    SLOW_METHOD,
    parse_json_output,
    run_command_ok,
    run_commands_concurrently,
    start_command,
)
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    run_meshtrio,
    serve_mesh,
)

LOOKS = (
    "ps",
    "ps pair --json",
    "ps plugin.bad --json",
    "tree",
    "tree --json",
    "top --once --interval 0.1 --json",
    "top --methods --once --interval 0.1 --json",
    "events bad",
    "events --json bad",
    "events --json -n 1 bad",
    "events -n 0",
    "services",
    "services plugin.echo outside --json",
    "services plugin.wrdy",
    "ps ehco",
    "logs -f ehco",
    "drain ehco",
)
Outputs = dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def outputs(mesh: MeshProcess) -> Outputs:
    """Run commands that change nothing side by side; returns what they print."""
    return dict(zip(LOOKS, run_commands_concurrently(mesh, *LOOKS), strict=True))


def split_cells(text: str) -> list[list[str]]:
    return [re.split(r"  +", line.strip()) for line in text.splitlines()]


def test_ps_is_a_table_of_every_instance(mesh: MeshProcess, outputs: Outputs) -> None:
    text = outputs["ps"].stdout
    assert "\x1b" not in text
    titles, *rows = split_cells(text)
    assert " ".join(titles) == "NAME INSTANCE PID STATE RESTARTS UPTIME SOCKET REASON"
    assert [row[:2] for row in rows] == [["echo", "0"], ["echo", "1"], ["wordy", "0"], ["bad", "0"]]
    assert rows[3][2:5] == ["-", "failed", "0"]
    assert rows[3][-1] == "exited with status 3"
    assert int(rows[0][2]) in mesh.plugin_pids()


def test_ps_of_a_group_as_json(mesh: MeshProcess, outputs: Outputs) -> None:
    group = parse_json_output(outputs["ps pair --json"])
    assert [(row["name"], row["instance"]) for row in group] == [
        ("echo", 0),
        ("echo", 1),
        ("wordy", 0),
    ]
    (bad,) = parse_json_output(outputs["ps plugin.bad --json"])
    assert bad == {
        "name": "bad",
        "instance": 0,
        "pid": None,
        "state": "failed",
        "restarts": 0,
        "uptime": None,
        "socket": str(mesh.runtime_dir / "bad-0.sock"),
        "reason": "exited with status 3",
        "start": "",
        "ready_after": None,
        "status": "",
        "resident": None,
        "proportional": None,
        "task": None,
    }


def test_tree_shows_who_owns_what(mesh: MeshProcess, outputs: Outputs) -> None:
    lines = outputs["tree"].stdout.splitlines()
    assert lines[0].startswith(f"mesh {mesh.socket}, up ")
    assert [
        re.sub(r"\d+(\.\d)?s|pid \d+|\d+m\d\ds|[\d.]+ s\b", "#", line) for line in lines[1:]
    ] == [
        "├── bad (never)",
        "│   └── 0 failed: exited with status 3",
        "└── pair (one-for-all)",
        "    ├── echo (always)",
        "    │   ├── 0 ready, #, by exec in #, up #, 0 calls under way",
        "    │   └── 1 ready, #, by exec in #, up #, 0 calls under way",
        "    └── wordy (on-failure) after echo",
        "        └── 0 ready, #, by exec in #, up #, 0 calls under way",
    ]


def test_tree_as_json(mesh: MeshProcess, outputs: Outputs) -> None:
    root = parse_json_output(outputs["tree --json"])
    assert (root["kind"], root["name"]) == ("MESH", str(mesh.socket))
    bad, pair = root["nodes"]
    assert (pair["kind"], pair["policy"], bad["policy"]) == ("GROUP", "one-for-all", "never")
    echoes, wordy = pair["nodes"]
    assert (wordy["kind"], wordy["after"]) == ("PLUGIN", ["echo"])
    assert [each["in_flight"] for each in echoes["instances"]] == [0, 0]
    assert bad["instances"][0]["in_flight"] is None


def test_top_prints_one_table_where_there_is_no_terminal(mesh: MeshProcess) -> None:
    since = str(time.time())
    with start_command(
        mesh, "call", "plugin.wordy", SLOW_METHOD, '{"seconds": 60}', "--timeout", "60"
    ):
        with start_command(mesh, "logs", "-f", "--since", since, "wordy") as logs:
            while "slow begins" not in logs.read_line():
                pass
        titles, total, *rows = split_cells(run_command_ok(mesh, "top", "--interval", "0.2"))
    assert " ".join(titles) == (
        "NAME▲ STATE PID CALLS/S FAILED/S MEDIAN P99 IN FLIGHT CPU % MEMORY RESTARTS UPTIME"
    )
    assert total[:2] == ["mesh", "3/4 ready"]
    by_name = {row[0]: row for row in rows}
    assert list(by_name) == ["bad/0", "echo/0", "echo/1", "wordy/0"]
    assert by_name["wordy/0"][7] == "1"
    assert by_name["bad/0"][3:8] == ["-"] * 5
    assert by_name["echo/0"][3:8] == ["0.0", "0.0", "-", "-", "0"]
    assert by_name["echo/0"][9].endswith("M")


async def call_echo(mesh: MeshProcess, times: int) -> None:
    async with meshes.connect("plugin.echo", mesh_socket=mesh.socket) as channel:
        stub = channel.stub(EchoServiceStub)
        with trio.fail_after(20):
            for _ in range(times):
                await stub.Echo(EchoRequest(message="hi"))


def test_top_as_json_is_a_line_for_each_interval(mesh: MeshProcess) -> None:
    with start_command(mesh, "top", "--json", "--interval", "0.2") as top:
        last = top.read_json()
        trio.run(call_echo, mesh, 40)
        calls = 0.0
        while calls < 39.9:
            found = top.read_json()
            seconds, last = found["uptime"] - last["uptime"], found
            assert seconds > 0.1
            rates = [each["rates"]["calls"] or 0.0 for each in found["instances"]]
            calls += sum(rates) * seconds
        assert calls == pytest.approx(40)
        by_name = {(e["instance"]["name"], e["instance"]["instance"]): e for e in last["instances"]}
        assert isinstance(by_name["echo", 0]["load"]["started"], int)
        assert by_name["bad", 0]["rates"]["calls"] is None
        assert top.interrupt() == 130


def test_top_once_as_json_is_one_document(outputs: Outputs) -> None:
    found = parse_json_output(outputs["top --once --interval 0.1 --json"])
    assert {plugin["name"] for plugin in found["plugins"]} == {"echo", "wordy", "bad"}
    assert found["total"]["counts"]["starts"] == 4


def test_top_of_methods_as_json(mesh: MeshProcess, outputs: Outputs) -> None:
    once = parse_json_output(outputs["top --methods --once --interval 0.1 --json"])
    assert once["interval"] > 0.05
    with start_command(mesh, "top", "--methods", "--json", "--interval", "0.2") as top:
        top.read_json()
        run_command_ok(mesh, "call", "plugin.echo", ECHO_METHOD)
        found: dict[str, Any] = {"methods": [], "gateway": []}
        ended: Counter[str] = Counter()
        while ended.total() < 2:
            found = top.read_json()
            for via in ("methods", "gateway"):
                for row in found[via]:
                    if row["target"] == "plugin.echo" and row["ended"]:
                        assert (row["service"], row["method"]) == ("echo.v1.EchoService", "Echo")
                        assert row["p50"] > 0
                        assert row["rates"]["failed"] == 0
                        ended[via] += row["ended"]["OK"]
        assert ended == {"methods": 1, "gateway": 1}
        assert top.interrupt() == 130


def test_top_of_methods_is_a_table(mesh: MeshProcess) -> None:
    with start_command(
        mesh, "call", "plugin.wordy", SLOW_METHOD, '{"seconds": 60}', "--timeout", "60"
    ):
        rows: list[list[str]] = []
        while not any(row[:2] == ["wordy", SLOW_METHOD] for row in rows):
            shown = run_command_ok(mesh, "top", "--methods", "--interval", "0.2")
            titles, *rows = split_cells(shown)
    assert " ".join(titles) == ("NAME▲ METHOD CALLS/S FAILED/S P50 P95 P99 IN FLIGHT FAILURES")
    (row,) = (row for row in rows if row[:2] == ["wordy", SLOW_METHOD])
    assert row[4:] == ["-", "-", "-", "1", "-"]


def test_events_tell_what_happened(outputs: Outputs) -> None:
    lines = outputs["events bad"].stdout.splitlines()
    assert [re.sub(r"^[\d:.]+ |pid \d+", "", line) for line in lines] == [
        "bad/0 starting: started as ",
        "bad/0 exited:  exited with status 3; last stderr line: about to give up",
        "bad/0 gave-up: exited with status 3; not restarted (restart policy)",
    ]


def test_events_as_json_and_only_the_last(outputs: Outputs) -> None:
    found = [json.loads(line) for line in outputs["events --json bad"].stdout.splitlines()]
    assert [each["kind"] for each in found] == ["starting", "exited", "gave-up"]
    assert [each["level"] for each in found] == ["INFO", "WARNING", "ERROR"]
    assert abs(time.time() - found[0]["time"]) < 300
    assert isinstance(found[0]["sequence"], int)
    assert parse_json_output(outputs["events --json -n 1 bad"]) == found[-1]
    assert outputs["events -n 0"].stdout == ""


def test_logs_are_what_plugins_wrote(mesh: MeshProcess) -> None:
    run_command_ok(mesh, "call", "plugin.wordy", ECHO_METHOD, '{"message": "one"}')
    lines = run_command_ok(mesh, "logs", "wordy", "bad").splitlines()
    said = [re.sub(r"^[\d:.]+ ", "", line) for line in lines]
    assert "bad/0 | about to give up" in said
    # Two pipes have no order.
    assert {"wordy/0 | out one", "wordy/0 | err one"} <= set(said)


def test_logs_as_json_since_a_time(mesh: MeshProcess) -> None:
    since = time.time()
    run_command_ok(mesh, "call", "plugin.wordy", ECHO_METHOD, '{"message": "two"}')
    command = f"logs --json wordy --since {since}"
    everything, last, nothing, later = (
        each.stdout.splitlines()
        for each in run_commands_concurrently(
            mesh, command, f"{command} -n 1", f"{command} -n 0", "logs --since 2999-01-01T00:00:00Z"
        )
    )
    found = [json.loads(line) for line in everything]
    assert {(each["stream"], each["text"]) for each in found} == {
        ("stdout", "out two"),
        ("stderr", "err two"),
    }
    assert [json.loads(line)["text"] for line in last] == [found[-1]["text"]]
    assert nothing == later == []


def test_logs_go_on_until_they_are_interrupted(mesh: MeshProcess) -> None:
    with start_command(mesh, "logs", "-f", "--json", "wordy") as logs:
        run_command_ok(mesh, "call", "plugin.wordy", ECHO_METHOD, '{"message": "later"}')
        seen = {logs.read_json()["text"]}
        while not {"out later", "err later"} <= seen:
            seen.add(logs.read_json()["text"])
        assert logs.interrupt() == 130


def write(mesh: MeshProcess, service: str, count: int, text: str) -> None:
    """Have the plugin "wordy" write a line `count` times."""
    request = json.dumps({"message": f"{count} {text}"})
    run_command_ok(mesh, "call", service, "echo.v1.EchoService/Join", request)


def test_whoever_reads_too_slowly_is_told_what_is_missing(mesh: MeshProcess) -> None:
    with start_command(mesh, "logs", "-f", "--json", "wordy") as logs:
        write(mesh, "plugin.wordy", 1, "it listens")
        while logs.read_json()["text"] != "it listens":
            pass
        # Far more than pipes, connections and the mesh hold for him.
        write(mesh, "plugin.wordy", 40_000, "x" * 200)
        write(mesh, "plugin.wordy", 1, "the end")
        found = [logs.read_json()]
        while found[-1]["text"] != "the end":
            found.append(logs.read_json())
        assert sum(each["missed"] for each in found) + len(found) == 40_001
        assert any(each["missed"] for each in found)
        assert logs.interrupt() == 130


def test_what_is_written_too_fast_is_told_as_a_number(short_dir: Path) -> None:
    config = plugin_table(
        "wordy", str(PRINTING_ECHO_PROGRAM), output={"lines_per_second": 1, "burst": 2}
    )
    with serve_mesh(short_dir, config, min_ready=1) as terse:
        with start_command(terse, "logs", "-f", "wordy") as logs:
            write(terse, "plugin.wordy", 1, "it listens")
            assert logs.read_line().endswith("wordy/0 | it listens")
            write(terse, "plugin.wordy", 100, "again")
            # The mesh counts what it drops until there is something to tell again, or the end.
            run_command_ok(terse, "stop", "wordy")
            shown = 0
            while (line := logs.read_line()).endswith("wordy/0 | again"):
                shown += 1
        found = re.search(r"wordy/0 \| … (\d+) lines not shown: ", line)
        assert found is not None, line
        assert int(found[1]) == 100 - shown


def test_whoever_reads_may_go_away(mesh: MeshProcess) -> None:
    with start_command(mesh, "top", "--json", "--interval", "0.1") as top:
        top.read_line()
        assert top.process.stdout is not None
        top.process.stdout.close()
        assert top.process.wait(20) == 141
        assert top.process.stderr is not None
        assert top.process.stderr.read() == ""


def test_services_tell_who_serves_what(mesh: MeshProcess, outputs: Outputs) -> None:
    titles, *rows = split_cells(outputs["services"].stdout)
    assert " ".join(titles) == "SERVICE ADDRESS INSTANCE PID WEIGHT PRIORITY NOTE"
    by_service = {row[0]: row for row in rows}
    assert by_service["outside"][1:] == ["tcp:127.0.0.1:1", "0", "-", "3", "1"]
    assert by_service["plugin.bad"][-1].startswith("instance 0 (pid ")
    assert by_service["plugin.bad"][-1].endswith(") exited with status 3: about to give up")
    addresses = [row[1] for row in rows if row[0] == "plugin.echo"]
    assert addresses == [f"unix:{mesh.runtime_dir}/echo-{number}.sock" for number in (0, 1)]


def test_services_as_json(mesh: MeshProcess, outputs: Outputs) -> None:
    echoes, outside = parse_json_output(outputs["services plugin.echo outside --json"])
    assert {each["pid"] for each in echoes["endpoints"]} < set(mesh.plugin_pids())
    assert outside["endpoints"][0]["weight"] == 3
    assert outside["endpoints"][0]["tls"] is None
    assert outside["balancing"] == []
    unknown = outputs["services plugin.wrdy"]
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "plugin.wordy" in unknown.stderr


def test_an_unknown_name_is_told_with_those_there_are(outputs: Outputs) -> None:
    for command in ("ps ehco", "logs -f ehco", "drain ehco"):
        found = outputs[command]
        assert found.returncode == 1
        assert found.stdout == ""
        said = "meshtrio: there is no plugin 'ehco'; the plugins are: echo, wordy, bad\n"
        assert found.stderr == said


def test_without_a_mesh_it_is_told_how_to_start_one(short_dir: Path) -> None:
    nowhere = MeshProcess(None, short_dir, short_dir)  # type: ignore[arg-type]
    commands = ("tree", "logs -f", "restart echo", f"call plugin.x {ECHO_METHOD}")
    for found in run_commands_concurrently(nowhere, *commands):
        assert (found.returncode, found.stdout) == (1, "")
        (line,) = found.stderr.splitlines()
        assert line.startswith(f"meshtrio: no mesh answers at {short_dir}/mesh.sock")
        assert "start one with `meshtrio serve`" in line


def test_a_mesh_that_ends_ends_what_follows_it(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as ending:
        with start_command(ending, "events", "-f", "--json") as events:
            assert events.read_json()["kind"] == "starting"
            ending.stop()
            _, errors = events.process.communicate(timeout=60)
            assert events.process.returncode == 1
            assert re.fullmatch(rf"meshtrio: lost the mesh at {ending.socket}: .*\n", errors)


AS_NOBODY = """
import os, sys
import meshtrio.cli.call, meshtrio.cli.inspect_commands, meshtrio.cli.rich_output
from meshtrio.cli import main
# Not before, since nobody may not read the interpreter's files everywhere.
os.setgroups([]), os.setgid(65534), os.setuid(65534)
sys.argv = ["meshtrio", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_who_may_not_is_told_what_the_mesh_says(short_dir: Path) -> None:
    short_dir.chmod(0o711)
    config = echo_plugin_table() + '[mesh.access.gateway]\nusers = ["65534"]\n'
    with serve_mesh(short_dir, config, min_ready=1) as shared:

        def as_nobody(*arguments: str) -> Any:
            command = [sys.executable, "-c", AS_NOBODY, *arguments]
            return subprocess.run(
                command,
                cwd=ROOT,
                env=shared.environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        refused = as_nobody("ps")
        assert refused.returncode == 1
        assert refused.stderr.startswith("meshtrio: access.control: uid 65534 (pid ")
        assert "may not call meshtrio.v1.Control" in refused.stderr
        # Through the gateway, and so without knowing where the plugin is.
        called = as_nobody("call", "plugin.echo", ECHO_METHOD, '{"message": "hi"}')
        assert json.loads(called.stdout)["message"] == "hi", called.stderr


@pytest.mark.parametrize("command", ["tree", "top --once", "ps"])
def test_where_there_is_only_ascii(command: str, mesh: MeshProcess) -> None:
    environment = {**mesh.environment, "PYTHONIOENCODING": "ascii"}
    found = run_meshtrio(*command.split(), env=environment)
    assert (found.returncode, found.stderr) == (0, "")
    assert "echo" in found.stdout
