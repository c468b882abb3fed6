"""Header lists of every size through the gateway: each fails its own call and no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import open_channel
from meshtrio.http2.limits import Limits
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.gateways import run_gateway, server_with_reflection
from tests.support.servers import FakeResolver, serve_on_socket, unix_endpoint

LIMIT = 32 * 1024
SIZES = [30_000, 33_000, 40_000, 200_000, 900_000]
PLACES = ["initial_metadata", "trailing_metadata", "status_details"]


class Verbose:
    """Answers with so much of what its caller names; `hold` waits for the others."""

    def __init__(self) -> None:
        self.release = trio.Event()
        self.held = trio.Event()

    async def echo(self, message: EchoRequest, request: Any) -> EchoReply:
        if message.message == "hold":
            self.held.set()
            await self.release.wait()
            return EchoReply(message="held")
        place, _, size = message.message.partition(" ")
        if place == "status_details":
            request.status_details = bytes(int(size))
            raise purerpc.NotFoundError("no")
        if place:
            setattr(request, place, [("large", "v" * int(size))])
        return EchoReply(message="ok")


async def outcome_of(stub: Any, text: str, **options: Any) -> str:
    try:
        return str((await stub.Echo(echo_request(text), **options)).message)
    except purerpc.NotFoundError:
        return "NOT_FOUND"
    except purerpc.ResourceExhaustedError as exc:
        return str(exc)


async def check(stub: Any, verbose: Verbose, text: str, fits: bool, **options: Any) -> None:
    """Make a call while another one is under way, which has to succeed."""

    async def held() -> None:
        assert (await stub.Echo(echo_request("hold"))).message == "held"

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held)
            await verbose.held.wait()
            outcome = await outcome_of(stub, text, **options)
            if fits:
                assert outcome in ("ok", "NOT_FOUND")
            else:
                assert "header list of" in outcome
                assert "limit of 32768 bytes" in outcome
            verbose.release.set()
        assert (await stub.Echo(echo_request(""))).message == "ok"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", PLACES)
async def test_responses(place: str, size: int, short_dir: Path) -> None:
    verbose = Verbose()
    server = server_with_reflection(CallbackServicer(Echo=verbose.echo))
    async with run_gateway(short_dir, {"a": ["echo.v1.EchoService"]}, a=server) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        await stub.Echo(echo_request(""))
        before = behind.upstream_connections()
        encoded = size * 4 // 3 if place == "status_details" else size
        await check(stub, verbose, f"{place} {size}", encoded < LIMIT)
        assert behind.upstream_connections() == before
        await behind.assert_nothing_left()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", PLACES)
async def test_responses_of_a_server_that_does_not_look(
    place: str, size: int, short_dir: Path
) -> None:
    """As of other stacks, which send whatever the handler gives: the client's limit holds."""
    verbose, feed = Verbose(), FakeResolver()
    server = server_with_reflection(CallbackServicer(Echo=verbose.echo))
    feed.set(unix_endpoint(short_dir / "a"))
    async with serve_on_socket(short_dir / "a", server), open_channel("a", feed) as channel:
        stub = channel.stub(EchoServiceStub)
        await stub.Echo(echo_request(""))
        for connection in server.connections:
            connection.peer_settings.max_header_list_size = 2**31
        encoded = size * 4 // 3 if place == "status_details" else size
        if encoded < 1_000_000:
            await check(stub, verbose, f"{place} {size}", encoded < LIMIT)
            assert len(server.connections) == 1


@pytest.mark.parametrize("looks", [True, False], ids=["client looks", "client does not look"])
@pytest.mark.parametrize("size", SIZES)
async def test_requests(size: int, looks: bool, short_dir: Path) -> None:
    verbose = Verbose()
    server = server_with_reflection(CallbackServicer(Echo=verbose.echo))
    async with run_gateway(short_dir, {"a": ["echo.v1.EchoService"]}, a=server) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        await stub.Echo(echo_request(""))
        (connection,) = behind.server.connections
        if not looks:
            for subchannel in behind.channel.picker.endpoints:
                for each in subchannel.subchannel.connections:
                    each.peer_settings.max_header_list_size = 2**31
        await check(stub, verbose, "", size < LIMIT, metadata=[("large", "v" * size)])
        assert set(behind.server.connections) == {connection}
        await behind.assert_nothing_left()


@pytest.mark.parametrize("size", range(LIMIT - 700, LIMIT + 100, 40))
async def test_a_request_just_at_the_limit(size: int, short_dir: Path) -> None:
    """The client counts the whole list, what it adds by itself included."""
    verbose, feed = Verbose(), FakeResolver()
    server = server_with_reflection(CallbackServicer(Echo=verbose.echo))
    feed.set(unix_endpoint(short_dir / "a"))
    async with serve_on_socket(short_dir / "a", server), open_channel("a", feed) as channel:
        stub = channel.stub(EchoServiceStub)
        await stub.Echo(echo_request(""))
        with trio.fail_after(20):
            outcome = await outcome_of(stub, "", metadata=[("large", "v" * size)])
        assert outcome == "ok" or "the request's header list" in outcome
        (connection,) = server.connections
        assert connection.counters.failed == 0


async def test_a_stream_under_way_survives_large_trailers_of_another_call(short_dir: Path) -> None:
    async def repeat(message: Any, request: Any) -> AsyncIterator[EchoReply]:
        request.trailing_metadata = [("large", "v" * 40_000)]
        yield EchoReply(message="one")

    server = server_with_reflection(CallbackServicer(Repeat=repeat))
    async with run_gateway(short_dir, {"a": ["echo.v1.EchoService"]}, a=server) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        with trio.fail_after(10):
            async with stub.Repeat(EchoRequest()) as first, stub.Repeat(EchoRequest()) as second:
                for call in (first, second):
                    assert (await call.receive_message()).message == "one"
                    with pytest.raises(purerpc.ResourceExhaustedError, match="header list"):
                        await call.receive_message()


async def test_a_callers_own_limit_is_above_the_gateways(short_dir: Path) -> None:
    """The gateway's limit is the one that the error names."""
    verbose = Verbose()
    server = server_with_reflection(CallbackServicer(Echo=verbose.echo))
    async with run_gateway(short_dir, {"a": ["echo.v1.EchoService"]}, a=server) as behind:
        async with behind.connect_client(Limits(max_header_list_size=500_000)) as channel:
            stub = channel.stub(EchoServiceStub)
            with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 32768 bytes"):
                await stub.Echo(echo_request("trailing_metadata 40000"))
