"""Real processes for tests: a mesh under `serve`, commands beside it, and what is left of them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import ROOT

PLUGINS_DIRECTORY = ROOT / "tests" / "plugins"
ECHO_PLUGIN_DIRECTORY = ROOT / "examples" / "echo-plugin"
ECHO_CLIENT_PROGRAM = ECHO_PLUGIN_DIRECTORY / "client.py"


def plugin_table(name: str, *command: str, cwd: Path = PLUGINS_DIRECTORY, **settings: Any) -> str:
    """A [[plugin]] table; `command` follows the interpreter."""
    values = {"name": name, "command": ["{python}", *command], "cwd": str(cwd), **settings}
    lines = [f"{key} = {_to_toml(value)}" for key, value in values.items()]
    return "\n".join(["[[plugin]]", *lines, ""])


def service_table(name: str, **settings: Any) -> str:
    """A [[service]] table."""
    values = {"name": name, **settings}
    return "\n".join(["[[service]]", *(f"{k} = {_to_toml(v)}" for k, v in values.items()), ""])


def _to_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_to_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_to_toml, value)) + "]"
    return json.dumps(value)


def echo_plugin_table(name: str = "echo", **settings: Any) -> str:
    return plugin_table(name, "echo_plugin.py", cwd=ECHO_PLUGIN_DIRECTORY, **settings)


def wait_until(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    """Ask until the answer is true; for what another process does and cannot tell us."""
    end = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < end, f"{condition} did not come true within {timeout} s"
        time.sleep(0.005)


class MeshProcess:
    """`python -m meshtrio serve` as a process of its own, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
        self.process = process
        self.runtime_dir = folder
        self.socket = folder / "mesh.sock"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "MESH_SOCKET": str(self.socket)}

    def run_command(
        self, *arguments: str, program: str = "-mmeshtrio"
    ) -> subprocess.CompletedProcess[str]:
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
        done = self.run_command("ps", "--json")
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def wait_for_log(self, text: str, timeout: float = 60.0) -> None:
        """Wait for words in the log."""
        wait_until(lambda: text in self.log or self.process.poll() is not None, timeout)
        assert text in self.log, self.log

    def plugin_pids(self) -> list[int]:
        """The processes that carry the environment of a plugin of this mesh."""
        return pids_with_environment(f"PLUGIN_SOCKET={self.runtime_dir}/")

    def stop(self, signal_number: int = signal.SIGTERM, timeout: float = 60.0) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(timeout)


@contextmanager
def serve_mesh(folder: Path, config: str, *, min_ready: int = 0) -> Iterator[MeshProcess]:
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
    mesh = MeshProcess(process, folder / "run", log)
    try:
        mesh.wait_for_log("the mesh is up")
        wait_until(lambda: mesh.log.count("ready after") >= min_ready)
        yield mesh
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        wait_until(lambda: not mesh.plugin_pids())


def pids_with_environment(entry_prefix: str) -> list[int]:
    """The pids whose environment has an entry that begins with `mark`."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes()
        except OSError:
            continue
        if any(item.startswith(entry_prefix.encode()) for item in environment.split(b"\0")):
            found.append(int(entry.name))
    return found


def child_pids(parent: int) -> list[int]:
    """The pids of a process's children, whichever of its threads started them."""
    found = []
    for thread in Path(f"/proc/{parent}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # The thread may end meanwhile.
            found += [int(pid) for pid in (thread / "children").read_text().split()]
    return found


@contextmanager
def limit_descriptors(max_descriptors: int) -> Iterator[None]:
    """Have the processes that are started in the block begin with that many descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_descriptors, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


MINIMAL_COMMAND = ("-I", "-S", str(PLUGINS_DIRECTORY / "minimal.py"))
"""Starts in some ten milliseconds."""
