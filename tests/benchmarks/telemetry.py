"""What telemetry costs: the RPC benchmark's calls with metrics, with tracing, and with neither.

    python -m tests.benchmarks.telemetry [--rounds N] [--seconds S] [--width W] [--before REV]

Client and server are processes of their own, and take turns within each round. The figures are the
medians of the ratios to "off" in the same round. `--before` adds meshtrio as it was at a revision,
the last one that had no telemetry, say: "off" is to be no slower.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import trio

from tests import ROOT
from tests.benchmarks.peers.base import SMALL, Measured
from tests.benchmarks.peers.telling import COLLECTOR, TELLING
from tests.benchmarks.rpc import report

TARGETS = {"metrics": 0.95, "tracing": 0.90}
"""Of the calls a second that there are with neither."""


@attrs.frozen
class Way:
    """A peer, and the code it runs on."""

    name: str
    peer: str
    root: Path = ROOT

    def spawn(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        # Measured in the old code by the new benchmark: only meshtrio itself is another.
        path = os.pathsep.join([str(self.root), str(ROOT)])
        command = [sys.executable, "-m", "tests.benchmarks.telemetry", *arguments]
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.Popen(command, text=True, env=environment, cwd=self.root, **options)


@contextlib.contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """A revision's meshtrio, beside the tests of today."""
    tree = folder / "before"
    tree.mkdir()
    command = ["git", "-C", str(ROOT), "archive", revision, "meshtrio"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(tree)], stdin=archive.stdout, check=True)
    for name in ("tests", "examples"):
        (tree / name).symlink_to(ROOT / name)
    yield tree


@contextlib.contextmanager
def stopping(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def run_client(way: Way, folder: Path, width: int, seconds: float) -> Measured:
    address = str(folder / f"{way.name}.sock")
    arguments = ("--client", way.peer, address, str(width), str(seconds))
    client = way.spawn(*arguments, stdout=-1, stderr=-1)
    out, errors = client.communicate()
    if client.returncode:
        raise SystemExit(f"{way.name}: {errors}")
    return Measured(**json.loads(out))


def measure(ways: list[Way], folder: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Calls a second, by way, one figure for each round."""
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    with contextlib.ExitStack() as stack:
        collector = Way("collector", "").spawn("--collect", str(folder / COLLECTOR), stdout=-1)
        stack.enter_context(stopping(collector))
        assert collector.stdout is not None
        collector.stdout.readline()
        for way in ways:
            address = str(folder / f"{way.name}.sock")
            server = way.spawn("--serve", way.peer, address, stdout=-1, start_new_session=True)
            stack.enter_context(stopping(server))
            while not Path(address).exists() and server.poll() is None:
                pass
        for number in range(options.rounds):
            for way in ways:
                report(f"round {number + 1}/{options.rounds}: {way.name}")
                done = run_client(way, folder, options.width, options.seconds)
                rates[way.name].append(done.count / done.seconds)
    return rates


def ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    found = {}
    for name, of_way in rates.items():
        each = [mine / off for mine, off in zip(of_way, rates["off"], strict=True)]
        found[name] = {
            "per_second": statistics.median(of_way),
            "ratio": statistics.median(each),
            "least": min(each),
            "most": max(each),
        }
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    lines = ["| | calls a second | of those when off | least | most | target |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, figures in found.items():
        target = f"at least {TARGETS[name]:.2f}" if name in TARGETS else ""
        lines.append(
            f"| {name} | {figures['per_second']:,.0f} | {figures['ratio']:.3f} "
            f"| {figures['least']:.3f} | {figures['most']:.3f} | {target} |"
        )
    return "\n".join(lines)


async def collect(path: Path) -> None:
    from tests.telemetry.collector import collecting

    async with collecting(path) as collector:
        print("ready", flush=True)
        while True:
            await trio.sleep(1)
            collector.spans.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--width", type=int, default=50, help="calls in flight")
    parser.add_argument("--before", metavar="REV", help="a revision to measure, too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--collect", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collect:
        trio.run(collect, Path(options.collect))
    elif options.serve:
        TELLING[options.serve[0]].serve(options.serve[1])
    elif options.client:
        name, address, width, seconds = options.client
        peer = TELLING[name]
        print(
            json.dumps(
                attrs.asdict(peer.run(peer.unary, address, SMALL, int(width), float(seconds)))
            )
        )
    else:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            ways = [Way(peer, peer) for peer in TELLING]
            with contextlib.ExitStack() as stack:
                if options.before:
                    tree = stack.enter_context(checked_out(options.before, folder))
                    ways.insert(0, Way("before", "off", tree))
                found = ratios(measure(ways, folder, options))
        print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
