"""Commands that wait, and for how long."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli_commands import (
    group_table,
    run_command_ok,
    run_failing_command,
    start_command,
)
from tests.support.mesh_processes import (
    MINIMAL_COMMAND,
    PLUGINS_DIRECTORY,
    MeshProcess,
    plugin_table,
    serve_mesh,
)

FAULTY = str(PLUGINS_DIRECTORY / "startup_faults.py")


@pytest.fixture(scope="module")
def own() -> Iterator[MeshProcess]:
    config = (
        plugin_table("silent", FAULTY, "never-bind", ready_timeout=60)
        + plugin_table("after", *MINIMAL_COMMAND, depends_on=["silent"])
        + plugin_table("stubborn", FAULTY, "ignore-sigterm", stop_timeout=60, ready_timeout=60)
        + plugin_table("scaled", *MINIMAL_COMMAND)
        + group_table("pair", "silent", "after")
    )
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_mesh(Path(folder), config, min_ready=1) as found:
            found.wait_for_log("ignoring")
            yield found


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("start silent", "starting silent took longer than 0.3 s"),
        ("start pair", "silent/0 (starting); after/0 (pending)"),
        ("restart silent", "restarting silent took longer than 0.3 s"),
        ("stop stubborn", "stubborn/0 (stopping)"),
        ("drain stubborn", "draining stubborn took longer than 0.3 s"),
    ],
)
def test_what_is_waited_for_is_told_when_the_time_is_over(
    own: MeshProcess, command: str, text: str
) -> None:
    line = run_failing_command(own, *command.split(), "--timeout", "0.3")
    assert text in line
    assert "the mesh continues with it, waiting for: " in line


def test_a_reload_and_a_scale_can_be_given_a_limit(own: MeshProcess) -> None:
    config = (own.runtime_dir.parent / "mesh.toml").read_text()
    other = own.runtime_dir.parent / "other.toml"
    other.write_text(config + plugin_table("more", FAULTY, "never-bind", ready_timeout=60))
    line = run_failing_command(own, "reload", str(other), "--timeout", "0.3")
    assert "reloading the config took longer than 0.3 s" in line
    assert "more/0 (starting)" in line
    assert "scaling more to 3 took longer" in run_failing_command(
        own, "scale", "more", "3", "--timeout", "0.3"
    )


def test_a_limit_that_is_not_reached_changes_nothing(own: MeshProcess) -> None:
    text = "restarted scaled: 1 instance ready\n"
    assert run_command_ok(own, "restart", "scaled", "--timeout", "30") == text


@pytest.mark.parametrize("value", ["0", "-1", "soon"])
def test_a_limit_that_is_none_is_refused(own: MeshProcess, value: str) -> None:
    found = own.run_command("start", "scaled", "--timeout", value)
    assert (found.returncode, found.stdout) == (2, "")
    assert "--timeout" in found.stderr


def test_a_plugin_that_never_gets_ready_ends_the_waiting_by_itself(short_dir: Path) -> None:
    first = plugin_table("one", *MINIMAL_COMMAND)
    with serve_mesh(short_dir, first, min_ready=1) as mesh:
        quiet = plugin_table(
            "quiet", FAULTY, "never-bind", ready_timeout=0.5, backoff={"initial": 30}
        )
        (short_dir / "mesh.toml").write_text(first + quiet)
        with start_command(mesh, "reload") as reload:
            output, errors = reload.process.communicate(timeout=20)
        assert (reload.process.returncode, output) == (1, "")
        assert errors.startswith("meshtrio: quiet/0 was not ready within 0.5 s")
