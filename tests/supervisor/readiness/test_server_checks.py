"""Servers that are no gRPC servers, well and badly behaved, as checks of readiness see them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio

from meshtrio.config.ready import HttpCheck
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.probe import HealthCheckResult, NotReadyError, SocketProbe
from meshtrio.supervisor.readiness.http import HttpQuery
from meshtrio.supervisor.readiness.server import ReadyService, ServerCheck, query_accepting
from meshtrio.transport.dial import dial
from meshtrio.util.address import Address

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def serve(handler: Handler) -> AsyncIterator[Address]:
    """Serve on a port for the block."""
    async with trio.open_nursery() as nursery:
        serve_tcp = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serve_tcp)
        yield Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def http_check(address: Address) -> ServerCheck:
    query = HttpQuery(HttpCheck(address, "/health"))
    probe = SocketProbe(query=query, request_name="GET /health")
    return ServerCheck(probe, partial(dial, str(address), None))


def connect_check(address: Address) -> ServerCheck:
    return ServerCheck(SocketProbe(query=query_accepting), partial(dial, str(address), None))


def answer(*parts: bytes) -> Handler:
    """Return a handler that answers each request with these parts."""

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        for part in parts:
            await stream.send_all(part)
            await trio.lowlevel.checkpoint()

    return handle


async def check(handler: Handler, seconds: float = 5.0) -> HealthCheckResult:
    async with serve(handler) as address:
        return await http_check(address).check(seconds)


async def test_the_request_is_one_that_servers_understand() -> None:
    received: list[bytes] = []

    async def handle(stream: trio.SocketStream) -> None:
        received.append(await stream.receive_some())
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")

    async with serve(handle) as address:
        assert (await http_check(address).check(5)).is_serving
    lines = received[0].split(b"\r\n")
    assert lines[0] == b"GET /health HTTP/1.1"
    assert b"Host: 127.0.0.1:%d" % address.port in lines
    assert lines[-2:] == [b"", b""]


@pytest.mark.parametrize(
    ("line", "is_serving"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.0 204\n", True),
        (b"HTTP/1.1 399 \xff\r\n", True),
        (b"HTTP/1.1 400 Bad\r\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\n", False),
        (b"HTTP/1.1 103 Early Hints\r\n", False),
    ],
)
async def test_a_status_of_200_to_399_is_ready_and_others_are_alive(
    line: bytes, is_serving: bool
) -> None:
    whole, single = answer(line), answer(*(line[i : i + 1] for i in range(len(line))))
    for handler in (whole, single):
        found = await check(handler)
        assert (found.is_alive, found.is_serving) == (True, is_serving)
        assert is_serving or found.reason.startswith("it answers GET /health with ")


@pytest.mark.parametrize(
    ("parts", "condition"),
    [
        ([b"SSH-2.0-OpenSSH\r\n"], Condition.FAULTY),
        ([b"HTTP/1.1 20\r\n"], Condition.FAULTY),
        ([b"HTTP/1.1 2000 OK\r\n"], Condition.FAULTY),
        ([b"HTTP/2 200\r\n"], Condition.FAULTY),
        ([b"x" * 100_000], Condition.FAULTY),
        ([b"HTTP/1.1 200 OK"], Condition.FAULTY),
        ([], Condition.CLOSING),
    ],
)
async def test_what_is_no_answer_in_http_is_a_failure(
    parts: list[bytes], condition: Condition
) -> None:
    found = await check(answer(*parts))
    assert (found.is_alive, found.condition) == (False, condition)


async def test_endless_headers_after_the_status_do_not_matter() -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        with suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"X: y\r\n" * 1000)

    with trio.fail_after(30):
        assert (await check(handle)).is_serving


async def test_an_endless_status_line_is_refused_at_its_limit() -> None:
    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"HTTP/1.1 200 " + b"x" * 1000)

    with trio.fail_after(30):
        assert (await check(handle)).condition is Condition.FAULTY


async def test_a_server_that_never_answers_uses_up_the_timeout() -> None:
    async def handle(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    found = await check(handle, 0.05)
    assert found.condition in (Condition.STUCK, Condition.MESH_OVERLOADED)
    assert found.reason.startswith("it accepted a connection but did not answer GET /health")
    async with serve(handle) as address:
        with pytest.raises(NotReadyError, match="did not answer GET /health"):
            await http_check(address).wait_ready(0.3)


async def test_a_server_that_accepts_and_never_speaks_is_ready_for_connections() -> None:
    async def handle(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with serve(handle) as address:
        await connect_check(address).wait_ready(5)
        assert (await connect_check(address).check(5)).is_serving
    assert (await connect_check(address).check(5)).condition is Condition.UNREACHABLE


async def test_a_service_has_to_accept_connections_as_well() -> None:
    class Ready:
        async def wait_ready(self, max_time: float) -> None:
            await trio.lowlevel.checkpoint()

    async with serve(answer(b"")) as address:
        await ReadyService(Ready(), connect_check(address)).wait_ready(5)
    with pytest.raises(NotReadyError, match=r"within 0.1 s: .*needs `service = false`"):
        await ReadyService(Ready(), connect_check(address)).wait_ready(0.1)
