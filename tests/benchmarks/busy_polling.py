"""What busy polling gains and costs: calls with it and without it, turn by turn.

    python -m tests.benchmarks.busy_polling [--rounds N] [--seconds S] [--cases a;b] [--json]
                                            [--maximum 500us]

Client and server are processes of their own, with MESHTRIO_BUSY_POLL=off in one half of the runs.
Paced calls are made when this process writes to the client, which needs no timer for it. Figures
are medians over the rounds; CPU time is user and system time of the whole process.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio import plugin
from meshtrio.client.channel import connect_to
from meshtrio.http2.limits import Limits
from tests.benchmarks.rpc import parse_choice, report
from tests.support.connection_pairs import CallbackServicer

QUICK, SLOW = EchoRequest(message="x" * 90), EchoRequest(message="slow")
SLOW_SECONDS = 0.005
WARM_UP = 20
SETTINGS = ("off", "on")


@attrs.frozen
class Case:
    """A pattern of calls."""

    rate: float = 0.0
    """Bursts per second; 0 for calls one after another, without pauses."""
    burst: int = 1
    """Calls of a burst, one after another."""
    clients: int = 1
    """Number of client processes."""
    connections: int = 1
    """Number of connections of a client, which its calls take in turn."""
    idle_connections: int = 0
    """Number of connections without calls."""
    slow_every: int = 0
    """Each call with a multiple of this number takes 5 ms; 0 for none."""
    neighbours: int = 0
    """Number of processes that compute meanwhile."""


CASES = {
    "one after another": Case(),
    "two clients": Case(clients=2),
    "20 clients": Case(clients=20),
    "one after another, busy machine": Case(neighbours=2),
    "one of 100 connections": Case(idle_connections=99),
    "every 10th takes 5 ms": Case(slow_every=10),
    "100/s": Case(rate=100),
    "1,000/s": Case(rate=1000),
    "1,800/s": Case(rate=1800),
    "3,000/s": Case(rate=3000),
    "pairs, 100/s": Case(rate=100, burst=2),
    "bursts of 20, 50/s": Case(rate=50, burst=20),
    "1,000/s on 100 connections": Case(rate=1000, connections=100),
}


@attrs.frozen
class Figure:
    """One run: calls per second, µs of a call, CPU time in µs per call on each side."""

    rate: float
    median: float
    p99: float
    client_cpu: float
    server_cpu: float


def serve(address: str) -> None:
    async def echo(request: EchoRequest) -> EchoReply:
        if request.message == SLOW.message:
            await trio.sleep(SLOW_SECONDS)
        return EchoReply(message=request.message)

    os.environ["PLUGIN_SOCKET"] = address
    plugin.run(CallbackServicer(Echo=echo), limits=Limits(max_connections_per_peer=4096))


# -- client --------------------------------------------------------------------------------------


async def run_client(case: Case, address: str, seconds: float) -> None:
    """Make calls, and print their number, times and CPU seconds as JSON."""
    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for number in range(case.connections + case.idle_connections):
            # Channels share connections only if their options are the same.
            limits = Limits(max_send_message_size=1_000_000 + number)
            channel = await stack.enter_async_context(connect_to(f"unix:{address}", limits=limits))
            calls.append(channel.stub(EchoServiceStub).Echo)
            await calls[-1](QUICK)
        calls = calls[: case.connections]
        for _ in range(WARM_UP):
            await calls[0](QUICK)
        print("ready", flush=True)
        await trio.lowlevel.wait_readable(sys.stdin)
        times: list[float] = []
        began, began_cpu = time.perf_counter(), time.process_time()
        while case.rate or time.perf_counter() - began < seconds:
            burst = 1
            if case.rate:
                await trio.lowlevel.wait_readable(sys.stdin)
                burst = len(os.read(sys.stdin.fileno(), 4096))
                if not burst:
                    break
            for _ in range(burst):
                is_slow = case.slow_every and len(times) % case.slow_every == 0
                call = calls[len(times) % len(calls)]
                sent = time.perf_counter()
                await call(SLOW if is_slow else QUICK)
                times.append(time.perf_counter() - sent)
        took, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    print(json.dumps({"times": times, "seconds": took, "cpu": cpu}))


# -- measuring -----------------------------------------------------------------------------------


def spawn(setting: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.benchmarks.busy_polling", *arguments]
    environment = os.environ | {"MESHTRIO_BUSY_POLL": setting}
    return subprocess.Popen(command, env=environment, text=True, start_new_session=True, **options)


def cpu_seconds(pid: int) -> float:
    """CPU time of another process, by its clock (clock_getcpuclockid(3)), to the nanosecond."""
    return time.clock_gettime((~pid << 3) | 2)


@contextlib.contextmanager
def start_server(setting: str, address: str) -> Iterator[int]:
    process = spawn(setting, "--serve", address)
    try:
        while not Path(address).exists():
            if process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.01)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@contextlib.contextmanager
def run_neighbours(count: int) -> Iterator[None]:
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def write_at_pace(case: Case, seconds: float, clients: list[subprocess.Popen[str]]) -> None:
    began, number = time.perf_counter(), 0
    while number < seconds * case.rate:
        time.sleep(max(began + number / case.rate - time.perf_counter(), 0.0))
        for client in clients:
            assert client.stdin is not None
            os.write(client.stdin.fileno(), b"." * case.burst)
        number += 1


def measure(name: str, setting: str, address: str, pid: int, seconds: float) -> Figure:
    case = CASES[name]
    arguments = ("--client", name, address, str(seconds))
    clients = [spawn(setting, *arguments, stdin=-1, stdout=-1) for _ in range(case.clients)]
    for client in clients:
        assert client.stdout is not None
        client.stdout.readline()
    with run_neighbours(case.neighbours):
        before = cpu_seconds(pid)
        if case.rate:
            write_at_pace(case, seconds, clients)
        for client in clients:
            assert client.stdin is not None
            client.stdin.close()
        results = [json.load(client.stdout) for client in clients if client.stdout]
        server_cpu = cpu_seconds(pid) - before
    for client in clients:
        client.wait()
    times = sorted(seconds for result in results for seconds in result["times"])
    return Figure(
        rate=sum(len(result["times"]) / result["seconds"] for result in results),
        median=statistics.median(times) * 1e6,
        p99=times[len(times) * 99 // 100] * 1e6,
        client_cpu=sum(result["cpu"] for result in results) / len(times) * 1e6,
        server_cpu=server_cpu / len(times) * 1e6,
    )


Figures = dict[str, dict[str, Figure]]
"""By case and setting."""


def measure_all(names: list[str], maximum: str, rounds: int, seconds: float) -> Figures:
    runs: dict[tuple[str, str], list[Figure]] = {}
    variables = dict(zip(SETTINGS, ("off", maximum), strict=True))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        pids = {
            setting: stack.enter_context(start_server(variables[setting], f"{folder}/{setting}"))
            for setting in SETTINGS
        }
        for number in range(rounds):
            for name in names:
                for setting in SETTINGS if number % 2 else reversed(SETTINGS):
                    report(f"round {number + 1}/{rounds}: {name}: {setting}")
                    figure = measure(
                        name, variables[setting], f"{folder}/{setting}", pids[setting], seconds
                    )
                    runs.setdefault((name, setting), []).append(figure)
    return {
        name: {setting: find_medians(runs[name, setting]) for setting in SETTINGS} for name in names
    }


def find_medians(figures: list[Figure]) -> Figure:
    return Figure(*map(statistics.median, zip(*map(attrs.astuple, figures), strict=True)))


def table(figures: Figures) -> str:
    """A Markdown table: without and with polling, and the ratio."""
    columns = ["calls/s", "µs, median", "µs, 99 %", "CPU client", "CPU server"]
    lines = ["| case | " + " | ".join(f"{each}: off, on" for each in columns) + " |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for name, by_setting in figures.items():
        off, on = (attrs.astuple(by_setting[setting]) for setting in SETTINGS)
        pairs = zip(off, on, strict=True)
        cells = [f"{a:,.0f}, {b:,.0f}: {b / a:.2f} ×" for a, b in pairs]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--cases", default=";".join(CASES), help="by ';'")
    parser.add_argument("--maximum", default="500us", help="as MESHTRIO_BUSY_POLL has it")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.client:
        name, address, seconds = options.client
        trio.run(run_client, CASES[name], address, float(seconds))
    else:
        names = parse_choice(options.cases, ";", list(CASES))
        found = measure_all(names, options.maximum, options.rounds, options.seconds)
        print(json.dumps(found, default=attrs.asdict) if options.json else table(found))


if __name__ == "__main__":
    main()
