"""What telemetry costs: the RPC benchmark's calls with metrics, with tracing, and with neither.

    python -m tests.benchmarks.telemetry [--rounds N] [--seconds S] [--width W] [--before REV]

Clients and servers are processes of their own. They take turns of a quarter of a second, since a
machine is rarely as fast as it was a minute ago; the figures are the medians of the ratios to "off"
in the same round. `--before` adds meshtrio as it was at a revision,
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
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp

from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server import Server
from meshtrio.transport.listener import unix_listener
from tests import ROOT
from tests.benchmarks.peers.base import SMALL, Measurement
from tests.benchmarks.peers.with_telemetry import (
    COLLECTOR,
    TELEMETRY_PEERS,
    MeshtrioWithTelemetry,
)
from tests.benchmarks.report import report
from tests.benchmarks.revisions import extract_revision
from tests.support.mesh_processes import wait_for_server

TARGETS = {"metrics": 0.95, "tracing": 0.90}
"""Of the calls a second that there are with neither."""


@attrs.frozen
class Variant:
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
def check_out(revision: str, folder: Path) -> Iterator[Path]:
    """A revision's meshtrio, beside the tests of today."""
    tree = extract_revision(revision, folder, "meshtrio")
    for name in ("tests", "examples"):
        (tree / name).symlink_to(ROOT / name)
    yield tree


@contextlib.contextmanager
def stop_afterwards(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


class Client:
    """A process that makes calls whenever it is told to, on one connection for all the time."""

    def __init__(self, way: Variant, folder: Path, width: int, seconds: float) -> None:
        self._name = way.name
        arguments = ("--client", way.peer, str(folder / f"{way.name}.sock"), str(width))
        self.process = way.spawn(*arguments, str(seconds), stdin=-1, stdout=-1)

    def calls_a_second(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the client with {self._name} has ended")
        done = json.loads(line)
        return float(done["count"]) / float(done["seconds"])


def measure(
    ways: list[Variant], folder: Path, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Calls a second, by way, one figure for each round."""
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    with contextlib.ExitStack() as stack:
        collector = Variant("collector", "").spawn("--collect", str(folder / COLLECTOR), stdout=-1)
        stack.enter_context(stop_afterwards(collector))
        assert collector.stdout is not None
        collector.stdout.readline()
        clients = []
        for way in ways:
            address = str(folder / f"{way.name}.sock")
            server = way.spawn("--serve", way.peer, address, stdout=-1, start_new_session=True)
            stack.enter_context(stop_afterwards(server))
            wait_for_server(Path(address))
            client = Client(way, folder, options.width, options.seconds)
            stack.enter_context(stop_afterwards(client.process))
            client.calls_a_second()
            clients.append(client)
        for number in range(options.rounds):
            report(f"round {number + 1}/{options.rounds}")
            for way, client in zip(ways, clients, strict=True):
                rates[way.name].append(client.calls_a_second())
    return rates


def ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    found = {}
    for name, of_way in rates.items():
        each = [mine / off for mine, off in zip(of_way, rates["off"], strict=True)]
        found[name] = {
            "per_second": statistics.median(of_way),
            "ratio": statistics.median(each),
            "quartiles": statistics.quantiles(each, n=4)[::2],
        }
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| | calls a second | of those when off | quartiles | target |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    for name, figures in found.items():
        target = f"at least {TARGETS[name]:.2f}" if name in TARGETS else ""
        least, most = figures["quartiles"]
        lines.append(
            f"| {name} | {figures['per_second']:,.0f} | {figures['ratio']:.3f} "
            f"| {least:.3f} to {most:.3f} | {target} |"
        )
    return "\n".join(lines)


class Collector:
    """Takes spans and looks at none: a real one is on another machine."""

    def __init__(self) -> None:
        name = otlp.DESCRIPTOR.services_by_name["TraceService"]
        self.service = service_from_descriptor(name, self)

    async def Export(self, request: Any) -> Any:
        return otlp.ExportTraceServiceResponse()


async def collect(path: str) -> None:
    with unix_listener(path) as listener:
        print("ready", flush=True)
        await Server(Collector()).serve(listener)


async def call_on_request(
    peer: MeshtrioWithTelemetry, address: str, width: int, seconds: float
) -> Measurement:
    """For each line of input calls for some seconds, and a line about them."""
    done = Measurement(0, 1.0, 0.0)
    async with peer.stub(address) as stub:
        while await trio.to_thread.run_sync(sys.stdin.readline):
            done = await peer.in_flight(stub.Echo, SMALL, width, seconds)
            print(json.dumps(attrs.asdict(done)), flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.25, help="of a round, for each")
    parser.add_argument("--width", type=int, default=50, help="calls in flight")
    parser.add_argument("--before", metavar="REV", help="a revision to measure, too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--collect", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collect:
        trio.run(collect, options.collect)
    elif options.serve:
        TELEMETRY_PEERS[options.serve[0]].serve(options.serve[1])
    elif options.client:
        name, address, width, seconds = options.client
        trio.run(call_on_request, TELEMETRY_PEERS[name], address, int(width), float(seconds))
    else:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            ways = [Variant(peer, peer) for peer in TELEMETRY_PEERS]
            with contextlib.ExitStack() as stack:
                if options.before:
                    tree = stack.enter_context(check_out(options.before, folder))
                    ways.insert(0, Variant("before", "off", tree))
                found = ratios(measure(ways, folder, options))
        print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
