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

from tests.programs import Served

WORDY = Path(__file__).parent / "wordy.py"
ECHO_METHOD = "echo.v1.EchoService/Echo"
SLOW_METHOD = "echo.v1.EchoService/Slow"


def group(name: str, *members: str, **settings: str) -> str:
    """A [[group]] table."""
    lines = [f"members = {json.dumps(members)}"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join(["[[group]]", f'name = "{name}"', *lines, ""])


def done(mesh: Served, *arguments: str) -> str:
    """What a command prints that succeeds, and has nothing to complain of."""
    found = mesh.run(*arguments)
    assert (found.returncode, found.stderr) == (0, ""), found
    return found.stdout


def document(mesh: Served, *arguments: str) -> Any:
    """The JSON document of a command."""
    return json.loads(done(mesh, *arguments, "--json"))


def failed(mesh: Served, *arguments: str) -> str:
    """The one line of a command that fails."""
    found = mesh.run(*arguments)
    assert (found.returncode, found.stdout) == (1, ""), found
    assert found.stderr.count("\n") == 1, found.stderr
    assert found.stderr.startswith("meshtrio: ")
    return found.stderr


def parsed(found: subprocess.CompletedProcess[str]) -> Any:
    """The JSON document of a command that has succeeded."""
    assert (found.returncode, found.stderr) == (0, ""), found
    return json.loads(found.stdout)


def side_by_side(mesh: Served, *commands: str) -> list[subprocess.CompletedProcess[str]]:
    """Run several at once, each given as a line."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda command: mesh.run(*command.split()), commands))


class Command:
    """A command that goes on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        """The next line of its output; waits for it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def record(self) -> Any:
        return json.loads(self.line())

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def interrupt(self) -> int:
        """Ctrl-C; gives its exit status. It must say nothing of it."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        _, errors = self.process.communicate(timeout=60)
        assert errors == ""
        return self.process.returncode


@contextmanager
def begun(mesh: Served, *arguments: str) -> Iterator[Command]:
    """Have a command run during the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "meshtrio", *arguments],
        env=mesh.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Command(process)
        finally:
            process.kill()
