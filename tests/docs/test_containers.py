"""The Dockerfile of docs/how-to/containers.md: its commands, as PID 1 of a PID namespace."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests import ROOT
from tests.docs.blocks import parse_blocks
from tests.support.mesh_processes import child_pids, wait_until
from tests.support.process_tracking import require_namespaces

PAGE = ROOT / "docs" / "how-to" / "containers.md"
PROGRAMS = Path(sys.executable).parent


def parse_dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the page's Dockerfile with their arguments."""
    (text,) = (b.text for b in parse_blocks(PAGE) if b.attributes == "Dockerfile")
    instructions = [line.partition(" ") for line in text.replace("\\\n", "").splitlines()]
    return [(name, arguments.strip()) for name, _, arguments in instructions if name]


def arguments_of(name: str) -> list[str]:
    return [arguments for each, arguments in parse_dockerfile() if each == name]


def exec_form(text: str) -> list[str]:
    """Parse the exec form of a command, a JSON list of strings."""
    found = json.loads(text)
    assert isinstance(found, list)
    assert all(isinstance(word, str) for word in found)
    return found


def main_command() -> list[str]:
    (entrypoint,), (command,) = arguments_of("ENTRYPOINT"), arguments_of("CMD")
    return exec_form(entrypoint) + exec_form(command)


def health_command() -> tuple[Mapping[str, str], list[str]]:
    """Return the options of HEALTHCHECK and its command."""
    (check,) = arguments_of("HEALTHCHECK")
    options, _, command = check.partition(" CMD ")
    return dict(re.findall(r"--([a-z-]+)=(\S+)", options)), exec_form(command)


def test_all_that_is_installed_comes_from_pypi() -> None:
    installed = [shlex.split(run) for run in arguments_of("RUN") if "install" in run]
    assert installed == [["pip", "install", "--no-cache-dir", "meshtrio"]]
    assert arguments_of("COPY") == [". ."]  # the reader's own folder
    assert re.fullmatch(r"python:3\.\d+-slim", arguments_of("FROM")[0])


def test_the_check_reports_before_the_engine_gives_up() -> None:
    options, command = health_command()
    shown = subprocess.run([PROGRAMS / command[0], *command[1:], "--help"], capture_output=True)
    timeout = re.search(rb"--timeout SECONDS.*default: ([0-9.]+)", shown.stdout, re.DOTALL)
    assert timeout is not None
    assert float(timeout[1]) < float(options["timeout"].removesuffix("s"))


@contextmanager
def container(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """Run the main command in a PID namespace, in the folder that the page makes."""
    require_namespaces()
    environment = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(folder)}
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run(
        ["meshtrio", "new", "hello"], cwd=folder, env=environment, check=True, capture_output=True
    )
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", *main_command()],
            cwd=folder / "hello",
            env=environment,
            stderr=out,
        )
    try:
        (init,) = wait_until(lambda: child_pids(process.pid))
        yield process, init, log
    finally:
        for pid in child_pids(process.pid) if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.wait(60)


def run_inside(init: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as `docker exec` does: beside the main process, with its environment."""
    environment = Path(f"/proc/{init}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    return subprocess.run(
        ["nsenter", "--target", str(init), "--pid", "--mount", *command],
        env=dict(entry.split(b"=", 1) for entry in environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_its_commands_work_as_pid_1(short_dir: Path) -> None:
    _, check = health_command()
    (stop_signal,) = arguments_of("STOPSIGNAL")
    assert shutil.which("nsenter")
    with container(short_dir) as (process, init, log):
        wait_until(lambda: run_inside(init, *check).returncode == 0)
        greet = ["call", "plugin.hello", "hello.v1.HelloService/Greet", '{"name": "container"}']
        called = run_inside(init, "meshtrio", *greet, "--timeout", "60")
        assert "container" in called.stdout, called
        plugin = json.loads(run_inside(init, "meshtrio", "ps", "--json").stdout)[0]
        assert plugin["state"] == "ready"
        # One that fails is reported by the check.
        config = short_dir / "hello" / "mesh.toml"
        config.write_text(config.read_text().replace("plugin.py", "absent.py"))
        os.kill(init, signal.SIGHUP)
        wait_until(lambda: "reloaded mesh.toml" in log.read_text())
        assert run_inside(init, "meshtrio", "health", "hello").returncode == 0
        run_inside(init, "meshtrio", "stop", "hello")
        failed = run_inside(init, *check, "hello")
        assert failed.returncode == 1
        assert failed.stderr.startswith("meshtrio: hello is not ready (stopped")
        os.kill(init, getattr(signal, stop_signal))
        assert process.wait(60) == 0
