"""What is there for many calls is of nobody's: it has nothing of the call that needed it first."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import connect_to, open_channel
from meshtrio.discovery.endpoint import ServiceState
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.messages import health as messages
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.servers import serve_on_socket, unix_endpoint

WATCHED = parse_service_config({"healthCheckConfig": {"serviceName": "echo.v1.EchoService"}})
TRACE = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
whose: ContextVar[str] = ContextVar("whose", default="nobody's")


class RecordingHealthService:
    """A health service that records the metadata of its calls."""

    def __init__(self) -> None:
        self.metadata: list[Any] = []
        self.service = service_from_descriptor(messages.DESCRIPTOR.services_by_name["Health"], self)

    async def Check(self, message: Any) -> Any:
        raise NotImplementedError

    async def Watch(self, message: Any, request: Any) -> Any:
        self.metadata.append(request.custom_metadata)
        yield messages.HealthCheckResponse(status=messages.HealthCheckResponse.SERVING)
        await trio.sleep_forever()


async def test_a_feed_and_a_watch_of_health_have_nothing_of_a_call(short_dir: Path) -> None:
    behind, health, feeds = short_dir / "b", RecordingHealthService(), []

    async def feed(update: Callable[[ServiceState], None]) -> None:
        feeds.append(whose.get())
        update(state)
        await trio.sleep_forever()

    async def passing_on(message: EchoRequest) -> EchoReply:
        whose.set("a call's")
        # The first state is known at once, as it is where a mesh was asked.
        async with open_channel("b", feed, initial_state=state, service_config=WATCHED) as channel:
            reply: EchoReply = await channel.stub(EchoServiceStub).Echo(message)
            return reply

    async def told(message: EchoRequest, request: Any) -> EchoReply:
        return EchoReply(message=dict(request.custom_metadata).get("traceparent", ""))

    state = ServiceState((unix_endpoint(behind),))
    async with (
        serve_on_socket(behind, Server(CallbackServicer(Echo=told), health)),
        serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=passing_on))),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        reply = await channel.stub(EchoServiceStub).Echo(echo_request("?"), metadata=[TRACE])
    assert reply.message == TRACE[1]
    assert feeds == ["nobody's"]
    assert health.metadata == [()]
