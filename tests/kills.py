"""Calls while instances die: `python -m tests.kills [--calls 100000] [--seed N] [--json]`.

Client processes call a plugin of five instances, of which one is killed every 300 ms. `Echo` may be
retried, by the service's config, and not one call may be lost; `Slow` may not, and none may be
executed twice. The plugin notes every execution in a file, which no kill takes back.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import attrs
import purerpc
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio import mesh
from meshtrio.config import MeshConfig, PluginConfig, StaticServiceConfig
from meshtrio.util.backoff import Backoff
from meshtrio.util.concurrency import open_collapsing_nursery
from tests import ROOT
from tests.support.mesh_processes import PLUGINS_DIRECTORY

CLIENTS, INSTANCES = 4, 5
PERIOD = 0.3
CONCURRENT_CALLS = 10
"""Calls that each client has under way."""
RETRY_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "echo.v1.EchoService", "method": "Echo"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "meshtrio": {"retryBudget": {"minPerSecond": 1000}},
}


# -- a client --------------------------------------------------------------------------------


@attrs.define
class Results:
    """Results of the calls of one client."""

    lost: list[str] = attrs.field(factory=list)
    """Of those that may be retried."""
    failed: list[str] = attrs.field(factory=list)
    """Of those that may not."""
    wrong: list[str] = attrs.field(factory=list)
    seconds: list[float] = attrs.field(factory=list)


async def client(name: str, count: int) -> Results:
    results = Results()
    numbers = iter(range(count))

    async def call_all(stub: Any) -> None:
        for number in numbers:
            await call(stub, f"{name}-{number}", retried=number % 2 == 0)

    async def call(stub: Any, key: str, *, retried: bool) -> None:
        began = time.perf_counter()
        try:
            if retried:
                reply = await stub.Echo(EchoRequest(message=key))
            else:
                reply = await stub.Slow(SlowRequest(message=key))
        except purerpc.RpcFailedError as exc:
            (results.lost if retried else results.failed).append(f"{key}: {exc}")
        else:
            if reply.message != key:
                results.wrong.append(f"{key}: answered {reply.message}")
        results.seconds.append(time.perf_counter() - began)

    async with mesh.connect("plugin.counting") as channel:
        stub = channel.stub(EchoServiceStub)
        async with trio.open_nursery() as nursery:
            for _ in range(CONCURRENT_CALLS):
                nursery.start_soon(call_all, stub)
    return results


async def run_client(socket: Path, name: str, count: int) -> Results:
    command = [sys.executable, "-m", "tests.kills", "--client", name, str(count)]
    environment = {**os.environ, "MESH_SOCKET": str(socket)}
    done = await trio.run_process(
        command, env=environment, cwd=ROOT, capture_stdout=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"client {name} failed")
    return Results(**json.loads(done.stdout))


# -- the whole -------------------------------------------------------------------------------


async def kill_instances(running: mesh.Mesh, rng: Random, killed: Counter[int]) -> None:
    while True:
        await trio.sleep(PERIOD)
        victim = rng.randrange(INSTANCES)
        pid = running.instances()[victim].pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            killed[victim] += 1


async def run_under_kills(calls: int, seed: int, folder: Path) -> dict[str, Any]:
    counted = folder / "counted"
    plugin = PluginConfig(
        name="counting",
        command=["{python}", "execution_recorder.py"],
        cwd=PLUGINS_DIRECTORY,
        instances=INSTANCES,
        env={"COUNTED": str(counted)},
        backoff=Backoff(initial=0.0),
        ready_timeout=60.0,
    )
    service = StaticServiceConfig("plugin.counting", config=RETRY_CONFIG)
    config = MeshConfig([plugin], services=[service], runtime_dir=folder / "run")
    found: list[Results] = []
    killed: Counter[int] = Counter()

    async def collect(name: str, socket: Path) -> None:
        found.append(await run_client(socket, name, calls // CLIENTS))

    began = time.monotonic()
    async with open_collapsing_nursery() as nursery:
        running = await nursery.start(mesh.main, config)
        nursery.start_soon(kill_instances, running, Random(seed), killed)
        async with trio.open_nursery() as clients:
            for number in range(CLIENTS):
                clients.start_soon(collect, f"c{number}", running.socket)
        nursery.cancel_scope.cancel()
    took = time.monotonic() - began
    return check_results(found, Counter(counted.read_text().split()), killed.total(), took)


def check_results(
    found: list[Results], executed: Counter[str], killed: int, seconds: float
) -> dict[str, Any]:
    latencies = sorted(s for results in found for s in results.seconds)
    twice = [key for key, times in executed.items() if times > 1 and int(key.split("-")[1]) % 2]
    return {
        "calls": len(latencies),
        "seconds": seconds,
        "killed": killed,
        "failed, may not be retried": sum(len(results.failed) for results in found),
        "p50 ms": statistics.median(latencies) * 1e3,
        "p99 ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "longest ms": latencies[-1] * 1e3,
        "lost": [line for results in found for line in results.lost],
        "executed twice": twice,
        "answered wrongly": [line for results in found for line in results.wrong],
    }


BAD_SCORES = ("lost", "executed twice", "answered wrongly")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        name, count = options.client
        print(json.dumps(attrs.asdict(trio.run(client, name, int(count)))))
        return
    seed = Random().randrange(2**32) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        found = {"seed": seed, **trio.run(run_under_kills, options.calls, seed, Path(folder))}
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            if name in BAD_SCORES:
                print(f"{name}: {len(value)}", *value[:10], sep="\n  ")
            else:
                print(f"{name}: {value:,.1f}" if isinstance(value, float) else f"{name}: {value}")
    sys.exit(any(found[name] for name in BAD_SCORES))


if __name__ == "__main__":
    main()
