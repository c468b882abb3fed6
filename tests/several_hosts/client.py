"""Calls `plugin.echo` beside a mesh, without an end: `client.py MESH_SOCKET NAME`.

Half of the calls may be retried, and none of those may fail. The others, of another method, may not
be retried. Writes a line of JSON for each failure, and the counts when it gets SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path

import purerpc
import trio

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio import mesh

TASKS = 3
DEADLINE = 60.0
"""Seconds for a call: more than any fault lasts."""
SERVICE = "echo.v1.EchoService"
RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.3s",
    "maxBackoff": "10s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE, "method": "Echo"}],
            "waitForReady": True,
            "retryPolicy": RETRY_POLICY,
        }
    ]
}


async def call_on(channel: mesh.Channel, method: str, name: str, counts: Counter[str]) -> None:
    stub, number = channel.stub(EchoServiceStub), 0
    request_type = EchoRequest if method == "Echo" else SlowRequest
    while True:
        number += 1
        token = f"{method}-{name}-{number}"
        try:
            with trio.fail_after(DEADLINE):
                reply = await getattr(stub, method)(request_type(message=token))
            assert reply.message == token
            counts[f"{method} answered"] += 1
        except (purerpc.RpcFailedError, trio.TooSlowError) as exc:
            counts[f"{method} failed"] += 1
            print(json.dumps({"call": token, "error": repr(exc)}), flush=True)
        await trio.sleep(0.005)


async def main() -> None:
    mesh_socket, name = sys.argv[1:]
    counts: Counter[str] = Counter()
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with (
            mesh.connect("plugin.echo", mesh_socket=mesh_socket, service_config=CONFIG) as channel,
            trio.open_nursery() as nursery,
        ):
            for task in range(TASKS):
                for method in ("Echo", "Slow"):
                    nursery.start_soon(call_on, channel, method, f"{name}-{task}", counts)
            print("calling", flush=True)
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    trio.run(main)
