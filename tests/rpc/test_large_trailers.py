"""Response headers and trailers stay within the client's header list limit, with the status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import purerpc
import pytest
from echo.v1.echo_pb2 import EchoReply

from meshtrio.grpc.header_builder import build_trailers
from meshtrio.http2.limits import Limits
from tests.support.connection_pairs import (
    CallbackServicer,
    ConnectionPair,
    connect_pair,
    echo_reply,
    echo_request,
)
from tests.support.handlers import repeat_request

SMALL = Limits(max_header_list_size=2048)


def make_failing_servicer(message: str, **attributes: Any) -> CallbackServicer:
    """A servicer that fails with a message, with attributes of the call set before."""

    async def echo(_: Any, request: Any) -> EchoReply:
        for name, value in attributes.items():
            setattr(request, name, value)
        raise purerpc.NotFoundError(message)

    async def repeat(_: Any, request: Any) -> AsyncIterator[EchoReply]:
        yield echo_reply("first")
        await echo(_, request)

    return CallbackServicer(Echo=echo, Repeat=repeat)


async def assert_unharmed(pair: ConnectionPair) -> None:
    await pair.wait_until_idle()
    assert pair.client.is_usable
    assert pair.server.statistics().streams.failed == 0
    pair.assert_nothing_left()


@pytest.mark.parametrize("length", [100, 1900, 2100, 40_000, 1_000_000])
@pytest.mark.parametrize("character", ["x", "é", "\n"])
async def test_a_message_is_cut_to_what_the_client_accepts(length: int, character: str) -> None:
    text = character * length
    async with connect_pair(make_failing_servicer(text), client_limits=SMALL) as pair:
        with pytest.raises(purerpc.NotFoundError) as caught:
            await pair.stub.Echo(echo_request(""))
        received = caught.value.status.status_message
        assert received == text or (received[-1] == "…" and text.startswith(received[:-1]))
        with pytest.raises(purerpc.NotFoundError):
            async for _ in pair.stub.Repeat(repeat_request(1)):
                pass
        await assert_unharmed(pair)


@pytest.mark.parametrize("attribute", ["initial_metadata", "trailing_metadata", "status_details"])
async def test_metadata_of_a_failure_that_is_too_much(attribute: str) -> None:
    value = bytes(2000) if attribute == "status_details" else [("large", "v" * 2000)]
    async with connect_pair(
        make_failing_servicer("no", **{attribute: value}), client_limits=SMALL
    ) as pair:
        with pytest.raises(purerpc.ResourceExhaustedError, match="response's header list of"):
            await pair.stub.Echo(echo_request(""))
        await assert_unharmed(pair)


@pytest.mark.parametrize("attribute", ["initial_metadata", "trailing_metadata"])
async def test_metadata_of_a_success_that_is_too_much(attribute: str) -> None:
    async def echo(_: Any, request: Any) -> EchoReply:
        setattr(request, attribute, [("large", "v" * 2000)])
        return echo_reply("done")

    async def repeat(_: Any, request: Any) -> AsyncIterator[EchoReply]:
        yield await echo(_, request)

    async with connect_pair(
        CallbackServicer(Echo=echo, Repeat=repeat), client_limits=SMALL
    ) as pair:
        with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 2048 bytes"):
            await pair.stub.Echo(echo_request(""))
        with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 2048 bytes"):
            async for _ in pair.stub.Repeat(repeat_request(1)):
                pass
        await assert_unharmed(pair)


async def test_the_servers_own_limit_holds_where_the_client_has_none() -> None:
    server = Limits(max_send_header_list_size=3000)
    client = Limits(max_header_list_size=100_000)
    value = [("large", "v" * 5000)]
    async with connect_pair(
        make_failing_servicer("no", trailing_metadata=value),
        server_limits=server,
        client_limits=client,
    ) as pair:
        with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 3000 bytes"):
            await pair.stub.Echo(echo_request(""))
        await assert_unharmed(pair)


@pytest.mark.parametrize("room", range(0, 400, 7))
def test_a_message_gets_the_room_that_the_rest_leaves(room: int) -> None:
    rest = build_trailers(5, "", b"details", [(b"key", b"value")])
    block = build_trailers(5, "é" * 200, b"details", [(b"key", b"value")], max_size=room)
    assert block.list_size == rest.list_size or block.list_size <= room
