"""Those that run the same plugins side by side: nobody, meshtrio, supervisord, circus."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import attrs

from tests.benchmarks.supervision.fleet import Fleet, wait_until_up


@attrs.define
class RunningFleet:
    """A fleet that runs: who supervises it, and the seconds it took until all plugins were up."""

    pid: int
    seconds: float
    events: Iterator[tuple[str, int, float]] | None = None
    """What a mesh says: kind of event, pid, and when (monotonic)."""


@contextlib.contextmanager
def run_bare_popen(fleet: Fleet, *, backoff: float = 0.0) -> Iterator[RunningFleet]:
    """The floor: Popen of each, and nobody looks after them."""
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            fleet.kind.command, cwd=fleet.kind.cwd, env=environment, start_new_session=True
        )
        for environment in fleet.environments()
    ]
    try:
        yield RunningFleet(0, wait_until_up(fleet.sockets()) - began)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        for path in fleet.sockets():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def run_meshtrio(fleet: Fleet, *, backoff: float = 0.0) -> Iterator[RunningFleet]:
    """Up means that every plugin has answered its health check."""
    module = "tests.benchmarks.supervision.mesh_program"
    settings = [str(fleet.folder), str(fleet.count), str(backoff), str(fleet.kind.cwd)]
    settings.append(fleet.kind.start)
    process = subprocess.Popen(
        [sys.executable, "-m", module, *settings, *fleet.kind.command],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = (_parse(line) for line in process.stdout)
    try:
        _, pid, began = next(told)
        ready = [at for kind, _, at in _wait_for_each(told, "Ready", fleet.count)]
        yield RunningFleet(pid, max(ready) - began, told)
    finally:
        process.terminate()
        process.wait()


def _parse(line: str) -> tuple[str, int, float]:
    kind, pid, at = line.split()
    return kind, int(pid), float(at)


def _wait_for_each(
    told: Iterator[tuple[str, int, float]], wanted: str, count: int
) -> Iterator[tuple[str, int, float]]:
    for _ in range(count):
        yield wait_for_event(told, wanted)


def wait_for_event(told: Iterator[tuple[str, int, float]], wanted: str) -> tuple[str, int, float]:
    """The next event of a kind."""
    return next(word for word in told if word[0] == wanted)


@contextlib.contextmanager
def run_supervisord(fleet: Fleet, *, backoff: float = 0.0) -> Iterator[RunningFleet]:
    """Its programs count as started at once (startsecs=0)."""
    config = fleet.folder / "supervisord.conf"
    text = "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\n"
    text += f"pidfile={fleet.folder}/supervisord.pid\n"
    for number, path in enumerate(fleet.sockets()):
        text += f"[program:p{number}]\ncommand={' '.join(fleet.kind.command)}\n"
        text += f'directory={fleet.kind.cwd}\nenvironment=PLUGIN_SOCKET="{path}"\n'
        text += "autorestart=true\nstartsecs=0\nstdout_logfile=NONE\nstderr_logfile=NONE\n"
    config.write_text(text)
    yield from _run_foreign(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)], fleet
    )


@contextlib.contextmanager
def run_circus(fleet: Fleet, *, backoff: float = 0.0) -> Iterator[RunningFleet]:
    config = fleet.folder / "circus.ini"
    text = "[circus]\nendpoint = ipc://{0}/e\npubsub_endpoint = ipc://{0}/p\nstats_endpoint = ipc://{0}/s\n"
    text = text.format(fleet.folder)
    for number, path in enumerate(fleet.sockets()):
        text += f"[watcher:p{number}]\ncmd = {' '.join(fleet.kind.command)}\n"
        text += f"working_dir = {fleet.kind.cwd}\ncopy_env = True\nwarmup_delay = 0\n"
        text += f"[env:p{number}]\nPLUGIN_SOCKET = {path}\n"
    config.write_text(text)
    command = [sys.executable, "-m", "circus.circusd", "--log-level", "ERROR", str(config)]
    yield from _run_foreign(command, fleet)


def _run_foreign(command: list[str], fleet: Fleet) -> Iterator[RunningFleet]:
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield RunningFleet(process.pid, wait_until_up(fleet.sockets()) - began)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()
        for path in fleet.sockets():
            path.unlink(missing_ok=True)


SUPERVISORS = {
    "bare Popen": run_bare_popen,
    "meshtrio": run_meshtrio,
    "supervisord": run_supervisord,
    "circus": run_circus,
}
