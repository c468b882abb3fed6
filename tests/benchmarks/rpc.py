"""The RPC benchmark: every peer in the same run, client and server in processes of their own.

    python -m tests.benchmarks.rpc [--rounds N] [--seconds S] [--peers a,b] [--cases a,b] [--json]
                                   [--before REV]

Peers take turns within each round, so that what else the machine does meets all of them. Figures
are medians over the rounds; ratios are to meshtrio's in the same table. `--before` adds meshtrio as
it was at a revision, by the benchmark of that revision.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from tests.benchmarks.grpc_go import PROGRAM
from tests.benchmarks.peers import PEERS
from tests.benchmarks.peers.base import BARRIER, LARGE, SMALL, Measurement
from tests.benchmarks.revisions import extract_revision

CASES: dict[str, Callable[[Any, str, float], Measurement]] = {
    "unary, 1 in flight": lambda p, a, s: p.run(p.unary, a, SMALL, 1, s),
    "unary, 10 in flight": lambda p, a, s: p.run(p.unary, a, SMALL, 10, s),
    "unary, 50 in flight": lambda p, a, s: p.run(p.unary, a, SMALL, 50, s),
    "unary, 500 in flight": lambda p, a, s: p.run(p.unary, a, SMALL, 500, s),
    "stream messages": lambda p, a, s: p.run(p.stream, a, s),
    "1 MiB unary": lambda p, a, s: p.run(p.unary, a, LARGE, 1, s),
    "64 MiB stream": lambda p, a, s: p.run(p.download, a, s),
    "connect and call": lambda p, a, s: p.run(p.connect, a, s),
}
FLOOR_CASES = ("unary, 1 in flight", "unary, 10 in flight", "unary, 50 in flight", "1 MiB unary")
MANY_CLIENTS = "20 clients"
START_TIMEOUT = 20.0


BEFORE = "meshtrio before"
checkouts: dict[str, Path] = {}
"""The folders of peers whose code is not that of this benchmark, by name."""


def spawn(kind: str, name: str, *arguments: str, **options: Any) -> Any:
    """Start a peer's server or client (`--serve`, `--client`)."""
    if name in checkouts:
        options["cwd"] = checkouts[name]
        options["env"] = {**(options.get("env") or os.environ), "PYTHONPATH": str(checkouts[name])}
        name = "meshtrio"
    command = [sys.executable, "-m", "tests.benchmarks.rpc", kind, name, *arguments]
    return subprocess.Popen(command, text=True, **options)


