"""The mesh of the soak: ten plugins of mixed kinds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs

from tests import ROOT
from tests.kills import RETRY_CONFIG
from tests.support.mesh_processes import plugin_table, service_table
from tests.support.ports import find_free_port
from tests.tools import TOOLS_DIRECTORY as TOOLS

PROGRAMS = ROOT / "tests" / "soak" / "programs"
NOBODY = 65534
SHARED_SETTINGS = {
    "backoff": {"initial": 0.05, "maximum": 0.5},
    "liveness": {"interval": 1.0, "timeout": 2.0, "failure_threshold": 3},
    "ready_timeout": 60.0,
    "stop_timeout": 5.0,
}
MAX_DESCRIPTORS = 1024
"""That each Python plugin may have: with so few, a flood of connections matters."""


@attrs.frozen
class Layout:
    """Files and addresses of one run."""

    folder: Path
    metrics: str
    tcp_port: int
    skipped: tuple[str, ...]
    """Kinds of plugins that this machine does not allow, each with the reason."""
    bare_python: str
    """An interpreter that user `nobody` may run; "" for none."""
    names: tuple[str, ...] = ()
    """Of the plugins."""

    @property
    def run(self) -> Path:
        """The runtime dir."""
        return self.folder / "run"

    @property
    def mesh_socket(self) -> Path:
        return self.run / "mesh.sock"

    @property
    def executions_file(self) -> Path:
        """Where plugins note executions of `Slow`."""
        return self.folder / "counted"

    @property
    def modes_directory(self) -> Path:
        """Where files say how plugins answer reflection and metrics."""
        return self.folder / "modes"

    @property
    def foreign_directory(self) -> Path:
        """A folder of user `nobody`, with programs that this user may run."""
        return self.folder / "foreign"

    @property
    def config(self) -> Path:
        return self.folder / "mesh.toml"


def prepare_files(folder: Path) -> Layout:
    """Prepare the files of a run and write its config."""
    skipped = []
    bare_python = ""
    if os.geteuid() != 0:
        skipped.append("contained: only root may run plugins as another user")
    else:
        bare_python = _python_for_nobody()
        if not bare_python:
            skipped.append("contained: user nobody may run no Python here")
    if not (TOOLS / "go-service").exists():
        skipped.append("go: go-service is missing, see `python -m tests.tools`")
    ports = [find_free_port(), find_free_port()]
    foreign = folder / "foreign"
    foreign.mkdir()
    for program in ("bare_http2_server.py", "foreign_registrar.py"):
        shutil.copy(PROGRAMS / program, foreign / program)
        (foreign / program).chmod(0o644)
    if bare_python:
        shutil.chown(foreign, NOBODY, NOBODY)
    layout = Layout(folder, f"127.0.0.1:{ports[0]}", ports[1], tuple(skipped), bare_python)
    tables = _plugins(layout)
    layout = attrs.evolve(layout, names=tuple(tables))
    layout.modes_directory.mkdir()
    folder.chmod(0o711)
    head = f'[mesh.telemetry]\nmetrics = "{layout.metrics}"\n\n'
    if bare_python:
        head += f'[mesh.access.registry]\nusers = ["{NOBODY}"]\n\n'
    services = [service_table(f"plugin.{name}", config=RETRY_CONFIG) for name in tables]
    layout.config.write_text(head + "\n".join([*tables.values(), *services]))
    return layout


def _plugins(layout: Layout) -> dict[str, str]:
    """Return the [[plugin]] tables, by name."""
    environment = {"COUNTED": str(layout.executions_file), "MODES": str(layout.modes_directory)}
    few = {"rlimits": {"nofile": MAX_DESCRIPTORS}}
    shared = {**SHARED_SETTINGS, "env": environment, "containment": few}

    def ours(name: str, kind: str, **settings: object) -> str:
        return plugin_table(name, "plugin.py", kind, cwd=PROGRAMS, **{**shared, **settings})

    grpcio = ROOT / "examples" / "grpcio-plugin"
    return {
        "echo": ours("echo", "plain", instances=2),
        "stream": ours("stream", "plain"),
        "tcp": ours("tcp", "plain", listen=f"tcp://127.0.0.1:{layout.tcp_port}"),
        "family": ours("family", "family", instances=2),
        "flaky": ours("flaky", "flaky"),
        "slow": ours("slow", "slow"),
        "noisy": ours("noisy", "noisy"),
        "grpcio": plugin_table(
            "grpcio", "grpcio_plugin.py", cwd=grpcio, instances=2, **SHARED_SETTINGS
        ),
        "go": _go(grpcio),
        "contained": _contained(layout),
    }


def _go(grpcio: Path) -> str:
    program = TOOLS / "go-service"
    if not program.exists():
        return plugin_table("go", "grpcio_plugin.py", cwd=grpcio, **SHARED_SETTINGS)
    table = plugin_table("go", "", **SHARED_SETTINGS)
    return table.replace(json.dumps(["{python}", ""]), json.dumps([str(program)]))


def _contained(layout: Layout) -> str:
    command = ["-I", "-S", str(layout.foreign_directory / "bare_http2_server.py")]
    settings = dict(SHARED_SETTINGS)
    if not layout.bare_python:
        return plugin_table("contained", *command, cwd=layout.folder, **settings)
    settings["containment"] = {
        "user": "nobody",
        "memory": 2**28,
        "rlimits": {"nofile": MAX_DESCRIPTORS},
    }
    table = plugin_table("contained", *command, cwd=Path("/"), **settings)
    return table.replace("{python}", layout.bare_python)


def _python_for_nobody() -> str:
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [python, "-I", "-S", "-c", "import socket"],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return ""
