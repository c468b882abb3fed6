"""TLS and mutual TLS on TCP."""

from __future__ import annotations

import contextlib
import re
import ssl
from functools import partial

import attrs
import pytest
import trio
import trustme
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import connect_to
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.plugin import current_call
from meshtrio.util.tls_config import ClientTlsConfig
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.logs import watch_log
from tests.support.tls import TEST_CA, client_tls, serve_on_tcp, server_context

STRANGER = trustme.CA()


async def call(address: str, tls: ClientTlsConfig, text: str = "hi") -> str:
    with trio.fail_after(30):
        async with connect_to(address, tls=tls) as channel:
            reply: EchoReply = await channel.stub(EchoServiceStub).Echo(echo_request(text))
    return str(reply.message)


async def fail_to_connect(address: str, tls: ClientTlsConfig) -> None:
    """Make a call, and wait until a connection attempt for it has failed."""
    with trio.fail_after(30), watch_log("connection failed") as failed:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, address, tls)
            await failed.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [0, 1, 16_384, 3_000_000])
async def test_messages_of_every_size(size: int) -> None:
    async with serve_on_tcp(server_context()) as address:
        assert await call(address, client_tls(), "x" * size) == "x" * size


async def test_streams_both_ways() -> None:
    async with serve_on_tcp(server_context()) as address:
        async with connect_to(address, tls=client_tls()) as channel:
            stub = channel.stub(EchoServiceStub)
            replies = stub.Repeat(RepeatRequest(message="x" * 10_000, count=300))
            assert len([reply async for reply in replies]) == 300
            async with stub.Chat() as chatting:
                for number in range(100):
                    await chatting.send_message(EchoRequest(message=str(number)))
                    assert (await chatting.receive_message()).message == str(number)


async def reply_with_scheme(request: EchoRequest) -> EchoReply:
    return EchoReply(message=current_call().scheme)


@pytest.mark.parametrize("context", [server_context(), None], ids=["https", "http"])
async def test_a_request_names_the_scheme_of_its_connection(
    context: ssl.SSLContext | None,
) -> None:
    async with serve_on_tcp(context, CallbackServicer(Echo=reply_with_scheme)) as address:
        endpoint = Endpoint("x", address, tls=client_tls() if context else None)
        async with connect_to(endpoint) as channel:
            reply = await channel.stub(EchoServiceStub).Echo(EchoRequest())
    assert reply.message == ("https" if context else "http")


async def test_mutual_tls() -> None:
    async with serve_on_tcp(server_context(mutual=True)) as address:
        assert await call(address, client_tls(client_ca=TEST_CA)) == "hi"


@pytest.mark.parametrize(
    ("mutual", "tls", "reason"),
    [
        (False, client_tls(trusted_ca=STRANGER), "certificate"),
        (False, client_tls("elsewhere"), "certificate"),
        (True, client_tls(), "certificate required|closed|broke"),
        (
            True,
            client_tls(client_ca=STRANGER),
            "unknown ca|closed|broke",
        ),
    ],
    ids=["unknown CA", "other name", "no client certificate", "client of unknown CA"],
)
async def test_who_is_not_trusted_is_not_talked_to(
    mutual: bool, tls: ClientTlsConfig, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serve_on_tcp(server_context(mutual=mutual)) as address:
        await fail_to_connect(address, tls)
    assert re.search(f"connection failed.*({reason})", caplog.text)


async def test_a_server_that_offers_no_http2_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    async def speak_something_else(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, server_context(), server_side=True)
        with contextlib.suppress(trio.BrokenResourceError):
            await tls.do_handshake()
            await tls.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_tcp, speak_something_else, 0, host="127.0.0.1")
        )
        address = f"tcp:127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        await fail_to_connect(address, client_tls())
        nursery.cancel_scope.cancel()
    assert "ALPN" in caplog.text


async def test_plain_text_to_a_tls_server_harms_nobody() -> None:
    async with serve_on_tcp(server_context()) as address:
        host, _, port = address.removeprefix("tcp:").partition(":")
        stranger = await trio.open_tcp_stream(host, int(port))
        await stranger.send_all(b"GET / HTTP/1.1\r\n\r\n")
        assert await call(address, client_tls()) == "hi"
        await stranger.aclose()


@pytest.mark.parametrize("name", ["a..b", "a\0b", "x" * 300])
async def test_a_server_name_that_cannot_be_one_is_reported(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "meshtrio")
    async with serve_on_tcp(server_context()) as address:
        tls = attrs.evolve(client_tls(), server_name=name)
        with trio.fail_after(30), watch_log("cannot be verified as the server's name") as reported:
            async with connect_to(address, tls=tls), trio.open_nursery() as nursery:
                nursery.start_soon(reported.wait)