@contextlib.contextmanager
def start_server(name: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Run a peer's server; gives its address and the pid that serves the calls."""
    address = str(folder / f"{name}.sock")
    # A session of its own, as a mesh gives its plugins: the scheduler shares time by sessions.
    process = spawn("--serve", name, address, start_new_session=True)
    try:
        _wait_until_ready(name, address)
        yield address, _serving_pid(name, process.pid)
    finally:
        process.send_signal(signal.SIGTERM if name != "meshtrio-mesh" else signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _wait_until_ready(name: str, address: str) -> None:
    end = time.monotonic() + START_TIMEOUT
    while True:
        case = "unary, 1 in flight"
        done = spawn("--client", name, case, address, "0.01", stdout=-1, stderr=-1)
        _, errors = done.communicate()
        if done.returncode == 0:
            return
        if time.monotonic() > end:
            raise SystemExit(f"{name} does not answer: {errors}")


def _serving_pid(name: str, pid: int) -> int:
    """The mesh is not in the path of a call: its plugin is what serves."""
    if name != "meshtrio-mesh":
        return pid
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and b"--plugin" in (entry / "cmdline").read_bytes():
                return int(entry.name)
    return pid


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Figure:
    """One run of a case: operations per second, and CPU per operation on each side in µs."""

    rate: float
    client_cpu: float
    server_cpu: float


def measure(name: str, case: str, address: str, pid: int, seconds: float) -> Figure:
    clients = 20 if case == MANY_CLIENTS else 1
    their_case = "unary, 10 in flight" if case == MANY_CLIENTS else case
    environment = {**os.environ, BARRIER: "1"} if clients > 1 else None
    running = [
        spawn(
            "--client",
            name,
            their_case,
            address,
            str(seconds),
            stdin=-1,
            stdout=-1,
            env=environment,
        )
        for _ in range(clients)
    ]
    if environment:
        for client in running:
            client.stdout.readline()  # it is ready
    before = cpu_seconds(pid)
    for client in running:
        client.stdin.close()  # which starts it
    results = [Measurement(**json.loads(client.stdout.read())) for client in running]
    for client in running:
        client.wait()
    server_cpu = cpu_seconds(pid) - before
    count = sum(result.count for result in results) or 1
    return Figure(
        rate=sum(result.count / result.seconds for result in results),
        client_cpu=sum(result.cpu for result in results) / count * 1e6,
        server_cpu=server_cpu / count * 1e6,
    )


def report(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\x1b[2K{text}", end="\r", file=sys.stderr, flush=True)


def measure_all(
    peers: list[str], cases: list[str], rounds: int, seconds: float
) -> dict[str, dict[str, Figure]]:
    """Medians by case and peer."""
    figures: dict[tuple[str, str], list[Figure]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        served = {name: stack.enter_context(start_server(name, folder)) for name in peers}
        for number in range(rounds):
            for case in cases:
                for name in peers:
                    if name == "floor" and case not in FLOOR_CASES:
                        continue
                    report(f"round {number + 1}/{rounds}: {case}: {name}")
                    figure = measure(name, case, *served[name], seconds)
                    figures.setdefault((case, name), []).append(figure)
    return {
        case: {
            name: Figure(*map(statistics.median, zip(*map(attrs.astuple, runs), strict=True)))
            for (its_case, name), runs in figures.items()
            if its_case == case
        }
        for case in cases
    }


def table(results: dict[str, dict[str, Figure]]) -> str:
    """A Markdown table for each case: rate, µs an operation, ratio, CPU on each side."""
    lines = []
    for case, by_peer in results.items():
        lines += ["", f"### {case}", ""]
        lines += ["| peer | per second | µs each | meshtrio is | CPU client | CPU server |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        base = by_peer.get("meshtrio")
        for name, figure in by_peer.items():
            ratio = f"{base.rate / figure.rate:.2f} ×" if base else "-"
            lines.append(
                f"| {name} | {figure.rate:,.0f} | {1e6 / figure.rate:,.0f} | {ratio} "
                f"| {figure.client_cpu:,.0f} µs | {figure.server_cpu:,.0f} µs |"
            )
    return "\n".join(lines)


def available_peers(peers: list[str]) -> list[str]:
    """Without grpc-go where nobody has built it, saying so."""
    if "grpc-go" in peers and not PROGRAM.exists():
        print("without grpc-go: python -m tests.benchmarks.grpc_go builds it", file=sys.stderr)
        return [name for name in peers if name != "grpc-go"]
    return peers


def parse_choice(text: str, separator: str, known: list[str]) -> list[str]:
    """Names that were asked for. Raises SystemExit for one that there is not."""
    names = [name.strip() for name in text.split(separator)]
    for name in names:
        if name not in known:
            there = f"{separator} ".join(known)
            raise SystemExit(f"{name!r} is none of {there}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--cases", default="; ".join([*CASES, MANY_CLIENTS]), help="by ';'")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--before", metavar="REV", help="a revision to measure, too")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--plugin", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plugin:
        PEERS["meshtrio"].serve(os.environ["PLUGIN_SOCKET"])
    elif options.serve:
        PEERS[options.serve[0]].serve(options.serve[1])
    elif options.client:
        name, case, address, seconds = options.client
        print(json.dumps(attrs.asdict(CASES[case](PEERS[name], address, float(seconds)))))
    else:
        cases = parse_choice(options.cases, ";", [*CASES, MANY_CLIENTS])
        peers = available_peers(parse_choice(options.peers, ",", list(PEERS)))
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            if options.before:
                checkouts[BEFORE] = extract_revision(options.before, Path(folder))
                peers.insert(1, BEFORE)
            results = measure_all(peers, cases, options.rounds, options.seconds)
        as_json = {c: {p: attrs.asdict(f) for p, f in r.items()} for c, r in results.items()}
        print(json.dumps(as_json, indent=2) if options.json else table(results))


if __name__ == "__main__":
    main()
