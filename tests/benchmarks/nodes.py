"""Calls to a plugin of another node, straight and through its gateway, beside a local one.

    python -m tests.benchmarks.nodes [--rounds 5] [--seconds 1] [--json]

Two hosts are network namespaces with a mesh each, one etcd, and mutual TLS everywhere. The same
echo plugin runs on the client's host, and on the other one with and without an address of its own.
The last case is a client without a mesh on its host: from `mesh.connect` to the first reply, the
start of the interpreter and imports excepted. Cases take turns within each round; figures are
medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import trio

from tests.several_hosts.node_host import ETCD_PORT, NodeHost
from tests.support.certificates import Authority
from tests.support.mesh_processes import echo_plugin_table, wait_until
from tests.support.network_namespaces import make_network

PORT = 7500
SERVICES = {
    "local, Unix socket": "plugin.local",
    "other node, straight": "plugin.straight",
    "other node, by its gateway": "plugin.behind",
}


async def measure(mesh_socket: str, url: str, seconds: float) -> dict[str, float]:
    """Measure one round: the client's process, on its host."""
    from echo.v1.echo_grpc import EchoServiceStub
    from echo.v1.echo_pb2 import EchoRequest

    from meshtrio import mesh

    found = {}
    for name, service in SERVICES.items():
        async with mesh.connect(service, mesh_socket=mesh_socket) as channel:
            stub, count = channel.stub(EchoServiceStub), 0
            await stub.Echo(EchoRequest(message="warm"))
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                await stub.Echo(EchoRequest(message="x" * 50))
                count += 1
            found[f"{name}, us"] = (time.perf_counter() - began) / count * 1e6
    for name in ("plugin.straight", "plugin.behind"):
        began = time.perf_counter()
        async with mesh.connect(name, discovery=url) as channel:
            await channel.stub(EchoServiceStub).Echo(EchoRequest(message="first"))
            found[f"connect without a mesh to {name}, ms"] = (time.perf_counter() - began) * 1e3
        began = time.perf_counter()
        async with mesh.connect(name, mesh_socket=mesh_socket) as channel:
            await channel.stub(EchoServiceStub).Echo(EchoRequest(message="first"))
            found[f"connect with a mesh to {name}, ms"] = (time.perf_counter() - began) * 1e3
    return found


def make_url(host: NodeHost, member: str) -> str:
    files = host.certificate
    tls = [
        f"{prefix}{key}={path}"
        for prefix in ("", "peer_")
        for key, path in files.client_table.items()
    ]
    return f"etcds://{member}:{ETCD_PORT}/meshtrio?{'&'.join(tls)}"


def run(rounds: int, seconds: float) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="mt-") as name, make_network(2) as network:
        folder, (near, far) = Path(name), network.hosts
        authority = Authority(folder / "certificates")
        # The plugin has a certificate of its own for the address that it listens on.
        plugin = authority.issue("plugin", far.address)
        straight = echo_plugin_table(
            "straight",
            listen=f"tcp://{far.address}:{PORT}",
            tls=plugin.client_table,
            serve_tls=plugin.server_table,
        )
        tables = echo_plugin_table("local"), echo_plugin_table("behind") + straight
        hosts = [
            NodeHost(number, host, [far], folder, authority, table)
            for number, (host, table) in enumerate(zip((near, far), tables, strict=True))
        ]
        hosts[1].name = "host-0"  # the only member of etcd
        try:
            hosts[1].start_etcd()
            for host in hosts:
                host.start_mesh()
            hosts[0].wait_ready(1)
            hosts[1].wait_ready(2)
            url = make_url(hosts[0], far.address)
            words = [str(hosts[0].mesh_socket), url, str(seconds)]
            wait_until(lambda: "node host-1 has joined" in hosts[0].read_log("mesh"))
            for number in range(rounds):
                if sys.stderr.isatty():
                    print(f"round {number + 1}/{rounds}", end="\r", file=sys.stderr)
                process = near.start(
                    "-m", __spec__.name, "--in-host", *words, stdout=subprocess.PIPE
                )
                assert process.stdout is not None
                for case, value in json.loads(process.stdout.read()).items():
                    found[case].append(value)
                process.wait()
        finally:
            for host in hosts:
                host.close()
    return {case: statistics.median(values) for case, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of calls in each case")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--in-host", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_host:
        mesh_socket, url, seconds = options.in_host
        print(json.dumps(trio.run(measure, mesh_socket, url, float(seconds))))
        return
    figures = run(options.rounds, options.seconds)
    text = "\n".join(f"{case}: {value:,.1f}" for case, value in figures.items())
    print(json.dumps(figures, indent=2) if options.json else text)


if __name__ == "__main__":
    main()
