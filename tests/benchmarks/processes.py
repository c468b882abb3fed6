"""The processes of the RPC benchmark: servers, clients, and what CPU time they take."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from tests import ROOT
from tests.benchmarks.cases import CASES
from tests.benchmarks.idle_connections import hold_connections
from tests.benchmarks.peers.base import BARRIER, TLS_DIRECTORY, Measurement

START_TIMEOUT = 20.0

BEFORE = "meshtrio before"
checkouts: dict[str, Path] = {}
"""The folders with `meshtrio` as it was, of peers that run on that, by name."""


@attrs.frozen
class Server:
    """A peer's server."""

    name: str
    address: str
    pid: int
    """The process that serves the calls."""
    tls: Path | None = None
    """The folder with the files, if it speaks TLS."""


def spawn(kind: str, name: str, *arguments: str, tls: Path | None = None, **options: Any) -> Any:
    """Start a peer's server or client (`--serve`, `--client`)."""
    environment = {**os.environ, **(options.pop("env", None) or {})}
    if tls:
        environment[TLS_DIRECTORY] = str(tls)
    if name in checkouts:
        # This benchmark on the old code: only meshtrio itself is another.
        options["cwd"] = tree = checkouts[name]
        environment["PYTHONPATH"] = os.pathsep.join([str(tree), str(ROOT)])
        name = "meshtrio"
    command = [sys.executable, "-m", "tests.benchmarks.rpc", kind, name, *arguments]
    return subprocess.Popen(command, text=True, env=environment, **options)


@contextlib.contextmanager
def start_server(name: str, folder: Path, tls: Path | None = None) -> Iterator[Server]:
    """Run a peer's server, with TLS if there is a folder with the files."""
    address = str(folder / f"{name}{'-tls' if tls else ''}.sock")
    # A session of its own, as a mesh gives its plugins: the scheduler shares time by sessions.
    process = spawn("--serve", name, address, tls=tls, start_new_session=True)
    try:
        _wait_until_ready(name, address, tls)
        yield Server(name, address, _serving_pid(name, process.pid, folder), tls)
    finally:
        process.send_signal(signal.SIGTERM if name != "meshtrio-mesh" else signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _wait_until_ready(name: str, address: str, tls: Path | None) -> None:
    end = time.monotonic() + START_TIMEOUT
    while True:
        case = "unary, 1 in flight"
        done = spawn("--client", name, case, address, "0.01", tls=tls, stdout=-1, stderr=-1)
        _, errors = done.communicate()
        if done.returncode == 0:
            return
        if time.monotonic() > end:
            raise SystemExit(f"{name} does not answer: {errors}")


def _serving_pid(name: str, pid: int, folder: Path) -> int:
    """The mesh is not in the path of a call: its plugin is what serves."""
    if name != "meshtrio-mesh":
        return pid
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdigit()
                and b"--plugin" in (entry / "cmdline").read_bytes()
                # Not that of another run of the benchmark.
                and f"PLUGIN_SOCKET={folder}/".encode() in (entry / "environ").read_bytes()
            ):
                return int(entry.name)
    raise SystemExit("the mesh has no plugin")


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, to the nanosecond; /proc has it in ticks of 10 ms."""
    return time.clock_gettime(_cpu_clock(pid))


def _cpu_clock(pid: int) -> int:
    """As Linux's clock_getcpuclockid(3): the complement of the pid, and CPUCLOCK_SCHED."""
    return (~pid << 3) | 2


@attrs.frozen
class Figure:
    """One run of a case: operations per second, and CPU per operation on each side in µs."""

    rate: float
    client_cpu: float
    server_cpu: float
    latency_median: float | None = None
    """In µs, of calls that are timed each by itself."""
    latency_p99: float | None = None


def measure(server: Server, case_name: str, seconds: float) -> Figure:
    """Run a case once, with client processes of its own."""
    case = CASES[case_name]
    arguments = (server.name, case_name, server.address, str(seconds * case.stretch))
    with hold_connections(server.name, server.address, case.idle_connections):
        clients = [
            spawn("--client", *arguments, tls=server.tls, stdin=-1, stdout=-1, env={BARRIER: "1"})
            for _ in range(case.clients)
        ]
        for client in clients:
            client.stdout.readline()  # it is ready
        before = cpu_seconds(server.pid)
        for client in clients:
            client.stdin.close()  # which starts it
        lines = [client.stdout.readline() for client in clients]
        server_cpu = cpu_seconds(server.pid) - before
        for client in clients:
            client.wait()
            client.stdout.close()
    if not all(lines):
        raise SystemExit(f"a client of {server.name} has failed: {case_name}")
    return _to_figure([Measurement(**json.loads(line)) for line in lines], server_cpu)


def _to_figure(results: list[Measurement], server_cpu: float) -> Figure:
    count = sum(result.count for result in results) or 1
    median, p99 = results[0].latency_median, results[0].latency_p99
    return Figure(
        rate=sum(result.count / result.seconds for result in results),
        client_cpu=sum(result.cpu for result in results) / count * 1e6,
        server_cpu=server_cpu / count * 1e6,
        latency_median=None if median is None else median * 1e6,
        latency_p99=None if p99 is None else p99 * 1e6,
    )
