"""Runs the cases against a tree of the project, and counts the instructions of each process."""

from __future__ import annotations

import json
import os
import signal
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import attrs

from tests.benchmarks.instructions.callgrind import (
    Counter,
    Program,
    command_under_callgrind,
    read_counters,
    run_program,
    start_counters,
)
from tests.benchmarks.instructions.cases import CASES, GATEWAY, MESH, ROUNDS
from tests.benchmarks.instructions.figures import Count
from tests.support.mesh_processes import wait_for_server

PROGRAMS = str(Path(__file__).parent / "programs.py")
_START_TIMEOUT = 120.0
"""Seconds until the server accepts connections."""

Report = Callable[[str], None]


def environment_of(tree: Path) -> dict[str, str]:
    """The environment of processes that run the code of a tree, the same way each time."""
    return {
        "PYTHONPATH": f"{tree}:{tree / 'examples' / 'echo-plugin'}",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MESHTRIO_BUSY_POLL": "off",
    }


@attrs.frozen
class Servers:
    """A route's socket, and the processes behind it."""

    socket: Path
    counters: tuple[Counter, ...]
    """Of the server, and of the gateway."""


@contextmanager
def serve_directly(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, Servers]]:
    socket = folder / "server.sock"
    command = command_under_callgrind(folder, PROGRAMS, "server")
    environment = {**environment, "PLUGIN_SOCKET": str(socket)}
    with run_program(command, folder / "server.log", environment) as server:
        wait_for_server(socket, _START_TIMEOUT)
        yield {"": Servers(socket, (Counter(server.pid, folder),))}


@contextmanager
def serve_mesh(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, Servers]]:
    run = folder / "run"
    plugin = command_under_callgrind(folder, PROGRAMS, "server")
    command = command_under_callgrind(folder, PROGRAMS, "mesh", str(run), *plugin)
    with run_program(command, folder / "mesh.log", environment) as mesh:
        server = Counter(int(mesh.read_line()), folder)
        try:
            yield {
                MESH: Servers(run / "mesh.sock", (server,)),
                GATEWAY: Servers(run / "mesh.sock", (server, Counter(mesh.pid, folder))),
            }
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def measure_case(name: str, client: Program, servers: Servers, folder: Path) -> Count:
    """Return the medians over the rounds of a case."""
    counters = [Counter(client.pid, folder), *servers.counters]
    client.write_line(json.dumps([name, str(servers.socket)]))
    client.read_line()
    start_counters(counters)
    rounds = []
    for _ in range(ROUNDS):
        client.write_line()
        client.read_line()
        rounds.append(read_counters(counters))
    client.write_line()
    medians = map(statistics.median, zip(*rounds, strict=True))
    return Count(*(round(count / CASES[name].operations) for count in medians))


def measure_routes(names: list[str], tree: Path, report: Report) -> dict[str, Count]:
    """Count the cases of routes that have the same servers."""
    environment, found = environment_of(tree), {}
    serve = serve_mesh if CASES[names[0]].route else serve_directly
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        folder = Path(name)
        command = command_under_callgrind(folder, PROGRAMS, "client")
        with (
            serve(folder, environment) as servers,
            run_program(command, folder / "client.log", environment) as client,
        ):
            for case in names:
                report(case)
                found[case] = measure_case(case, client, servers[CASES[case].route], folder)
    return found


def measure_all(
    names: list[str], trees: dict[str, Path], report: Report
) -> dict[str, dict[str, Count]]:
    """Count cases by the code of trees; the result is by tree and case.

    Two clients and their servers run at a time: no client depends on what another one does.
    """
    groups = [[n for n in names if not CASES[n].route], [n for n in names if CASES[n].route]]
    found: dict[str, dict[str, Count]] = {}
    with ThreadPoolExecutor(2) as threads:
        started = [
            (label, threads.submit(measure_routes, group, tree, partial(_report, report, label)))
            for group in filter(None, groups)
            for label, tree in trees.items()
        ]
        for label, result in started:
            found.setdefault(label, {}).update(result.result())
    return {label: {name: counts[name] for name in names} for label, counts in found.items()}


def _report(report: Report, label: str, case: str) -> None:
    report(f"{label}: {case}")
