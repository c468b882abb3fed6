"""Options that all functions which open a channel take."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import purerpc
import pytest
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio import mesh
from meshtrio.client.channel import Channel, connect_to
from meshtrio.errors import ConfigError
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.http2.limits import Limits
from meshtrio.rpc.channelz_registry import CHANNELS
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.in_process_mesh import run_mesh
from tests.support.servers import serve_on_socket

LARGE = "v" * 40_000
ROUND_ROBIN = {"loadBalancingConfig": [{"round_robin": {}}]}
Open = Callable[..., AbstractAsyncContextManager[Channel]]


async def reply_with_large_metadata(message: EchoRequest, request: Any) -> EchoReply:
    request.initial_metadata = [("large", LARGE)]
    return echo_reply(message.message)


@pytest.fixture(params=["Mesh.connect", "mesh.connect", "connect_to"])
async def open_channel(request: pytest.FixtureRequest, short_dir: Path) -> AsyncIterator[Open]:
    """A function that opens a channel to a server whose replies have large metadata."""
    address = f"unix:{short_dir / 's'}"
    table = f'[[service]]\nname = "x"\nendpoints = ["{address}"]\n'
    server = Server(CallbackServicer(Echo=reply_with_large_metadata))
    async with (
        serve_on_socket(short_dir / "s", server),
        run_mesh(table, short_dir) as running,
    ):
        yield {
            "Mesh.connect": partial(running.mesh.connect, "x"),
            "mesh.connect": partial(mesh.connect, "x", mesh_socket=running.mesh.socket),
            "connect_to": partial(connect_to, address),
        }[request.param]


async def test_a_service_config_is_a_mapping_or_parsed(open_channel: Open) -> None:
    parsed = parse_service_config(ROUND_ROBIN)
    async with open_channel(service_config=ROUND_ROBIN) as channel:
        assert channel.service_config == parsed
    async with open_channel(service_config=parsed) as channel:
        assert channel.service_config is parsed


async def test_a_malformed_service_config_is_an_error(open_channel: Open) -> None:
    with pytest.raises(ConfigError, match=r"service config\.retryPolicies: is not a key"):
        async with open_channel(service_config={"retryPolicies": []}):
            pass


async def test_a_rejected_service_config_leaves_no_channel_in_channelz() -> None:
    with pytest.raises(ConfigError) as caught:
        async with connect_to("unix:/rejected", service_config={"retryPolicies": []}):
            pass
    # Nor while the error's traceback keeps alive what was made.
    assert caught.tb is not None
    assert "unix:/rejected" not in [each.name for each in CHANNELS.iter_from(0)]


async def test_limits_are_those_of_the_channels_connections(open_channel: Open) -> None:
    async with open_channel() as channel:
        with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 32768 bytes"):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    async with open_channel(limits=Limits(max_header_list_size=64_000)) as channel:
        _, metadata = await channel.stub(EchoServiceStub).Echo.with_call(echo_request("hi"))
        assert metadata.initial_metadata == (("large", LARGE),)
