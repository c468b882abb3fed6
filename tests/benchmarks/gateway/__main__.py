"""What a call costs through a mesh's gateway, against the plugin's own socket and nginx.

    python -m tests.benchmarks.gateway [--rounds N] [--seconds S] [--client NAME] [--json]

One instance of the echo plugin serves all ways. Each round is a client process of its own, in which
the ways take turns within each case; figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import attrs

from tests.benchmarks.gateway.clients import CASES, CLIENTS, IN_FLIGHT, Client, Stopwatch
from tests.benchmarks.gateway.routes import BenchmarkRoute, open_routes

ONE, AT_ONCE, STREAM, BIG, _ = CASES


@attrs.frozen
class Figure:
    """µs, of one operation."""

    each: float
    """The median where they come one by one, the mean where many are under way."""
    p99: float
    """0 where many are under way."""
    cpu: float
    """Of the process that passes it on."""

    @classmethod
    def from_stopwatch(cls, watch: Stopwatch) -> Figure:
        each, p99 = watch.seconds / watch.count, 0.0
        if watch.times:
            times = sorted(watch.times)
            each, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
        return cls(each * 1e6, p99 * 1e6, watch.cpu / watch.count * 1e6)


Figures = dict[str, dict[str, Figure]]
"""By case and way."""


def report(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\x1b[2K{text}", end="\r", file=sys.stderr, flush=True)


def as_json(figures: Figures) -> str:
    return json.dumps(figures, default=attrs.asdict, indent=2)


def measure(client: Client, found: list[BenchmarkRoute], seconds: float) -> Figures:
    """One round, in this process."""
    figures: Figures = defaultdict(dict)
    for name, case in CASES.items():
        for way in found:
            watch = Stopwatch(seconds, way.pid)
            case(client, way.socket, watch)
            figures[name][way.name] = Figure.from_stopwatch(watch)
    return figures


def measure_elsewhere(client: str, found: list[BenchmarkRoute], seconds: float) -> Figures:
    """One round, in a process of its own."""
    told = json.dumps([attrs.asdict(way) for way in found])
    command = [sys.executable, "-m", "tests.benchmarks.gateway", "--round", told]
    options = ["--client", client, "--seconds", str(seconds)]
    done = subprocess.run(
        [*command, *options], stdout=subprocess.PIPE, start_new_session=True, check=True
    )
    figures = json.loads(done.stdout)
    return {case: {way: Figure(**f) for way, f in ws.items()} for case, ws in figures.items()}


def measure_all(client: str, rounds: int, seconds: float) -> Figures:
    runs: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name, open_routes(Path(name)) as found:
        for number in range(rounds):
            report(f"round {number + 1}/{rounds}")
            turn = number % len(found)
            runs.append(measure_elsewhere(client, found[turn:] + found[:turn], seconds))
    return {
        case: {way.name: _median([run[case][way.name] for run in runs]) for way in found}
        for case in CASES
    }


def _median(figures: list[Figure]) -> Figure:
    return Figure(*map(statistics.median, zip(*map(attrs.astuple, figures), strict=True)))


def check_targets(figures: Figures) -> list[tuple[str, float, float]]:
    """What the targets are about: what, as measured, and the most it may be."""

    def times(case: str, other: str) -> float:
        return figures[case]["gateway"].each / figures[case][other].each

    found = [
        ("unary latency, 1 in flight, gateway / direct", times(ONE, "direct"), 2.5),
        (
            f"unary time a call, {IN_FLIGHT} in flight, gateway / direct",
            times(AT_ONCE, "direct"),
            2.5,
        ),
        ("streaming time a message, gateway / direct", times(STREAM, "direct"), 2.5),
    ]
    if "nginx" in figures[ONE]:
        found.append(("unary latency, 1 in flight, gateway / nginx", times(ONE, "nginx"), 1.0))
    return found


def table(figures: Figures) -> str:
    lines = []
    for case, by_way in figures.items():
        # Of 1 MB each, as many a second are as many MB.
        rate = "MB/s" if case == BIG else "per second"
        lines += [
            "",
            f"### {case}",
            "",
            f"| | µs | p99, µs | {rate} | × direct | CPU passing, µs |",
        ]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        for way, figure in by_way.items():
            p99 = f"{figure.p99:,.0f}" if figure.p99 else ""
            cpu = f"{figure.cpu:,.1f}" if figure.cpu else ""
            lines.append(
                f"| {way} | {figure.each:,.1f} | {p99} | {1e6 / figure.each:,.0f} "
                f"| {figure.each / by_way['direct'].each:.2f} | {cpu} |"
            )
    lines += ["", "### Targets", "", "| | measured | at most |", "| --- | ---: | ---: |"]
    lines += [
        f"| {what} | {value:.2f} | {most:g} |" for what, value, most in check_targets(figures)
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for a case on one way")
    parser.add_argument("--client", choices=list(CLIENTS), default="meshtrio")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--round", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.round:
        found = [BenchmarkRoute(**way) for way in json.loads(options.round)]
        print(as_json(measure(CLIENTS[options.client], found, options.seconds)))
        return
    figures = measure_all(options.client, options.rounds, options.seconds)
    print(as_json(figures) if options.json else table(figures))


if __name__ == "__main__":
    main()
