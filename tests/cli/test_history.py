"""`meshtrio history` and `meshtrio config`: for people, and as JSON for scripts."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import trio

from meshtrio.services import life_store
from meshtrio.supervisor import events
from tests.support.cli_commands import run_command_ok, run_failing_command, run_json_command
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import MeshProcess, run_meshtrio


def test_the_table_of_lives(mesh: MeshProcess) -> None:
    titles, *lines = run_command_ok(mesh, "history", "bad", "echo").splitlines()
    assert titles.split() == ["NAME", "PID", "STARTED", "FOR", "READY", "LASTED", "STATE", "END"]
    (bad,) = (line for line in lines if line.startswith("bad/0"))
    assert re.search(
        r" start +- +\d+\.\ds +failed +exited with status 3; "
        r"last stderr line: about to give up; then failed$",
        bad,
    ), bad
    echoes = [line for line in lines if line.startswith("echo/")]
    assert len(echoes) == 2
    assert all(line.endswith(" ready") for line in echoes)


def test_json(mesh: MeshProcess) -> None:
    found = run_json_command(mesh, "history", "pair", "--since", "1h")
    assert found["dropped"] == []
    assert {life["plugin"] for life in found["lives"]} == {"echo", "wordy"}
    life = found["lives"][0]
    assert (life["ended"], life["outcome"], life["signal"]) == (None, "", None)
    assert life["moments"][0]["kind"] == "ready"
    assert run_json_command(mesh, "history", "bad", "--since", "0.001s")["lives"] == []


def test_names_and_times_that_are_wrong(mesh: MeshProcess) -> None:
    assert "there is no plugin 'ehco'" in run_failing_command(mesh, "history", "ehco")
    assert mesh.run_command("history", "--since", "yesterday").returncode == 2


def test_the_config(mesh: MeshProcess, tmp_path: Path) -> None:
    text = run_command_ok(mesh, "config")
    found = tomllib.loads(text)
    assert [each["name"] for each in found["plugin"]] == ["echo", "wordy", "bad"]
    assert found["group"][0]["members"] == ["echo", "wordy"]
    assert found["service"][0]["weight"] == 3
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    assert run_meshtrio("check", str(path)).returncode == 0
    with_defaults = run_command_ok(mesh, "config", "--defaults")
    assert tomllib.loads(with_defaults)["plugin"][0]["stop_timeout"] == 5.0
    path.write_text(with_defaults)
    assert run_meshtrio("check", str(path)).returncode == 0
    reply = run_json_command(mesh, "config")
    assert (reply["toml"], reply["masked"]) == (text, 0)
    assert reply["source"].endswith("/mesh.toml")


async def test_lives_that_are_not_kept_are_mentioned(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life_store, "_MAX_SIZE", 6_000)
    table = (
        '[[task]]\nname = "j"\ncommand = ["sh", "-c", "exit 1"]\nretries = 30\n'
        "backoff = { initial = 0, maximum = 0 }\n"
    )
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_event(events.TaskFailed)
        socket = f"--mesh-socket={watched.mesh.socket}"
        command = [sys.executable, "-m", "meshtrio", "history", socket]
        text = (await trio.run_process(command, capture_stdout=True)).stdout.decode()
        first, titles, *rows = text.splitlines()
        assert re.fullmatch(r"\d+ earlier lives of j/0, until [\d:. -]+, not kept", first)
        assert titles.startswith("NAME")
        found = (await trio.run_process([*command, "--json"], capture_stdout=True)).stdout
        (dropped,) = json.loads(found)["dropped"]
        assert dropped["count"] + len(rows) == 31
