"""Real processes for tests: a mesh under `serve`, commands, and processes that remain."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from meshtrio.config import StartMethod
from tests import ROOT

PLUGINS_DIRECTORY = ROOT / "tests" / "plugins"
ECHO_PLUGIN_DIRECTORY = ROOT / "examples" / "echo-plugin"
ECHO_CLIENT_PROGRAM = ECHO_PLUGIN_DIRECTORY / "client.py"


START_METHOD = StartMethod(os.environ.get("MESHTRIO_TEST_START", "exec"))
"""How tests start their plugins, unless they say it themselves: the suite's switch."""


def plugin_table(name: str, *command: str, cwd: Path = PLUGINS_DIRECTORY, **settings: Any) -> str:
    """Return a [[plugin]] table; `command` follows the interpreter."""
    values = {"name": name, "command": ["{python}", *command], "cwd": str(cwd), **settings}
    if START_METHOD is not StartMethod.EXEC:
        values.setdefault("start", START_METHOD.value)
    lines = [f"{key} = {to_toml(value)}" for key, value in values.items()]
    return "\n".join(["[[plugin]]", *lines, ""])


def service_table(name: str, **settings: Any) -> str:
    """Return a [[service]] table."""
    values = {"name": name, **settings}
    return "\n".join(["[[service]]", *(f"{k} = {to_toml(v)}" for k, v in values.items()), ""])


def to_toml(value: Any) -> str:
    """Return a value as TOML, a dict as an inline table."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {to_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return json.dumps(value)


def echo_plugin_table(name: str = "echo", **settings: Any) -> str:
    return plugin_table(name, "echo_plugin.py", cwd=ECHO_PLUGIN_DIRECTORY, **settings)


def wait_until(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    """Poll until the condition is true, for what another process does without notifying us."""
    end = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < end, f"{condition} did not come true within {timeout} s"
        time.sleep(0.005)


def accepts_connections(path: Path) -> bool:
    """Whether a server listens on a socket, whose file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def wait_for_server(path: Path, timeout: float = 60.0) -> None:
    wait_until(lambda: accepts_connections(path), timeout)


def run_meshtrio(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command of meshtrio to its end; `stdin` is what it reads."""
    return subprocess.run(
        [sys.executable, "-m", "meshtrio", *arguments],
        env=env,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


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
        """Wait until the log contains `text`."""
        wait_until(lambda: text in self.log or self.process.poll() is not None, timeout)
        assert text in self.log, self.log

    def plugin_pids(self) -> list[int]:
        """Return the pids of processes with the environment of a plugin of this mesh."""
        return pids_with_environment(f"PLUGIN_SOCKET={self.runtime_dir}/")

    def stop(self, signal_number: int = signal.SIGTERM, timeout: float = 60.0) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(timeout)


@contextmanager
def serve_mesh(
    folder: Path,
    config: str,
    *,
    min_ready: int = 0,
    runtime_dir: Path | None = None,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[MeshProcess]:
    """Serve a config for the block; yields once `min_ready` instances are ready.

    Args:
        folder: Folder for the config and the log.
        config: The config, as TOML.
        min_ready: How many instances to wait for.
        runtime_dir: The mesh's runtime dir; `run` in the folder by default.
        prefix: A command that runs the mesh's, such as setpriv(1) with its options.
        env: Variables in addition to the environment of the tests.
        pass_fds: Descriptors that it inherits.
    """
    (folder / "mesh.toml").write_text(config)
    log, runtime_dir = folder / "log", runtime_dir or folder / "run"
    command = [*prefix, sys.executable, "-m", "meshtrio", "serve", str(folder / "mesh.toml")]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--runtime-dir", str(runtime_dir)],
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **(env or {})},
            pass_fds=pass_fds,
        )
    mesh = MeshProcess(process, runtime_dir, log)
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
    """Return the pids whose environment has an entry that begins with `entry_prefix`."""
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
    """Return the pids of a process's children, whichever of its threads started them."""
    found = []
    for thread in Path(f"/proc/{parent}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # The thread may end meanwhile.
            found += [int(pid) for pid in (thread / "children").read_text().split()]
    return found


@contextmanager
def limit_descriptors(max_descriptors: int) -> Iterator[None]:
    """Limit the descriptors of processes that are started in the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_descriptors, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


MINIMAL_COMMAND = ("-I", "-S", str(PLUGINS_DIRECTORY / "minimal.py"))
"""Starts in some ten milliseconds."""
