"""`meshtrio log-level` shows the levels of plugins, and changes them while they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli_commands import (
    ECHO_METHOD,
    group_table,
    run_command_ok,
    run_failing_command,
    run_json_command,
)
from tests.support.mesh_processes import PLUGINS_DIRECTORY, plugin_table, serve_mesh

MINIMAL = plugin_table("minimal", "-I", "-S", str(PLUGINS_DIRECTORY / "minimal.py"))
TALKATIVE = plugin_table("talkative", "logging_echo.py", instances=2)


@pytest.mark.long
def test_levels_are_shown_and_changed(short_dir: Path) -> None:
    config = TALKATIVE + MINIMAL + group_table("both", "talkative", "minimal")
    with serve_mesh(short_dir, config, min_ready=3) as mesh:
        titles, *rows = run_command_ok(mesh, "log-level", "both").splitlines()
        assert " ".join(titles.split()) == "PLUGIN INSTANCE LOGGED FROM WRITTEN FROM NOTE"
        assert [row.split(maxsplit=4) for row in rows] == [
            ["talkative", "0", "-", "info"],
            ["talkative", "1", "-", "info"],
            ["minimal", "0", "-", "-", "it does not serve meshtrio.v1.Logging"],
        ]
        run_command_ok(
            mesh, "call", "plugin.talkative", ECHO_METHOD, '{"message": "debug not shown"}'
        )
        said = run_command_ok(mesh, "log-level", "talkative", "debug")
        assert said == "talkative logs from debug on: set in 2 instances\n"
        mesh.wait_for_log("talkative/1: log level set to debug")
        run_command_ok(
            mesh, "call", "plugin.talkative", ECHO_METHOD, '{"message": "debug it is shown"}'
        )
        mesh.wait_for_log("it is shown [debug]")
        assert "not shown" not in mesh.log
        assert run_command_ok(mesh, "log-level", "minimal", "error") == (
            "minimal logs from error on: set in 0 instances\n"
            "minimal/0: not set: it does not serve meshtrio.v1.Logging\n"
        )
        (talkative,) = run_json_command(mesh, "log-level", "plugin.talkative")["plugins"]
        assert (talkative["plugin"], talkative["level"]) == ("talkative", "debug")
        first, second = talkative["instances"]
        assert (first["instance"], first["level"], first["note"]) == (0, "debug", "")
        assert first["pid"] != second["pid"]
        (minimal,) = run_json_command(mesh, "log-level", "minimal", "info")["plugins"]
        assert (minimal["level"], minimal["instances"][0]["level"]) == ("info", "")
        assert run_command_ok(mesh, "reload") == "adjusted talkative, minimal\n"

        assert "there is no plugin 'nope'; the plugins are" in run_failing_command(
            mesh, "log-level", "nope"
        )
        assert "no plugin 'nope'" in run_failing_command(mesh, "log-level", "nope", "debug")
        wrong = mesh.run_command("log-level", "talkative", "loud")
        assert wrong.returncode == 2
        assert "'loud' is not one of 'debug', 'info', 'warning', 'error'" in wrong.stderr
