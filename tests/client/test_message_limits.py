"""Limits of messages belong to calls: channels that share a connection each keep their own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import Channel, connect_to
from meshtrio.grpc.service_config import MethodConfig, parse_service_config
from meshtrio.http2.limits import Limits
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import (
    CallbackServicer,
    connect_pair,
    echo_request,
    echo_requests,
)
from tests.support.servers import serve_on_socket

MIB = 1024 * 1024
LARGE = 20 * MIB


async def echo(message: EchoRequest, request: Any) -> EchoReply:
    request.compression = "gzip" if message.message.startswith("gzip") else "identity"
    return EchoReply(message=message.message)


async def repeat(message: RepeatRequest) -> AsyncIterator[EchoReply]:
    for number in range(message.count):
        yield EchoReply(message=message.message if number else "first")


async def join(messages: Any) -> EchoReply:
    return EchoReply(message=" ".join([each.message async for each in messages]))


async def chat(messages: Any) -> AsyncIterator[EchoReply]:
    async for each in messages:
        yield EchoReply(message=each.message)


def server(limits: Limits | None = None) -> Server:
    return Server(CallbackServicer(Echo=echo, Repeat=repeat, Join=join, Chat=chat), limits=limits)


GENEROUS = Limits(max_message_size=64 * MIB)


async def large_calls(channel: Channel) -> None:
    """A message of 20 MiB each way, in every kind of call."""
    stub = channel.stub(EchoServiceStub)
    text = "x" * LARGE
    assert len((await stub.Echo(echo_request(text))).message) == LARGE
    assert (
        len((await stub.Echo(echo_request("gzip" + text), compression="gzip")).message) == LARGE + 4
    )
    found = [reply.message async for reply in stub.Repeat(RepeatRequest(message=text, count=2))]
    assert [len(each) for each in found] == [5, LARGE]
    assert len((await stub.Join(echo_requests(text, "y"))).message) == LARGE + 2
    async with stub.Chat() as call:
        for size in (LARGE, 1, LARGE):
            await call.send_message(echo_request("x" * size))
            assert len((await call.receive_message()).message) == size


@pytest.mark.parametrize("length", [LARGE + 100, -1])
async def test_a_channel_may_receive_large_messages(length: int, short_dir: Path) -> None:
    address = f"unix:{short_dir / 's'}"
    async with (
        serve_on_socket(short_dir / "s", server(GENEROUS)) as serves,
        connect_to(address, max_receive_message_length=length) as large,
        connect_to(address) as small,
    ):
        await large_calls(large)
        stub = small.stub(EchoServiceStub)
        with pytest.raises(purerpc.ResourceExhaustedError, match="client's limit of 4194304 bytes"):
            await stub.Echo(echo_request("x" * LARGE))
        with pytest.raises(purerpc.ResourceExhaustedError, match="max_receive_message_length of"):
            await stub.Echo(echo_request("gzip" + "x" * LARGE))
        call = stub.Repeat(RepeatRequest(message="x" * LARGE, count=2))
        assert (await call.receive_message()).message == "first"
        with pytest.raises(purerpc.ResourceExhaustedError, match="received a message of 209715"):
            await call.receive_message()
        await large_calls(large)
        assert len(serves.connections) == 1


async def test_a_message_over_the_limit_costs_no_other_call_of_the_connection(
    short_dir: Path,
) -> None:
    address = f"unix:{short_dir / 's'}"
    async with (
        serve_on_socket(short_dir / "s", server(GENEROUS)) as serves,
        connect_to(address, max_receive_message_length=100) as small,
        connect_to(address) as other,
        other.stub(EchoServiceStub).Chat() as bystander,
    ):
        stub = small.stub(EchoServiceStub)
        for _ in range(20):
            with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 100 bytes"):
                await stub.Echo(echo_request("x" * 100_000))
            await bystander.send_message(echo_request("well"))
            assert (await bystander.receive_message()).message == "well"
        assert len(serves.connections) == 1


async def test_a_channel_may_send_only_so_much(short_dir: Path) -> None:
    address = f"unix:{short_dir / 's'}"
    async with (
        serve_on_socket(short_dir / "s", server()),
        connect_to(address, max_send_message_length=100) as channel,
    ):
        stub = channel.stub(EchoServiceStub)
        expected = (
            "102 bytes is over the client's limit of 100 bytes to send; raise it with max_send"
        )
        with pytest.raises(purerpc.ResourceExhaustedError, match=expected):
            await stub.Echo(echo_request("x" * 100))
        with pytest.raises(purerpc.ResourceExhaustedError, match=expected):
            # Compressed it would be far below.
            await stub.Echo(echo_request("x" * 100), compression="gzip")
        with pytest.raises(purerpc.ResourceExhaustedError, match="over the client's limit of 100"):
            await stub.Join(echo_requests("x", "x" * 200))
        call = stub.Repeat(RepeatRequest(message="x" * 200, count=1))
        with pytest.raises(purerpc.ResourceExhaustedError, match="over the client's limit of 100"):
            await call.receive_message()
        assert (await stub.Echo(echo_request("x"))).message == "x"


@pytest.mark.parametrize("limits", [Limits(), Limits(max_message_size=8 * MIB)])
async def test_a_server_says_that_the_limit_is_its_own(limits: Limits, short_dir: Path) -> None:
    address = f"unix:{short_dir / 's'}"
    expected = rf"server's limit of {limits.max_message_size} bytes; raise it with .*\[\[plugin\]\]"
    async with (
        serve_on_socket(short_dir / "s", server(limits)),
        connect_to(address, max_receive_message_length=-1) as channel,
    ):
        stub = channel.stub(EchoServiceStub)
        with pytest.raises(purerpc.ResourceExhaustedError, match=expected):
            await stub.Echo(echo_request("x" * LARGE))
        with pytest.raises(purerpc.ResourceExhaustedError, match=r"more than .* server's limit"):
            await stub.Echo(echo_request("x" * LARGE), compression="gzip")
        with pytest.raises(purerpc.ResourceExhaustedError, match=expected):
            await stub.Join(echo_requests("x", "x" * LARGE))
        assert (await stub.Echo(echo_request("x"))).message == "x"


async def test_a_reply_that_a_server_may_not_send_is_told_as_its_limit(short_dir: Path) -> None:
    async with (
        serve_on_socket(short_dir / "s", server(Limits(max_send_message_size=100))),
        connect_to(f"unix:{short_dir / 's'}") as channel,
    ):
        with pytest.raises(
            purerpc.ResourceExhaustedError,
            match=r"the server's limit of 100 bytes to send; .* max_send_message_length of its",
        ):
            await channel.stub(EchoServiceStub).Echo(echo_request("x" * 200))


def config(**values: Any) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{}], **values}]}


@pytest.mark.parametrize(
    ("application", "configured", "allowed"),
    [(None, 6 * MIB, 6), (8 * MIB, 6 * MIB, 6), (6 * MIB, 8 * MIB, 6), (-1, 8 * MIB, 8)],
)
async def test_a_service_config_raises_the_default_and_the_smaller_holds(
    application: int | None, configured: int, allowed: int, short_dir: Path
) -> None:
    async with (
        serve_on_socket(short_dir / "s", server(GENEROUS)),
        connect_to(
            f"unix:{short_dir / 's'}",
            service_config=parse_service_config(config(maxResponseMessageBytes=configured)),
            max_receive_message_length=application,
        ) as channel,
    ):
        stub = channel.stub(EchoServiceStub)
        text = "x" * (allowed * MIB - 1000)
        assert (await stub.Echo(echo_request(text))).message == text
        with pytest.raises(purerpc.ResourceExhaustedError, match=f"limit of {allowed * MIB} bytes"):
            await stub.Echo(echo_request("x" * (allowed * MIB)))
        async with stub.Chat() as call:
            await call.send_message(echo_request(text))
            assert (await call.receive_message()).message == text
            await call.send_message(echo_request("x" * (allowed * MIB)))
            with pytest.raises(purerpc.ResourceExhaustedError, match=f"{allowed * MIB} bytes"):
                await call.receive_message()


async def test_a_policy_of_one_call_has_its_own_limits(short_dir: Path) -> None:
    async with (
        serve_on_socket(short_dir / "s", server(GENEROUS)),
        connect_to(f"unix:{short_dir / 's'}") as channel,
    ):
        stub = channel.stub(EchoServiceStub)
        large = echo_request("x" * 5 * MIB)
        await stub.Echo(large, method_config=MethodConfig(max_response_message_bytes=6 * MIB))
        with pytest.raises(purerpc.ResourceExhaustedError, match="client's limit of 4194304"):
            await stub.Echo(large)
        with pytest.raises(purerpc.ResourceExhaustedError, match="maxRequestMessageBytes"):
            await stub.Echo(large, method_config=MethodConfig(max_request_message_bytes=MIB))


@pytest.mark.parametrize(
    "policy",
    [
        {
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.02s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
            }
        },
        {"hedgingPolicy": {"maxAttempts": 3, "hedgingDelay": "10s"}},
    ],
    ids=["retry", "hedging"],
)
async def test_a_call_that_is_over_a_limit_is_not_made_again(
    policy: dict[str, Any], short_dir: Path
) -> None:
    seen = 0

    async def counted(message: EchoRequest) -> EchoReply:
        nonlocal seen
        seen += 1
        return EchoReply(message=message.message * 2)

    bounded = parse_service_config(
        config(maxRequestMessageBytes=1000, maxResponseMessageBytes=1500, **policy)
    )
    async with (
        serve_on_socket(short_dir / "s", Server(CallbackServicer(Echo=counted))),
        connect_to(f"unix:{short_dir / 's'}", service_config=bounded) as channel,
    ):
        stub = channel.stub(EchoServiceStub)
        with pytest.raises(purerpc.ResourceExhaustedError, match="maxRequestMessageBytes"):
            await stub.Echo(echo_request("x" * 1100))
        assert seen == 0
        with pytest.raises(purerpc.ResourceExhaustedError, match="maxResponseMessageBytes"):
            await stub.Echo(echo_request("x" * 900))
        assert seen == 1
        assert (await stub.Echo(echo_request("x"))).message == "xx"


async def test_what_gzip_adds_to_a_message_does_not_count() -> None:
    rng = random.Random(7)
    letters = [chr(each) for each in range(0x20, 0x7F)]

    async def back(message: EchoRequest, request: Any) -> EchoReply:
        request.compression = "gzip"
        return EchoReply(message=message.message)

    # So few random letters do not get smaller, and gzip adds its header and trailer.
    message = EchoReply(message="".join(rng.choices(letters, k=20)))
    limits = Limits(max_message_size=message.ByteSize())
    async with connect_pair(
        CallbackServicer(Echo=back), client_limits=limits, server_limits=limits
    ) as pair:
        asked = EchoRequest(message=message.message)
        assert await pair.stub.Echo(asked, compression="gzip") == message
        with pytest.raises(purerpc.ResourceExhaustedError):
            await pair.stub.Echo(EchoRequest(message="x" * 100), compression="gzip")


async def test_messages_before_one_that_is_too_large_are_received() -> None:
    """They may come in one read."""

    async def several(message: RepeatRequest) -> AsyncIterator[EchoReply]:
        for size in (10, 20, 5000, 10):
            yield EchoReply(message="x" * size)

    async with connect_pair(
        CallbackServicer(Repeat=several), client_limits=Limits(max_message_size=1000)
    ) as pair:
        call = pair.stub.Repeat(RepeatRequest())
        await call
        await trio.testing.wait_all_tasks_blocked(0.01)
        found = [len((await call.receive_message()).message) for _ in range(2)]
        assert found == [10, 20]
        with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 1000"):
            await call.receive_message()
