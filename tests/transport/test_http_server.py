"""The HTTP server of the metrics and the dashboard: what clients send, and what they do not."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from meshtrio.transport.http_server import (
    Handler,
    HttpLimits,
    HttpRequest,
    HttpResponse,
    HttpServer,
    SendChunk,
)
from meshtrio.transport.listener import tcp_listener
from meshtrio.util.concurrency import background_service
from tests.support.http_clients import http_connection

LOG = logging.getLogger("test")
LIMITS = HttpLimits(max_connections=100, idle_timeout=60, send_timeout=60, keep_alive=True)
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def echo(request: HttpRequest) -> HttpResponse:
    body = await request.read_body(1000)
    shown = f"{request.method} {request.path} {request.query} {body!r}"
    return HttpResponse(200, [("x-kind", "echo")], shown.encode())


@asynccontextmanager
async def serving(handle: Handler = echo, limits: HttpLimits = LIMITS) -> AsyncIterator[int]:
    """Serve for the block; yields the port."""
    with tcp_listener("tcp:127.0.0.1:0") as listener:
        port: int = listener.getsockname()[1]
        server = HttpServer(handle, limits, LOG, headers=[("x-all", "1")])
        async with background_service(server.serve, listener):
            yield port


async def test_a_connection_serves_one_request_after_another() -> None:
    async with serving() as port, http_connection(port) as client:
        for number in range(3):
            reply = await client.request("GET", f"/a/../b?n={number}")
            assert reply.status == 200
            assert reply.body == f"GET /a/../b n={number} b''".encode()
            assert reply.headers["x-kind"] == "echo"
            assert reply.headers["x-all"] == "1"
        reply = await client.request("POST", "/", b"x" * 1000)
        assert reply.body == b"POST /  %r" % (b"x" * 1000)
        reply = await client.request("HEAD", "/")
        assert reply.headers["content-length"] == str(len("HEAD /  b''"))
        assert (await client.request("GET", "/", connection="close")).status == 200
        assert await client.read_rest() == b""


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as port, http_connection(port) as client:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % n for n in range(20)))
        for number in range(20):
            assert (await client.read_reply()).body.startswith(b"GET /%d " % number)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x00\xff\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00 a TLS hello\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad name: 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: a\x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 50_000, 431),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n" + b"x" * 1001, 413),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n" + b"x" * 9999, 413),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_what_is_wrong_has_an_answer_and_ends_the_connection(
    sent: bytes, status: int
) -> None:
    async with serving() as port:
        async with http_connection(port) as client:
            await client.send(sent)
            assert (await client.read_reply()).status == status
            assert await client.read_rest() == b""
        async with http_connection(port) as client:
            assert (await client.request("GET", "/")).status == 200


@pytest.mark.parametrize(
    "sent", [b"", GET[:9], GET[:-2], b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nx"]
)
async def test_a_client_that_sends_no_whole_request_is_disconnected(sent: bytes) -> None:
    limits = HttpLimits(max_connections=10, idle_timeout=0.3, send_timeout=60, keep_alive=True)
    async with serving(limits=limits) as port, http_connection(port) as client:
        await client.send(sent)
        rest = await client.read_rest()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_sends_byte_by_byte_has_no_more_time_than_others() -> None:
    limits = HttpLimits(max_connections=10, idle_timeout=0.5, send_timeout=60)
    async with serving(limits=limits) as port, http_connection(port) as client:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_trickle, client.stream)
            assert await client.read_rest() == b""
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 30


async def _trickle(stream: trio.abc.Stream) -> None:
    try:
        await stream.send_all(b"GET / HTTP/1.1\r\n")
        while True:
            await stream.send_all(b"x: y\r\n")
            await trio.sleep(0.1)
    except trio.BrokenResourceError:
        pass


async def test_idle_connections_make_room_for_new_ones() -> None:
    """So that nobody is locked out by clients that connect and send nothing."""
    limits = HttpLimits(max_connections=5, idle_timeout=60, send_timeout=60, keep_alive=True)
    async with serving(limits=limits) as port, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(http_connection(port)) for _ in range(20)]
        for _ in range(3):
            async with http_connection(port) as client:
                assert (await client.request("GET", "/")).status == 200
        assert await clients[0].read_rest() == b""


async def test_connections_in_use_do_not_make_room() -> None:
    waiting, going_on = trio.Semaphore(0), trio.Event()

    async def wait(request: HttpRequest) -> HttpResponse:
        waiting.release()
        await going_on.wait()
        return HttpResponse(200, body=b"done")

    limits = HttpLimits(max_connections=3, idle_timeout=60, send_timeout=60)
    async with serving(wait, limits) as port, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(http_connection(port)) for _ in range(3)]
        for client in clients:
            await client.send(GET)
        for _ in clients:
            await waiting.acquire()
        async with http_connection(port) as rejected:
            assert await rejected.read_rest() == b""
        going_on.set()
        for client in clients:
            assert (await client.read_reply()).body == b"done"


async def test_a_bug_of_a_handler_ends_a_request_only(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: HttpRequest) -> HttpResponse:
        raise KeyError("a bug")

    async with serving(fail) as port, http_connection(port) as client:
        for _ in range(2):
            assert (await client.request("GET", "/")).status == 500
    assert caplog.text.count("a bug") >= 2


async def test_a_bug_of_a_stream_ends_its_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stream(send: SendChunk) -> None:
        await send(b"one")
        raise ExceptionGroup("several", [KeyError("a bug")])

    async def start(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, stream=stream)

    async with serving(start) as port:
        for _ in range(2):
            async with http_connection(port) as client:
                await client.send(GET)
                assert b"one" in await client.read_rest()
    assert "a bug" in caplog.text


async def test_a_stream_is_cancelled_when_its_client_goes_away() -> None:
    ended = trio.Event()

    async def stream(send: SendChunk) -> None:
        try:
            await send(b"one")
            await trio.sleep_forever()
        finally:
            ended.set()

    async def start(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, stream=stream)

    async with serving(start) as port:
        async with http_connection(port) as client:
            await client.send(GET + b"what is sent after it is of no interest")
            assert b"one" in await client.read_until(b"one")
        with trio.fail_after(60):
            await ended.wait()


async def test_a_client_that_reads_no_response_is_disconnected() -> None:
    size = 64 * 2**20

    async def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, body=bytes(size))

    for limits in (
        HttpLimits(max_connections=3, idle_timeout=0.3, send_timeout=60),
        HttpLimits(max_connections=3, idle_timeout=60, send_timeout=0.3),
    ):
        async with serving(answer, limits) as port, http_connection(port) as client:
            await client.send(GET)
            await client.read_until(b"\r\n\r\n")
            await trio.sleep(1)
            assert len(await client.read_rest()) < size


async def test_a_client_that_reads_no_stream_is_disconnected() -> None:
    failed = trio.Event()

    async def stream(send: SendChunk) -> None:
        try:
            while True:
                await send(b"x" * 65536)
        except trio.TooSlowError:
            failed.set()
            raise

    async def start(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, stream=stream)

    limits = HttpLimits(max_connections=3, idle_timeout=60, send_timeout=60, stream_timeout=0.3)
    async with serving(start, limits) as port, http_connection(port) as client:
        await client.send(GET)
        await failed.wait()
        await client.read_rest()
