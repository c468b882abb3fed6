"""What an idle connection and an open stream cost a server: `python -m tests.benchmarks.memory`.

The server's resident memory is read before and after a client process holds them; the figure is
the growth for each, in KB (1,024 bytes).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio
from echo.v1 import echo_pb2 as pb
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.client.channel import connect_to
from meshtrio.http2.limits import Limits
from tests.benchmarks.peers import PEERS
from tests.benchmarks.peers.base import SERVICE, SMALL
from tests.benchmarks.processes import start_server

CONNECTIONS = 500
STREAMS = 1000
HELD = pb.SlowRequest(seconds=600)
KINDS = {"idle connection": (CONNECTIONS, 0), "open stream": (1, STREAMS)}


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def say_ready() -> None:
    print("ready", flush=True)


async def hold_meshtrio(peer: Any, address: str, connections: int, streams: int) -> None:
    async with contextlib.AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for number in range(connections):
            # Channels that are alike would share one connection.
            limits = Limits(max_send_message_size=1_000_000 + number)
            channel = await stack.enter_async_context(connect_to(f"unix:{address}", limits=limits))
            stub = channel.stub(EchoServiceStub)
            await stub.Echo(SMALL)
        for _ in range(streams):
            nursery.start_soon(stub.Slow, HELD)
        await trio.testing.wait_all_tasks_blocked(0.5)
        say_ready()
        await trio.sleep_forever()


async def hold_grpc_aio(peer: Any, address: str, connections: int, streams: int) -> None:
    import grpc

    channels = []
    for _ in range(connections):
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.insecure_channel(f"unix:{address}", options=options)
        echo = channel.unary_unary(
            SERVICE + "Echo", pb.EchoRequest.SerializeToString, pb.EchoReply.FromString
        )
        await echo(SMALL)
        channels.append(channel)
    slow = channels[-1].unary_unary(
        SERVICE + "Slow", pb.SlowRequest.SerializeToString, pb.EchoReply.FromString
    )
    calls = [asyncio.ensure_future(slow(HELD)) for _ in range(streams)]
    await asyncio.sleep(2)
    say_ready()
    await asyncio.gather(asyncio.Event().wait(), *calls)


async def hold_grpclib(peer: Any, address: str, connections: int, streams: int) -> None:
    from grpclib.client import UnaryUnaryMethod

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(connections):
            channel = await stack.enter_async_context(peer.channel(address))
            await UnaryUnaryMethod(channel, SERVICE + "Echo", pb.EchoRequest, pb.EchoReply)(SMALL)
        slow = UnaryUnaryMethod(channel, SERVICE + "Slow", pb.SlowRequest, pb.EchoReply)
        calls = [asyncio.ensure_future(slow(HELD)) for _ in range(streams)]
        await asyncio.sleep(2)
        say_ready()
        await asyncio.gather(asyncio.Event().wait(), *calls)


HOLDERS: dict[str, Any] = {
    "meshtrio": hold_meshtrio,
    "grpc.aio": hold_grpc_aio,
    "grpclib": hold_grpclib,
}


def measure(name: str, kind: str) -> float:
    """KB for each, in a server that was started for this."""
    connections, streams = KINDS[kind]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        with start_server(name, Path(folder)) as server:
            before = resident(server.pid)
            command = [sys.executable, "-m", "tests.benchmarks.memory", "--hold", name]
            with subprocess.Popen(
                [*command, server.address, str(connections), str(streams)],
                stdout=subprocess.PIPE,
                text=True,
            ) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == "ready\n"
                grown = resident(server.pid) - before
                client.kill()
    return grown / max(streams, connections) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hold", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        name, address, connections, streams = options.hold
        case = HOLDERS[name]
        PEERS[name].run(case, PEERS[name], address, int(connections), int(streams))
        return
    results = {kind: {name: measure(name, kind) for name in HOLDERS} for kind in KINDS}
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print("| of the server | " + " | ".join(HOLDERS) + " |")
    print("| --- |" + " ---: |" * len(HOLDERS))
    for kind, by_name in results.items():
        print(f"| {kind} | " + " | ".join(f"{kb:.1f} KB" for kb in by_name.values()) + " |")


if __name__ == "__main__":
    import trio.testing

    main()
