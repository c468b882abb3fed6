"""Commands that tell a mesh what to do."""

from __future__ import annotations

import json
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_commands import (
    PRINTING_ECHO_PROGRAM,
    SLOW_METHOD,
    group_table,
    run_command_ok,
    run_commands_concurrently,
    run_failing_command,
    run_json_command,
    start_command,
)
from tests.support.mesh_processes import (
    MINIMAL_COMMAND,
    PLUGINS_DIRECTORY,
    MeshProcess,
    plugin_table,
    serve_mesh,
)


@pytest.fixture(scope="module")
def own() -> Iterator[MeshProcess]:
    """One mesh for all of these; each test has plugins of its own in it."""
    config = (
        plugin_table("stopping", *MINIMAL_COMMAND, instances=2)
        + plugin_table("renewed", *MINIMAL_COMMAND)
        + plugin_table("scaled", *MINIMAL_COMMAND)
        + plugin_table("drained", str(PRINTING_ECHO_PROGRAM), stop_timeout=1)
        + plugin_table("foreign", str(PLUGINS_DIRECTORY / "grpcio_echo.py"), "ends")
        + plugin_table(
            "bad", str(PLUGINS_DIRECTORY / "startup_faults.py"), "exit-at-once", restart="never"
        )
        + group_table("pair", "stopping", "renewed")
    )
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_mesh(Path(folder), config, min_ready=6) as found:
            yield found


def states(found: dict[str, Any]) -> list[str]:
    return [each["state"] for each in found["instances"]]


def test_stop_and_start(own: MeshProcess) -> None:
    assert run_command_ok(own, "stop", "stopping") == "stopped stopping: 2 instances\n"
    assert run_command_ok(own, "start", "pair") == "started pair: 3 instances ready\n"
    assert states(run_json_command(own, "stop", "plugin.stopping")) == ["stopped", "stopped"]
    assert states(run_json_command(own, "start", "stopping")) == ["ready", "ready"]


def test_start_of_what_gives_up_again_fails_with_the_reason(own: MeshProcess) -> None:
    assert run_failing_command(own, "start", "bad") == (
        "meshtrio: bad/0 exited with status 3; last stderr line: about to give up\n"
    )


def test_restart_renews_and_whoever_follows_events_sees_it(own: MeshProcess) -> None:
    (before,) = (row["pid"] for row in own.ps() if row["name"] == "renewed")
    with start_command(own, "events", "-f", "-n", "1", "--json", "renewed") as events:
        assert events.read_json()["pid"] == before
        assert run_command_ok(own, "restart", "renewed") == "restarted renewed: 1 instance ready\n"
        kinds = [events.read_json()["kind"] for _ in range(3)]
        assert kinds == ["renewing", "starting", "ready"]
        (after,) = run_json_command(own, "restart", "renewed")["instances"]
        assert (after["state"], after["restarts"]) == ("ready", 0)
        assert after["pid"] != before
        assert events.interrupt() == 130


def test_scale(own: MeshProcess) -> None:
    assert run_command_ok(own, "scale", "scaled", "3") == "scaled scaled to 3: 3 instances ready\n"
    assert states(run_json_command(own, "scale", "scaled", "1")) == ["ready"]
    refused = run_failing_command(own, "scale", "scaled", "0")
    assert refused == "meshtrio: cannot scale scaled to 0 instances; `stop` stops them all\n"


def test_drain_tells_which_calls_were_cut(own: MeshProcess) -> None:
    with start_command(
        own, "call", "plugin.drained", SLOW_METHOD, '{"seconds": 60}', "--timeout", "60"
    ):
        own.wait_for_log("slow begins")
        titles, row, summary = run_command_ok(own, "drain", "drained").splitlines()
    assert titles.split() == ["PLUGIN", "INSTANCE", "ENDED", "CUT", "CALLS"]
    # On a busy machine it may be killed in the end.
    ended = r"(exited with status 0|was killed by SIGKILL)( \(not in time\))?"
    assert re.fullmatch(rf"drained +0  {ended}  /echo\.v1\.EchoService/Slow", row)
    assert summary == "drained drained: 1 instance, 1 call cut"
    (drained,) = run_json_command(own, "drain", "drained")["instances"]
    assert drained == {
        "plugin": "drained",
        "instance": 0,
        "ended": "",
        "forced": False,
        "cut_calls": [],
        "cut_calls_known": True,
    }


