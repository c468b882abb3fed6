"""How long imports and commands take: `python -m tests.benchmarks.imports [--rounds N] [--json]`.

Processes are started in turn, and the CPU time (user and system) of each is counted; the figures
are the medians over the rounds, those over a baseline the medians of the differences in a round.
"What a plugin needs" are the modules that the plugin below has loaded when it answers its first
call. `-X importtime` measures elapsed time, so the figure of a module is the least of all rounds.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from echo.v1 import echo_pb2 as pb
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.client.channel import connect_to
from tests import ROOT
from tests.support.mesh_processes import echo_plugin_table, serve_mesh, wait_for_server

BASELINE = "import trio, purerpc, google.protobuf"
STUBS = f"{BASELINE}, echo.v1.echo_grpc"
PLUGIN = """\
import sys
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply
from meshtrio import plugin

class ModuleReporter(EchoServiceServicer):
    async def Echo(self, message, request):
        return EchoReply(message="\\n".join(sys.modules))

plugin.run(ModuleReporter())
"""
SHOWN_MODULES = 15


@attrs.frozen
class Case:
    """A process that is measured."""

    name: str
    arguments: Sequence[str]
    target: float | None = None
    """Maximum CPU time in milliseconds, over that of `baseline` if there is one."""
    baseline: str | None = None
    """The name of the case that it is compared with."""


def environment(**variables: str) -> dict[str, str]:
    """The environment of measured processes, which use compiled files as those of users do."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "examples" / "echo-plugin")))
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": path, **variables}


def find_modules_of_plugin() -> list[str]:
    """The modules of a plugin that answers its first call, in the order of their imports."""

    async def call(address: str) -> str:
        async with connect_to(address) as channel:
            return (await channel.stub(EchoServiceStub).Echo(pb.EchoRequest())).message

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder, "socket")
        command = [sys.executable, "-c", PLUGIN]
        with subprocess.Popen(command, env=environment(PLUGIN_SOCKET=str(path))) as process:
            try:
                wait_for_server(path)
                return trio.run(call, f"unix:{path}").split("\n")
            finally:
                process.terminate()


def import_program(modules: Sequence[str]) -> str:
    """A program that imports modules, and loads the messages that every plugin needs.

    The modules of the baseline are imported first and are not named. A plugin imports a module by
    one statement: to call `import_module` for each of hundreds takes 2 ms.
    """
    program = f"import sys; {STUBS}; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    loaded = subprocess.check_output(command, env=environment(), text=True).split()
    names = [name for name in modules if name not in loaded]
    return (
        f"{STUBS}\nimport sys\nfrom importlib import import_module\n"
        f"for name in {names}: name in sys.modules or import_module(name)\n"
        "from meshtrio.messages import health"
    )


def make_cases(plugin_modules: Sequence[str]) -> list[Case]:
    return [
        Case("baseline", ("-c", BASELINE)),
        Case("import meshtrio.plugin", ("-c", "import meshtrio.plugin"), 15.0, "baseline"),
        Case("baseline and generated code", ("-c", STUBS)),
        Case(
            *("what a plugin needs", ("-c", import_program(plugin_modules))),
            *(15.0, "baseline and generated code"),
        ),
        Case("meshtrio --help", ("-m", "meshtrio", "--help"), 120.0),
        Case("meshtrio ps", ("-m", "meshtrio", "ps"), 200.0),
    ]


def cpu_time(arguments: Sequence[str], variables: Mapping[str, str]) -> float:
    """CPU time of a Python process, in milliseconds."""
    command = [sys.executable, *arguments]
    process = subprocess.Popen(command, env=dict(variables), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return (usage.ru_utime + usage.ru_stime) * 1000


def measure(cases: Sequence[Case], rounds: int, variables: Mapping[str, str]) -> dict[str, Any]:
    """Median CPU times in milliseconds, by the names of the cases."""
    times: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(rounds + 1):
        for case in cases:
            times[case.name].append(cpu_time(case.arguments, variables))
    results: dict[str, Any] = {}
    for case in cases:
        own = times[case.name][1:]  # The first round may have read files from a disk.
        result = {"cpu_ms": statistics.median(own), "target_ms": case.target}
        if case.baseline is not None:
            base = times[case.baseline][1:]
            result["over_baseline_ms"] = statistics.median(
                a - b for a, b in zip(own, base, strict=True)
            )
        results[case.name] = result
    return results


def import_times(program: str, rounds: int, variables: Mapping[str, str]) -> dict[str, float]:
    """Least self time of each imported module in milliseconds, by `-X importtime`."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    command = [sys.executable, "-X", "importtime", "-c", program]
    for _ in range(rounds):
        done = subprocess.run(
            command, env=dict(variables), capture_output=True, text=True, check=True
        )
        for name, microseconds in parse_import_times(done.stderr):
            times[name].append(microseconds / 1000)
    return {name: min(found) for name, found in times.items()}


def parse_import_times(report: str) -> Iterator[tuple[str, int]]:
    """The modules in a report of `-X importtime` with their self times, in microseconds."""
    for line in report.splitlines():
        kind, _, columns = line.partition(":")
        own, *_, name = columns.split("|")
        if kind == "import time" and own.strip().isdigit():
            yield name.strip(), int(own)


def measure_modules(rounds: int, variables: Mapping[str, str]) -> dict[str, Any]:
    """What `import meshtrio.plugin` adds to the baseline, by `-X importtime`."""
    before = import_times(BASELINE, 1, variables)
    times = import_times("import meshtrio.plugin", rounds, variables)
    added = {name: time for name, time in times.items() if name not in before}
    own = sorted((n for n in added if n.startswith("meshtrio")), key=added.__getitem__)
    return {
        "over_baseline_ms": sum(added.values()),
        "target_ms": 15.0,
        "slowest": {name: added[name] for name in own[: -SHOWN_MODULES - 1 : -1]},
    }


@contextmanager
def running_mesh() -> Iterator[dict[str, str]]:
    """Run a mesh for `ps`; yields the environment of commands."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        with serve_mesh(Path(folder), echo_plugin_table(), min_ready=1) as mesh:
            yield environment(MESH_SOCKET=str(mesh.socket))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    compileall.compile_dir(ROOT / "meshtrio", quiet=1)
    compileall.compile_dir(ROOT / "examples" / "echo-plugin", quiet=1)
    with running_mesh() as variables:
        results = measure(make_cases(find_modules_of_plugin()), options.rounds, variables)
        modules = measure_modules(options.rounds, variables)
    if options.json:
        print(json.dumps({"cpu": results, "importtime": modules}, indent=2))
        return
    print("| | CPU time | over baseline | target |\n| --- | ---: | ---: | ---: |")
    for name, result in results.items():
        over, target = result.get("over_baseline_ms"), result["target_ms"]
        shown = ("" if value is None else f"{value:.1f} ms" for value in (over, target))
        print(f"| {name} | {result['cpu_ms']:.1f} ms | {' | '.join(shown)} |")
    print(f"\n`-X importtime`: {modules['over_baseline_ms']:.1f} ms over the baseline, of which")
    for name, time in modules["slowest"].items():
        print(f"  {time:.2f} ms  {name}")


if __name__ == "__main__":
    main()
