"""Real processes for tests: a mesh under `serve`, commands beside it, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import ROOT

PLUGINS = ROOT / "tests" / "plugins"
ECHO = ROOT / "examples" / "echo-plugin"
CLIENT = ECHO / "client.py"


def plugin(name: str, *command: str, cwd: Path = PLUGINS, **settings: Any) -> str:
    """A [[plugin]] table; `command` follows the interpreter."""
    values = {"name": name, "command": ["{python}", *command], "cwd": str(cwd), **settings}
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(["[[plugin]]", *lines, ""])


def service(name: str, **settings: Any) -> str:
    """A [[service]] table."""
    values = {"name": name, **settings}
    return "\n".join(["[[service]]", *(f"{k} = {_toml(v)}" for k, v in values.items()), ""])


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def echo(name: str = "echo", **settings: Any) -> str:
    return plugin(name, "echo_plugin.py", cwd=ECHO, **settings)


def until(condition: Callable[[], Any], within: float = 60.0) -> Any:
    """Ask until the answer is true; for what another process does and cannot tell us."""
    end = time.monotonic() + within
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < end, f"{condition} did not come true within {within} s"
        time.sleep(0.005)


class Served:
    """`python -m meshtrio serve` as a process of its own, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
        self.process = process
        self.folder = folder
        self.socket = folder / "mesh.sock"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "MESH_SOCKET": str(self.socket)}

    def run(self, *arguments: str, program: str = "-mmeshtrio") -> subprocess.CompletedProcess[str]:
        """Run a command of meshtrio, or another Python program, against this mesh."""
        return subprocess.run(
            [sys.executable, program, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def ps(self) -> list[dict[str, Any]]:
        done = self.run("ps", "--json")
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def wait_for(self, text: str, within: float = 60.0) -> None:
        """Wait for words in the log."""
        until(lambda: text in self.log or self.process.poll() is not None, within)
        assert text in self.log, self.log

    def pids(self) -> list[int]:
        """The processes that carry the environment of a plugin of this mesh."""
        return carrying(f"PLUGIN_SOCKET={self.folder}/")

    def stop(self, number: int = signal.SIGTERM, within: float = 60.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(within)


@contextmanager
def served(folder: Path, config: str, *, ready: int = 0) -> Iterator[Served]:
    """Serve a config in a runtime dir below `folder`, once `ready` instances are ready."""
    (folder / "mesh.toml").write_text(config)
    log = folder / "log"
    command = [sys.executable, "-m", "meshtrio", "serve", str(folder / "mesh.toml")]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--runtime-dir", str(folder / "run")],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    mesh = Served(process, folder / "run", log)
    try:
        mesh.wait_for("the mesh is up")
        until(lambda: mesh.log.count("ready after") >= ready)
        yield mesh
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        until(lambda: not mesh.pids())


def carrying(mark: str) -> list[int]:
    """The pids whose environment has an entry that begins with `mark`."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes()
        except OSError:
            continue
        if any(item.startswith(mark.encode()) for item in environment.split(b"\0")):
            found.append(int(entry.name))
    return found


def children(parent: int) -> list[int]:
    """The pids of a process's children, whichever of its threads started them."""
    found = []
    for thread in Path(f"/proc/{parent}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # The thread may end meanwhile.
            found += [int(pid) for pid in (thread / "children").read_text().split()]
    return found
