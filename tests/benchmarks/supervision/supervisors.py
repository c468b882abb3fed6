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
class Up:
    """A fleet that runs: who supervises it, and the seconds it took until all plugins were up."""

    pid: int
    seconds: float
    told: Iterator[tuple[str, int, float]] | None = None
    """What a mesh says: kind of event, pid, and when (monotonic)."""


@contextlib.contextmanager
def bare(fleet: Fleet, *, backoff: float = 0.0) -> Iterator[Up]:
    """The floor: Popen of each, and nobody looks after them."""
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            fleet.kind.command, cwd=fleet.kind.cwd, env=environment, start_new_session=True
        )
        for environment in fleet.environments()
    ]
    try:
        yield Up(0, wait_until_up(fleet.sockets()) - began)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        for path in fleet.sockets():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def meshtrio(fleet: Fleet, *, backoff: float = 0.0) -> Iterator[Up]:
    """Up means that every plugin has answered its health check."""
    module = "tests.benchmarks.supervision.mesh_child"
    settings = [str(fleet.folder), str(fleet.count), str(backoff), str(fleet.kind.cwd)]
    process = subprocess.Popen(
        [sys.executable, "-m", module, *settings, *fleet.kind.command],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = (_parse(line) for line in process.stdout)
    try:
        _, pid, began = next(told)
        ready = [at for kind, _, at in _take(told, "Ready", fleet.count)]
        yield Up(pid, max(ready) - began, told)
    finally:
        process.terminate()
        process.wait()


def _parse(line: str) -> tuple[str, int, float]:
    kind, pid, at = line.split()
    return kind, int(pid), float(at)


def _take(
    told: Iterator[tuple[str, int, float]], wanted: str, count: int
) -> Iterator[tuple[str, int, float]]:
    for _ in range(count):
        yield wait_for(told, wanted)


def wait_for(told: Iterator[tuple[str, int, float]], wanted: str) -> tuple[str, int, float]:
    """The next event of a kind."""
    return next(word for word in told if word[0] == wanted)


@contextlib.contextmanager
def supervisord(fleet: Fleet, *, backoff: float = 0.0) -> Iterator[Up]:
    """Its programs count as started at once (startsecs=0)."""
    config = fleet.folder / "supervisord.conf"
    text = "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\n"
    text += f"pidfile={fleet.folder}/supervisord.pid\n"
    for number, path in enumerate(fleet.sockets()):
        text += f"[program:p{number}]\ncommand={' '.join(fleet.kind.command)}\n"
        text += f'directory={fleet.kind.cwd}\nenvironment=PLUGIN_SOCKET="{path}"\n'
        text += "autorestart=true\nstartsecs=0\nstdout_logfile=NONE\nstderr_logfile=NONE\n"
    config.write_text(text)
    yield from _foreign([sys.executable, "-m", "supervisor.supervisord", "-c", str(config)], fleet)


@contextlib.contextmanager
def circus(fleet: Fleet, *, backoff: float = 0.0) -> Iterator[Up]:
    config = fleet.folder / "circus.ini"
    text = "[circus]\nendpoint = ipc://{0}/e\npubsub_endpoint = ipc://{0}/p\nstats_endpoint = ipc://{0}/s\n"
    text = text.format(fleet.folder)
    for number, path in enumerate(fleet.sockets()):
        text += f"[watcher:p{number}]\ncmd = {' '.join(fleet.kind.command)}\n"
        text += f"working_dir = {fleet.kind.cwd}\ncopy_env = True\nwarmup_delay = 0\n"
        text += f"[env:p{number}]\nPLUGIN_SOCKET = {path}\n"
    config.write_text(text)
    command = [sys.executable, "-m", "circus.circusd", "--log-level", "ERROR", str(config)]
    yield from _foreign(command, fleet)


def _foreign(command: list[str], fleet: Fleet) -> Iterator[Up]:
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield Up(process.pid, wait_until_up(fleet.sockets()) - began)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()
        for path in fleet.sockets():
            path.unlink(missing_ok=True)


SUPERVISORS = {
    "bare Popen": bare,
    "meshtrio": meshtrio,
    "supervisord": supervisord,
    "circus": circus,
}
