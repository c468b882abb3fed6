"""meshtrio with its metrics, as a server or a client: `python -m tests.interop.metrics.peer
serve|call SOCKET`.

Once it serves or has a channel it says "ready". Then it answers each line of its input by a line of
JSON: "metrics" by all there is, as families and as Prometheus' text, and, if it is a client, the
name of a case by the status that its caller saw. It ends with its input. The other implementations
do the same: go_metrics/ and `grpcio_peer`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import purerpc
import trio
from prometheus_client import generate_latest

from meshtrio.client.channel import connect_to
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.rpc.server import Server
from meshtrio.telemetry.metric_families import Distribution, MetricFamily, MetricPoint
from meshtrio.telemetry.metrics import Metrics
from meshtrio.telemetry.metrics.prometheus import PrometheusCollector
from meshtrio.transport.listener import unix_listener
from meshtrio.util.concurrency import background_service
from tests.interop.metrics.calls import CALLS, Channels
from tests.interop.metrics.constants import CASE_RETRY_CONFIG, UNREACHABLE_TARGET
from tests.interop.server import TestService

Perform = Callable[[str], Awaitable[str]]


class Service(TestService):
    """The interop service; metadata selects its behaviour, see `constants`."""

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()

    async def UnaryCall(self, message: Any, request: Any) -> Any:
        asked = dict(request.custom_metadata)
        if asked.get("do") == "wait":
            await trio.sleep_forever()
        if asked.get("do") == "break":
            raise ValueError("a bug")
        self._times[asked.get("key", "")] += 1
        if self._times[asked.get("key", "")] <= int(asked.get("fail-times", 0)):
            raise purerpc.UnavailableError("not now")
        return await super().UnaryCall(message, request)

    async def FullDuplexCall(
        self, messages: AsyncIterator[Any], request: Any
    ) -> AsyncIterator[Any]:
        async def living() -> AsyncIterator[Any]:
            async for message in messages:
                if message.response_status.message == "die":
                    os._exit(3)
                yield message

        async for reply in super().FullDuplexCall(living(), request):
            yield reply


# -- telling -----------------------------------------------------------------------------------


def read_families(metrics: Metrics) -> dict[str, Any]:
    # The only metrics of this program are those of its calls.
    return {
        "families": [_family(each) for each in metrics.collect()],
        "prometheus": generate_latest(PrometheusCollector(metrics.collect)).decode(),
    }


def _family(family: MetricFamily) -> dict[str, Any]:
    return {
        "name": family.name,
        "unit": family.unit,
        "kind": family.kind.value,
        "bounds": _bounds(family),
        "points": [_point(each) for each in family.points],
    }


def _bounds(family: MetricFamily) -> list[float]:
    values = [point.value for point in family.points]
    return next((list(value.bounds) for value in values if isinstance(value, Distribution)), [])


def _point(point: MetricPoint) -> dict[str, Any]:
    labels = dict(point.labels)
    if isinstance(point.value, Distribution):
        return {"labels": labels, "counts": list(point.value.counts), "sum": point.value.sum}
    return {"labels": labels, "counts": [], "sum": point.value}


# -- serving and calling -----------------------------------------------------------------------


@asynccontextmanager
async def served(socket: str) -> AsyncIterator[Perform]:
    async def perform(name: str) -> str:
        return "a server makes no calls"

    with unix_listener(socket) as listener:
        async with background_service(Server(Service()).serve, listener):
            yield perform


@asynccontextmanager
async def caller(socket: str) -> AsyncIterator[Perform]:
    retries = parse_service_config(CASE_RETRY_CONFIG)
    async with (
        connect_to(f"unix:{socket}", service_config=retries) as server,
        connect_to(f"tcp:{UNREACHABLE_TARGET}") as nobody,
        connect_to(f"tcp:{UNREACHABLE_TARGET}", service_config=retries) as nobody_retried,
    ):
        channels = Channels(server, nobody, nobody_retried)

        async def perform(name: str) -> str:
            try:
                await CALLS[name](channels)
            except purerpc.RpcFailedError as exc:
                return str(exc.status.status_code.name)
            return "OK"

        yield perform


async def main(role: str, socket: str) -> None:
    metrics = Metrics()
    with metrics.install():
        async with served(socket) if role == "serve" else caller(socket) as perform:
            print('"ready"', flush=True)
            async for line in trio.wrap_file(sys.stdin):
                command = line.strip()
                answer = read_families(metrics) if command == "metrics" else await perform(command)
                print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    trio.run(main, *sys.argv[1:3])
