"""Servicers whose calls fail as configured, and retry and hedging policies for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import purerpc
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import Channel, open_channel
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import CallbackServicer, echo_reply
from tests.support.servers import FakeResolver, serve_on_socket, unix_endpoint

RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.02s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


HEDGING_POLICY = {"maxAttempts": 3, "hedgingDelay": "0.05s", "nonFatalStatusCodes": ["UNAVAILABLE"]}


def make_method_config(**values: Any) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{}], **values}]}


@attrs.define
class FailingHandlers:
    """Handlers that fail with the given errors, then reply; record the metadata of attempts."""

    failures: list[Exception] = attrs.field(factory=list)
    pushback: str | None = None
    received_metadata: list[dict[str, Any]] = attrs.field(factory=list)
    received_at: list[float] = attrs.field(factory=list)

    async def echo(self, message: EchoRequest, request: Any) -> EchoReply:
        self.received_metadata.append(dict(request.custom_metadata))
        self.received_at.append(trio.current_time())
        if self.failures:
            if self.pushback is not None:
                request.trailing_metadata = [("grpc-retry-pushback-ms", self.pushback)]
            raise self.failures.pop(0)
        return EchoReply(message=message.message)

    async def repeat(self, message: RepeatRequest, request: Any) -> AsyncIterator[EchoReply]:
        self.received_metadata.append(dict(request.custom_metadata))
        yielding = message.count
        for number in range(yielding):
            if self.failures and number == yielding - 1:
                raise self.failures.pop(0)
            yield EchoReply(message=str(number))

    @property
    def previous(self) -> list[str | None]:
        """Return the `grpc-previous-rpc-attempts` of each attempt."""
        return [metadata.get("grpc-previous-rpc-attempts") for metadata in self.received_metadata]


def unavailable_errors(count: int) -> list[Exception]:
    return [purerpc.UnavailableError("not now") for _ in range(count)]


@asynccontextmanager
async def connect_to_servicers(
    folder: Path, config: dict[str, Any], *servicers: CallbackServicer
) -> AsyncIterator[Channel]:
    """A channel to one server for each servicer."""
    paths = [folder / chr(ord("a") + number) for number in range(len(servicers))]
    async with AsyncExitStack() as stack:
        for path, servicer in zip(paths, servicers, strict=True):
            await stack.enter_async_context(serve_on_socket(path, Server(servicer)))
        feed = FakeResolver()
        feed.set(*map(unix_endpoint, paths))
        channel = await stack.enter_async_context(
            open_channel("x", feed, service_config=parse_service_config(config))
        )
        await trio.testing.wait_all_tasks_blocked(0.01)
        yield channel


def make_failing_servicer(found: FailingHandlers) -> CallbackServicer:
    return CallbackServicer(Echo=found.echo, Repeat=found.repeat)


OUTLIER_DETECTION_CONFIG = {
    "loadBalancingConfig": [
        {
            "outlier_detection_experimental": {
                "consecutiveFailures": 3,
                "maxEjectionPercent": 50,
                "baseEjectionTime": "0.2s",
                "interval": "0.1s",
                "childPolicy": [{"round_robin": {}}],
            }
        }
    ]
}


def make_servicer_failing_with(failures: Iterator[Exception | None]) -> CallbackServicer:
    async def echo(message: EchoRequest) -> EchoReply:
        failure = next(failures)
        if failure is not None:
            raise failure
        return echo_reply("at last")

    return CallbackServicer(Echo=echo)
