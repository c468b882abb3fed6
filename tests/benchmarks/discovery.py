"""Discovery at scale: many endpoints that change, and many meshes that follow them.

    python -m tests.benchmarks.discovery [--endpoints 10000] [--services 500] [--changes 200]
                                         [--followers 50] [--seconds 20] [--json]

A real etcd has the keys. Another process changes them at a steady rate. This process follows them
as so many meshes would, then as one, then as a client of one service. Figures are CPU time, which
other load on the machine does not change, memory, and the time until all views are the truth.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path
from random import Random

import trio

from meshtrio.cluster.etcd_resolver import _watch_service
from meshtrio.cluster.follower import Follower
from meshtrio.config import DiscoveryConfig
from meshtrio.discovery.etcd_entries import EndpointEntry
from meshtrio.discovery.node_services import NodeServices
from meshtrio.discovery.registry import Registry
from meshtrio.etcd import EtcdClient, open_client
from tests.support.etcd_server import run_etcd

PREFIX = "meshtrio"
WRITERS = 16


def make_entry(number: int, services: int, version: int) -> EndpointEntry:
    service, instance = f"plugin.s{number % services}", number // services
    address = f"tcp:10.{number >> 16}.{number >> 8 & 255}.{number & 255}:{7000 + version % 1000}"
    return EndpointEntry(service, address, f"node-{instance}", instance, zone="z", plugin="p")


async def put_all(client: EtcdClient, options: argparse.Namespace) -> None:
    async def put(numbers: range) -> None:
        for number in numbers:
            entry = make_entry(number, options.services, 0)
            await client.put(entry.make_key(PREFIX), entry.make_value())

    async with trio.open_nursery() as nursery:
        for first in range(WRITERS):
            nursery.start_soon(put, range(first, options.endpoints, WRITERS))


async def change_keys(url: str, options: argparse.Namespace) -> None:
    """Change random keys at a steady rate: the other process."""
    rng, period = Random(0), 1 / options.changes
    async with open_client([url]) as client, trio.open_nursery() as nursery:
        began = trio.current_time()

        async def change(number: int, version: int) -> None:
            entry = make_entry(number, options.services, version)
            if version % 10 == 0:  # a restart
                await client.delete(entry.make_key(PREFIX))
            await client.put(entry.make_key(PREFIX), entry.make_value())

        for version in range(1, int(options.changes * options.seconds)):
            await trio.sleep_until(began + version * period)
            nursery.start_soon(change, rng.randrange(options.endpoints), version)
    print(time.time())


class View:
    """A follower with a registry of its own, as a mesh has it."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.services = NodeServices(PREFIX, "", "z", None)
        self.follower = Follower(self.services, self.registry, PREFIX)

    def addresses(self) -> set[tuple[str, str]]:
        return {
            (name, each.address)
            for name in self.registry.services()
            for each in self.registry.resolve(name).endpoints
        }


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure_followers(url: str, count: int, options: argparse.Namespace) -> dict[str, float]:
    """Follow with so many views while keys change."""
    before, cpu = resident(), time.process_time()
    async with trio.open_nursery() as nursery:
        views = [View() for _ in range(count)]
        for view in views:
            client = await nursery.start(hold_client, url)
            nursery.start_soon(view.follower.run, client)
        for view in views:
            await view.follower.has_snapshot.wait()
        figures = {
            "memory of each, MiB": (resident() - before) / count / 2**20,
            "CPU of the first snapshot of each, s": (time.process_time() - cpu) / count,
        }
        cpu = time.process_time()
        ended = await run_changes(url, options)
        truth = await read_truth(url)
        while not all(view.addresses() == truth for view in views):  # noqa: ASYNC110
            await trio.sleep(0.01)
        figures["all agree after the last change, s"] = max(0.0, time.time() - ended)
        seconds = options.seconds
        figures["CPU of each, % of a core"] = (time.process_time() - cpu) / count / seconds * 100
        nursery.cancel_scope.cancel()
    return figures


async def hold_client(url: str, *, task_status: trio.TaskStatus[EtcdClient]) -> None:
    async with open_client([url]) as client:
        task_status.started(client)
        await trio.sleep_forever()


async def run_changes(url: str, options: argparse.Namespace) -> float:
    """Run the other process; return when its last change was made."""
    command = [sys.executable, "-m", "tests.benchmarks.discovery", "--write-to", url]
    for name in ("endpoints", "services", "changes", "seconds"):
        command += [f"--{name}", str(getattr(options, name))]
    done = await trio.run_process(command, capture_stdout=True)
    return float(done.stdout)


async def read_truth(url: str) -> set[tuple[str, str]]:
    async with open_client([url]) as client:
        keys, _ = await client.get_prefix(f"{PREFIX}/")
    updates = [(each.key, json.loads(each.value)["Addr"]) for each in keys]
    return {(key.split("/")[1], f"tcp:{address}") for key, address in updates}


async def measure_client(url: str, options: argparse.Namespace) -> dict[str, float]:
    """Follow one service, as `mesh.connect(..., discovery=...)` does."""
    config, states = DiscoveryConfig(etcd=[url], zone="z"), []
    before, cpu = resident(), time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_service, config, "plugin.s0", states.append)
        while not states:  # noqa: ASYNC110
            await trio.sleep(0.01)
        memory = resident() - before
        await run_changes(url, options)
        nursery.cancel_scope.cancel()
    used = (time.process_time() - cpu) / options.seconds * 100
    return {"memory, MiB": memory / 2**20, "CPU, % of a core": used, "states": len(states)}


async def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    with run_etcd() as etcd:
        (url,) = etcd.endpoints
        async with open_client([url]) as client:
            await put_all(client, options)
        return {
            "a client of one service": await measure_client(url, options),
            "one mesh": await measure_followers(url, 1, options),
            f"{options.followers} meshes": await measure_followers(url, options.followers, options),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--endpoints", type=int, default=10_000)
    parser.add_argument("--services", type=int, default=500)
    parser.add_argument("--changes", type=float, default=200.0, help="each second")
    parser.add_argument("--followers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write-to", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_to:
        trio.run(change_keys, options.write_to, options)
        return
    figures = trio.run(measure, options)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for case, values in figures.items():
        print(f"\n{case}\n" + "\n".join(f"    {name}: {v:,.2f}" for name, v in values.items()))


if __name__ == "__main__":
    main()
