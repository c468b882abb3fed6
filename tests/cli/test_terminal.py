"""What needs a real terminal: a live screen with keys, colours, Ctrl-C, and a spinner."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.cli_commands import ECHO_METHOD, run_command_ok
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    MeshProcess,
    plugin_table,
    serve_mesh,
)
from tests.support.terminal import run_in_terminal


def names(screen: str) -> list[str]:
    """The instances on the screen of top, from above."""
    return [line.split()[0] for line in screen.splitlines() if "/" in line.split(" ")[0]]


def test_top_is_sorted_by_keys_and_quits(mesh: MeshProcess, short_dir: Path) -> None:
    with run_in_terminal(mesh, short_dir, "top", "--interval", "0.1") as shown:
        screen = shown.wait_for("NAME▲", "3/4 ready", "q quits", " 0.0 ")
        assert names(screen) == ["bad/0", "echo/0", "echo/1", "wordy/0"]
        shown.press("r")
        assert names(shown.wait_for("NAME▼")) == ["wordy/0", "echo/1", "echo/0", "bad/0"]
        shown.press("s")
        assert names(shown.wait_for("STATE▲"))[0] == "bad/0"
        shown.press("Right")
        # What has no process comes last, whichever way round.
        assert names(shown.wait_for("PID▲"))[3] == "bad/0"
        shown.press("Left", "Left")
        shown.wait_for("NAME▲")
        shown.press("q")
        # The screen is as it was before.
        assert shown.wait_for("status 0").strip() == "status 0"


def test_top_ends_with_ctrl_c(mesh: MeshProcess, short_dir: Path) -> None:
    with run_in_terminal(mesh, short_dir, "top") as shown:
        shown.wait_for("q quits")
        shown.press("C-c")
        shown.wait_for("status 130")


def test_logs_are_followed_until_ctrl_c(mesh: MeshProcess, short_dir: Path) -> None:
    with run_in_terminal(
        mesh, short_dir, "logs", "-f", "--since", str(time.time()), "pair"
    ) as shown:
        run_command_ok(mesh, "call", "plugin.wordy", ECHO_METHOD, '{"message": "at last"}')
        shown.wait_for("wordy/0 | out at last", "wordy/0 | err at last")
        assert "\x1b[31merr at last" in shown.screen_with_colours
        shown.press("C-c")
        shown.wait_for("status 130")


def test_who_waits_sees_that_it_goes_on(short_dir: Path) -> None:
    config = plugin_table(
        "slow", str(PLUGINS_DIRECTORY / "startup_faults.py"), "ignore-sigterm", stop_timeout=2
    )
    with serve_mesh(short_dir, config) as mesh:
        mesh.wait_for_log("ignoring")
        with run_in_terminal(mesh, short_dir, "drain", "slow") as shown:
            shown.wait_for("draining slow 0:00:01")
            screen = shown.wait_for("drained slow: 1 instance, no call cut")
            assert "draining" not in screen
            assert "was killed by SIGKILL (not in time)" in screen
            shown.wait_for("status 0")
