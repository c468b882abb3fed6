"""Tasks with real processes, and `meshtrio run`."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_commands import run_command_ok, run_failing_command, run_json_command
from tests.support.mesh_processes import (
    MINIMAL_COMMAND,
    MeshProcess,
    pids_with_environment,
    plugin_table,
    serve_mesh,
    to_toml,
    wait_until,
)

NEVER = "0 0 29 2 *"
"""A schedule whose next time is far away, unless a leap day begins during the test."""


def task_table(name: str, script: str, **settings: Any) -> str:
    """Return a [[task]] table that runs a script of the shell."""
    values = {"name": name, "command": ["sh", "-c", script], **settings}
    lines = [f"{key} = {to_toml(value)}" for key, value in values.items()]
    return "\n".join(["[[task]]", *lines, ""])


def on_request(name: str, script: str, **settings: Any) -> str:
    return task_table(name, script, schedule=NEVER, **settings)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """A mesh with tasks that run on request."""
    config = (
        plugin_table("served", *MINIMAL_COMMAND)
        + on_request("both", "echo out; echo err >&2; printf '\\377\\033[1m'; exit 3")
        + on_request("fine", "exit 0")
        + on_request("killed", "kill -KILL $$")
        + on_request("waiting", "echo begun; exec sleep 1000")
        + on_request("timed", "echo begun; sleep 1000", timeout=0.3)
        + on_request("large", "head -c 1000000 /dev/zero; echo end")
        + on_request("lines", "seq 20000", output={"lines_per_second": 10, "burst": 1})
        + '[[task]]\nname = "missing"\ncommand = ["/usr/bin/env", "no-such-program"]\n'
        + f'schedule = "{NEVER}"\n'
    )
    with served(tmp_path_factory.mktemp("mt"), config, min_ready=1) as found:
        yield found


@contextmanager
def served(folder: Path, config: str, min_ready: int = 0) -> Iterator[MeshProcess]:
    with serve_mesh(folder, config, min_ready=min_ready) as mesh:
        yield mesh
        assert mesh.process.poll() is not None or mesh.stop() == 0
    assert task_pids(mesh) == []


def task_pids(mesh: MeshProcess, launch: str = "") -> list[int]:
    """The processes that have the environment of a plugin or task of a mesh."""
    return [
        pid
        for pid in pids_with_environment(f"MESH_SOCKET={mesh.socket}")
        if f"MESH_LAUNCH_ID={launch}".encode() in read_environment(pid)
    ]


def read_environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def run_raw(mesh: MeshProcess, name: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "meshtrio", "run", name],
        env=mesh.environment,
        capture_output=True,
        timeout=120,
        check=False,
    )


@contextmanager
def running(mesh: MeshProcess, name: str) -> Iterator[subprocess.Popen[str]]:
    """`meshtrio run` of a task that has written a line."""
    command = [sys.executable, "-m", "meshtrio", "run", name]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=mesh.environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


def task(mesh: MeshProcess, name: str) -> dict[str, Any]:
    (found,) = run_json_command(mesh, "ps", name)
    return found  # type: ignore[no-any-return]


def wait_for_state(mesh: MeshProcess, name: str, state: str) -> None:
    wait_until(lambda: task(mesh, name)["state"] == state)


def test_output_and_status_are_those_of_the_program(mesh: MeshProcess) -> None:
    found = run_raw(mesh, "both")
    assert (found.returncode, found.stdout, found.stderr) == (3, b"out\n\xff\033[1m", b"err\n")
    status = task(mesh, "both")
    assert (status["state"], status["reason"]) == ("scheduled", "exited with status 3")
    assert (status["task"]["last_outcome"], status["task"]["last_exit_status"]) == ("failed", 3)
    assert "both/0 | err" in run_command_ok(mesh, "logs", "both")


STATUSES = {
    "fine": (0, ""),
    "killed": (137, "meshtrio: task killed was killed by SIGKILL\n"),
    "missing": (127, "/usr/bin/env: 'no-such-program': No such file or directory\n"),
}


@pytest.mark.parametrize(("name", "status", "error"), [(n, *s) for n, s in STATUSES.items()])
def test_statuses(mesh: MeshProcess, name: str, status: int, error: str) -> None:
    found = mesh.run_command("run", name)
    assert (found.returncode, found.stdout) == (status, "")
    assert found.stderr.replace("‘", "'").replace("’", "'") == error


def test_a_terminal_gets_escapes_instead_of_control_characters(mesh: MeshProcess) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "meshtrio", "run", "both"]
    with open(terminal, "rb", buffering=0) as shown:
        with subprocess.Popen(command, env=mesh.environment, stdout=end, stderr=end) as process:
            os.close(end)
            text = b""
            with suppress(OSError):  # EIO when the last process has closed its end.
                while data := shown.read(4096):
                    text += data
        assert process.returncode == 3
    # The two streams are two pipes, and may come in any order.
    assert all(part in text for part in (b"out\r\n", b"err\r\n", rb"\xff\x1b[1m"))
    assert b"\033" not in text


def test_large_output_is_whole_and_lines_are_not_limited(mesh: MeshProcess) -> None:
    assert run_raw(mesh, "large").stdout == b"\0" * 1_000_000 + b"end\n"
    lines = mesh.run_command("run", "lines").stdout
    assert lines == "".join(f"{number}\n" for number in range(1, 20_001))


def test_a_timeout_is_a_failure(mesh: MeshProcess) -> None:
    found = mesh.run_command("run", "timed")
    assert (found.returncode, found.stdout) == (143, "begun\n")
    text = "ran longer than its timeout of 0.3 s; it was killed by SIGTERM"
    assert found.stderr == f"meshtrio: task timed {text}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_run_is_stopped_with_the_command(mesh: MeshProcess, number: signal.Signals) -> None:
    with running(mesh, "waiting") as command:
        wait_for_state(mesh, "waiting", "running")
        command.send_signal(number)
        command.wait(60)
        assert command.returncode == (130 if number is signal.SIGINT else -number)
    wait_for_state(mesh, "waiting", "scheduled")
    assert task(mesh, "waiting")["task"]["last_outcome"] == "stopped"


def test_stop_ends_a_run_that_others_wait_for(mesh: MeshProcess) -> None:
    with running(mesh, "waiting") as command:
        error = run_failing_command(mesh, "run", "waiting")
        assert "task waiting is running already (pid " in error
        assert run_command_ok(mesh, "stop", "waiting") == "stopped waiting: 1 instance\n"
        assert command.communicate(timeout=60)[1] == (
            "meshtrio: task waiting was killed by SIGTERM\n"
        )
        assert command.returncode == 143


def test_a_closed_pipe_stops_the_run(mesh: MeshProcess) -> None:
    script = f"{sys.executable} -m meshtrio run large | head -c 10 >/dev/null"
    subprocess.run(["bash", "-c", script], env=mesh.environment, timeout=60, check=True)
    wait_for_state(mesh, "large", "scheduled")


def test_names_that_are_no_tasks(mesh: MeshProcess) -> None:
    assert "there is no task 'x'; the tasks are: both, " in run_failing_command(mesh, "run", "x")
    text = "served is not a task; `meshtrio start served` starts it"
    assert text in run_failing_command(mesh, "run", "served")
    for command in ("start", "restart", "trace", "log-level"):
        text = "fine is a task; `meshtrio run fine` runs it"
        assert text in run_failing_command(mesh, command, "fine")


def test_tasks_are_shown(mesh: MeshProcess) -> None:
    run_command_ok(mesh, "run", "fine")
    assert run_raw(mesh, "both").returncode == 3
    rows = run_command_ok(mesh, "ps").split("\n")
    (fine,) = [row for row in rows if row.startswith("fine ")]
    assert fine.split()[1:4] == ["-", "-", "scheduled"]
    assert "completed after" in fine
    assert "next run" in fine
    tree = run_json_command(mesh, "tree")
    nodes = {node["name"]: node for node in tree["nodes"]}
    assert (nodes["fine"]["kind"], nodes["fine"]["policy"]) == ("TASK", NEVER)
    events = [json.loads(line) for line in run_command_ok(mesh, "events", "--json").splitlines()]
    assert {"task-completed", "task-failed"} <= {event["kind"] for event in events}


def test_a_graph(short_dir: Path) -> None:
    config = (
        plugin_table("web", *MINIMAL_COMMAND, depends_on={"migrate": "completed", "db": "ready"})
        + plugin_table("db", *MINIMAL_COMMAND)
        + task_table(
            "migrate", "test -e done", depends_on=["db"], retries=1, backoff={"initial": 0}
        )
        + task_table("tick", "echo tick", schedule="* * * * * *")
    )
    with served(short_dir, config, min_ready=1) as mesh:
        mesh.wait_for_log("migrate/0: failed: exited with status 1, after 2 attempts")
        waits = "waits for task migrate, which failed: exited with status 1"
        assert task(mesh, "web")["reason"] == waits
        assert run_failing_command(mesh, "start", "web") == f"meshtrio: web/0 {waits}\n"
        mesh.wait_for_log("tick/0 | tick")
        (short_dir / "done").touch()
        run_command_ok(mesh, "run", "migrate")
        wait_for_state(mesh, "web", "ready")


def test_a_reload_runs_what_is_new_or_has_failed(short_dir: Path) -> None:
    once, failing = task_table("once", "echo ran >>once"), task_table("failing", "exit 1")
    with served(short_dir, once + failing + task_table("gone", "exec sleep 1000")) as mesh:
        mesh.wait_for_log("failing/0: failed")
        mesh.wait_for_log("once/0: completed")
        wait_for_state(mesh, "gone", "running")
        changed = task_table("once", "echo again >>once") + task_table("failing", "exit 0")
        (short_dir / "mesh.toml").write_text(changed + task_table("new", "exit 0"))
        assert run_command_ok(mesh, "reload") == (
            "added new\nremoved gone\nadjusted once, failing\n"
        )
        mesh.wait_for_log("failing/0: completed")
        mesh.wait_for_log("new/0: completed")
        assert (short_dir / "once").read_text() == "ran\n"
        assert run_json_command(mesh, "ps")[0]["state"] == "completed"


def test_a_task_that_ignores_sigterm_is_killed_with_its_daemons(short_dir: Path) -> None:
    daemon = "setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' &"
    stubborn = f"{daemon} trap '' TERM; echo begun; while :; do sleep 1; done"
    config = (
        on_request("stubborn", stubborn, stop_timeout=0.2)
        + on_request("leaves", f"{daemon} exit 0")
        + on_request("floods", "yes; exit 1", timeout=1, output={"kept": 10})
    )
    with served(short_dir, config) as mesh:
        run_command_ok(mesh, "run", "leaves")
        assert task_pids(mesh) == []  # When a run has ended, nothing of it is left.
        with running(mesh, "stubborn"):
            wait_until(lambda: len(task_pids(mesh)) >= 5)
            run_command_ok(mesh, "stop", "stubborn")
            assert task_pids(mesh) == []
        assert "did not stop in time and was killed by SIGKILL" in mesh.log
        found = subprocess.run(
            [sys.executable, "-m", "meshtrio", "run", "floods"],
            env=mesh.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        assert found.returncode == 143
        assert "ran longer than its timeout of 1 s" in found.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_tasks_end_with_the_mesh(short_dir: Path, number: signal.Signals) -> None:
    config = task_table("long", "setsid sleep 1000 & exec sleep 1000") + task_table(
        "fails", "exit 1", retries=10, backoff={"initial": 100, "maximum": 100}
    )
    with served(short_dir, config) as mesh:
        mesh.wait_for_log("fails/0: starting again")
        wait_until(lambda: len(task_pids(mesh)) == 2)
        os.kill(mesh.process.pid, number)
        assert mesh.process.wait(60) == (0 if number is signal.SIGTERM else -number)
        wait_until(lambda: not task_pids(mesh))
