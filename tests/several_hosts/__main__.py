"""Three meshes and an etcd of three members on hosts of their own, with faults of all of them.

    python -m tests.several_hosts [--seconds 600] [--seed N] [--only KIND] [--keep FOLDER]

The hosts are network namespaces; everything speaks mutual TLS. Clients on each host call the plugin
of all three. Of calls that may be retried none may fail, of the others none may be executed twice,
and when the faults are over every mesh has to know the truth within the TTL and a second.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import trio

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.remote_mesh import resolve_remote_service
from meshtrio.util.errors import MeshtrioError
from tests.several_hosts.faults import Faults
from tests.several_hosts.node_host import INSTANCES, TTL, NodeHost
from tests.support.certificates import Authority
from tests.support.mesh_processes import wait_until
from tests.support.network_namespaces import make_network

MAX_SETTLE_TIME = TTL + 1.0
"""Seconds after the last fault until all views are the truth."""
HOSTS = 3


def log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def is_truth(hosts: list[NodeHost]) -> bool:
    """Whether each mesh knows its own instances, and one gateway of each other node."""

    async def read_view(host: NodeHost) -> tuple[int, dict[str, int]]:
        async with connect_to_mesh(host.mesh_socket) as channel:
            state = await resolve_remote_service(channel, "plugin.echo")
        others = {each.node: each.weight for each in state.endpoints if each.node}
        return sum(not each.node for each in state.endpoints), others

    async def read_all() -> bool:
        for host in hosts:
            others = {each.name: INSTANCES for each in hosts if each is not host}
            with trio.fail_after(5):
                if await read_view(host) != (INSTANCES, others):
                    return False
        return True

    try:
        return trio.run(read_all)
    except (MeshtrioError, trio.TooSlowError, Exception):
        return False


def find_problems(hosts: list[NodeHost], settled_after: float) -> list[str]:
    problems = []
    if settled_after > MAX_SETTLE_TIME:
        text = f"views were the truth after {settled_after:.1f} s, not {MAX_SETTLE_TIME:g} s"
        problems.append(text)
    executions: Counter[str] = Counter()
    for host in hosts:
        _, failures = host.read_client()
        problems += [f"lost: {each}" for each in failures if each["call"].startswith("Echo")]
        executions.update(host.counted.read_text().splitlines())
    repeated = [call for call, count in executions.items() if count > 1 and call[:4] == "Slow"]
    problems += [f"executed {executions[call]} times: {call}" for call in repeated]
    return problems


def run(folder: Path, seconds: float, random: Random, only: str | None) -> list[str]:
    with make_network(HOSTS) as network:
        authority = Authority(folder / "certificates")
        hosts = [
            NodeHost(number, host, list(network.hosts), folder, authority)
            for number, host in enumerate(network.hosts)
        ]
        try:
            for host in hosts:
                host.start_etcd()
                host.start_mesh()
            wait_until(lambda: is_truth(hosts), timeout=120)
            for host in hosts:
                host.start_client()
                wait_until(lambda host=host: "calling" in host.read_log("client"))
            faults = Faults(network, hosts, random)
            apply_faults(faults, seconds, random, only)
            ended = time.monotonic()
            wait_until(lambda: is_truth(hosts), timeout=120)
            settled_after = time.monotonic() - ended
            for host in hosts:
                host.end("client", 15)
                log(f"{host.name}: {host.read_client()[0]}")
            log(f"all views were the truth {settled_after:.1f} s after the last fault")
            return find_problems(hosts, settled_after)
        finally:
            for host in hosts:
                host.close()


def apply_faults(faults: Faults, seconds: float, random: Random, only: str | None) -> None:
    end, kinds = time.monotonic() + seconds, []
    while time.monotonic() < end:
        if not kinds:  # Each once, in another order each time.
            kinds = [only] if only else random.sample(sorted(faults.kinds), len(faults.kinds))
        kind = kinds.pop()
        log(kind)
        faults.apply(kind)
        time.sleep(random.uniform(0.0, 2.0))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", help="a kind of fault")
    parser.add_argument("--keep", type=Path, help="copy logs there")
    options = parser.parse_args()
    seed = Random().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        try:
            problems = run(Path(name), options.seconds, Random(seed), options.only)
        finally:
            if options.keep is not None:
                shutil.copytree(name, options.keep, ignore=shutil.ignore_patterns("*.sock", "run"))
    print("\n".join(problems[:50]) or "no call was lost, none executed twice")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
