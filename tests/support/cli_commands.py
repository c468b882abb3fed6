"""Commands under way: what they print is read line by line, and Ctrl-C ends them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.mesh_processes import MeshProcess

PRINTING_ECHO_PROGRAM = Path(__file__).parents[1] / "plugins" / "printing_echo.py"
ECHO_METHOD = "echo.v1.EchoService/Echo"
SLOW_METHOD = "echo.v1.EchoService/Slow"


def group_table(name: str, *members: str, **settings: str) -> str:
    """Return a [[group]] table."""
    lines = [f"members = {json.dumps(members)}"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join(["[[group]]", f'name = "{name}"', *lines, ""])


def run_command_ok(mesh: MeshProcess, *arguments: str) -> str:
    """Return the output of a command that succeeds and writes nothing to stderr."""
    found = mesh.run_command(*arguments)
    assert (found.returncode, found.stderr) == (0, ""), found
    return found.stdout


def run_json_command(mesh: MeshProcess, *arguments: str) -> Any:
    """Return the JSON document that a command prints."""
    return json.loads(run_command_ok(mesh, *arguments, "--json"))


def run_failing_command(mesh: MeshProcess, *arguments: str) -> str:
    """The one line of a command that fails."""
    found = mesh.run_command(*arguments)
    assert (found.returncode, found.stdout) == (1, ""), found
    assert found.stderr.count("\n") == 1, found.stderr
    assert found.stderr.startswith("meshtrio: ")
    return found.stderr


def parse_json_output(found: subprocess.CompletedProcess[str]) -> Any:
    """The JSON document of a command that has succeeded."""
    assert (found.returncode, found.stderr) == (0, ""), found
    return json.loads(found.stdout)


def run_commands_concurrently(
    mesh: MeshProcess, *commands: str
) -> list[subprocess.CompletedProcess[str]]:
    """Run several at once, each given as a line."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda command: mesh.run_command(*command.split()), commands))


class RunningCommand:
    """A command that goes on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def read_line(self) -> str:
        """The next line of its output; waits for it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def read_json(self) -> Any:
        return json.loads(self.read_line())

    def write_line(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def interrupt(self) -> int:
        """Send SIGINT; returns the exit status. Nothing may be written to stderr."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        _, errors = self.process.communicate(timeout=60)
        assert errors == ""
        return self.process.returncode


@contextmanager
def start_command(mesh: MeshProcess, *arguments: str) -> Iterator[RunningCommand]:
    """Run a command during the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "meshtrio", *arguments],
        env=mesh.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield RunningCommand(process)
        finally:
            process.kill()