def test_drain_says_where_it_is_not_known_which_calls_were_cut(own: MeshProcess) -> None:
    """Of a plugin that is not on meshtrio."""
    _, row, summary = run_command_ok(own, "drain", "foreign").splitlines()
    assert re.fullmatch(r"foreign +0 +exited with status 0 +not known", row)
    assert summary == "drained foreign: 1 instance, cut calls unknown for 1 instance"
    run_command_ok(own, "start", "foreign")
    (drained,) = run_json_command(own, "drain", "foreign")["instances"]
    assert (drained["cut_calls"], drained["cut_calls_known"]) == ([], False)


def test_whoever_does_not_wait_is_told_that_it_goes_on(short_dir: Path) -> None:
    config = plugin_table(
        "slow", str(PLUGINS_DIRECTORY / "startup_faults.py"), "ignore-sigterm", stop_timeout=60
    )
    with serve_mesh(short_dir, config) as mesh:
        mesh.wait_for_log("ignoring")
        with start_command(mesh, "stop", "slow") as stop:
            mesh.wait_for_log("stopping pid")
            stop.process.send_signal(signal.SIGINT)
            _, errors = stop.process.communicate(timeout=60)
        assert stop.process.returncode == 130
        said = "meshtrio: no longer waiting for stopping slow; the mesh continues with it\n"
        assert errors == said
        assert mesh.ps()[0]["state"] == "stopping"


def test_reload_tells_what_changed(short_dir: Path) -> None:
    first = plugin_table("one", *MINIMAL_COMMAND)
    with serve_mesh(short_dir, first, min_ready=1) as mesh:
        assert run_command_ok(mesh, "reload") == "nothing has changed\n"
        (short_dir / "mesh.toml").write_text(
            first + plugin_table("two", *MINIMAL_COMMAND, instances=2)
        )
        assert run_command_ok(mesh, "reload") == "added two\n"
        other = short_dir / "other.toml"
        other.write_text(plugin_table("one", *MINIMAL_COMMAND, restart="never"))
        assert run_json_command(mesh, "reload", str(other)) == {
            "added": [],
            "removed": ["two"],
            "restarted": [],
            "scaled": [],
            "adjusted": ["one"],
        }
        other.write_text(first + "instance = 2\n[mehs]\n")
        refused = mesh.run_command("reload", str(other))
        assert refused.returncode == 2
        mistakes = refused.stderr.splitlines()
        assert [line.partition(": ")[0] for line in mistakes] == ["meshtrio", "meshtrio"]
        assert any("instance: is not a key" in line for line in mistakes)
        assert any("did you mean 'mesh'" in line for line in mistakes)
        assert [row["name"] for row in mesh.ps()] == ["one"]


def test_check_as_json(short_dir: Path) -> None:
    nowhere = MeshProcess(None, short_dir, short_dir)  # type: ignore[arg-type]
    path = short_dir / "mesh.toml"
    path.write_text(plugin_table("one", *MINIMAL_COMMAND, instances=2))
    found = run_json_command(nowhere, "check", str(path))
    assert found == {
        "file": str(path),
        "plugins": 1,
        "instances": 2,
        "tasks": 0,
        "mistakes": [],
        "warnings": [],
    }
    path.write_text(plugin_table("one", *MINIMAL_COMMAND) + "instance = 2\n")
    wrong = nowhere.run_command("check", "--json", str(path))
    assert (wrong.returncode, wrong.stderr) == (2, "")
    (mistake,) = json.loads(wrong.stdout)["mistakes"]
    assert "instance: is not a key" in mistake


def test_a_reload_fails_with_a_plugin_that_does_not_start(own: MeshProcess) -> None:
    config = (own.runtime_dir.parent / "mesh.toml").read_text()
    looping = plugin_table(
        "looping",
        str(PLUGINS_DIRECTORY / "startup_faults.py"),
        "exit-at-once",
        backoff={"maximum": 0.5},
    )
    other = own.runtime_dir.parent / "other.toml"
    other.write_text(config + looping)
    line = run_failing_command(own, "reload", str(other))
    assert line.startswith("meshtrio: looping/0 exited with status 3; last stderr line: about to")
    assert re.search(r"; it is started again in \d\.\d s$", line)
    assert run_command_ok(own, "reload") == "removed looping\n"


@pytest.mark.long
def test_a_mesh_that_is_stopped_is_told_by_all(own: MeshProcess) -> None:
    commands = (
        "logs -n 1",
        "events -f",
        "stop renewed",
        "trace",
        "top --once",
        "log-level renewed",
    )
    own.process.send_signal(signal.SIGSTOP)
    try:
        told = run_commands_concurrently(own, *commands)
    finally:
        own.process.send_signal(signal.SIGCONT)
    for found in told:
        assert found.returncode == 1, found
        assert "has not answered for 10 s: is it stopped?" in found.stderr
