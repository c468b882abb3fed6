"""What a binary log has of each kind of call, each way to end, and on both sides (gRFC A16)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import purerpc
import pytest
import trio
import trio.testing
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import Channel, connect_to, open_channel
from meshtrio.config.binary_log_filter import BinaryLogFilter
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.rpc.composite_tracer import use_tracers
from meshtrio.rpc.server import Server
from meshtrio.telemetry.binary_log import BinaryLog
from meshtrio.transport.listener import tcp_listener
from meshtrio.util.concurrency import open_collapsing_nursery
from tests.support.binary_logs import (
    UNARY_ENTRY_TYPES,
    Entry,
    entry_metadata,
    entry_types,
    split_by_logger,
)
from tests.support.connection_pairs import (
    CallbackServicer,
    echo_reply,
    echo_request,
    echo_requests,
)
from tests.support.failing_servicers import (
    HEDGING_POLICY,
    RETRY_POLICY,
    FailingHandlers,
    make_method_config,
    unavailable_errors,
)
from tests.support.handlers import ECHO_SERVICER, CancellationRecorder
from tests.support.servers import FakeResolver, serve_on_socket, unix_endpoint

UNARY = [*UNARY_ENTRY_TYPES]
DETAILS = b"\x08\x05"


@attrs.define
class LoggedServer:
    """A server whose calls are logged, a channel to it, and the records until now."""

    channel: Channel
    path: Path
    records: list[bytes]

    @property
    def stub(self) -> Any:
        return self.channel.stub(EchoServiceStub)

    async def sides(self) -> tuple[list[Any], list[Any]]:
        """The client's entries and the server's, once both have no more to say."""
        await trio.testing.wait_all_tasks_blocked(0.01)
        return split_by_logger(Entry.FromString(record) for record in self.records)


@asynccontextmanager
async def logged(
    folder: Path,
    servicer: Any = ECHO_SERVICER,
    wanted: str = "*",
    config: dict[str, Any] | None = None,
) -> AsyncIterator[LoggedServer]:
    records: list[bytes] = []
    log = BinaryLog(BinaryLogFilter.parse(wanted), records.append)
    service_config = None if config is None else parse_service_config(config)
    path = folder / "a"
    with use_tracers(client=log, server=log):
        async with (
            serve_on_socket(path, Server(servicer)),
            connect_to(f"unix:{path}", service_config=service_config) as channel,
        ):
            yield LoggedServer(channel, path, records)


async def polite(message: EchoRequest, request: Any) -> EchoReply:
    request.initial_metadata = [("early", "1"), ("early-bin", b"\0\xff")]
    request.trailing_metadata = [("late", "2")]
    return echo_reply(message.message)


async def refusing(message: EchoRequest, request: Any) -> EchoReply:
    request.trailing_metadata = [("late", "2")]
    request.status_details = DETAILS
    raise purerpc.NotFoundError("no “such” thing")


# -- the four kinds ----------------------------------------------------------------------------


async def test_a_unary_call(short_dir: Path) -> None:
    sent = [("key", "a"), ("key", "b"), ("authorization", "x"), ("some-bin", b"\0\1\xff")]
    async with logged(short_dir, CallbackServicer(Echo=polite)) as log:
        with trio.fail_after(30):
            await log.stub.Echo(echo_request("hi"), metadata=sent, compression="gzip")
        client, server = await log.sides()
    assert entry_types(client) == entry_types(server) == UNARY
    expected = [(k, v if isinstance(v, bytes) else v.encode()) for k, v in sent]
    for side, header in (("client", client[0]), ("server", server[0])):
        assert entry_metadata(header) == expected, side
        assert header.client_header.method_name == "/echo.v1.EchoService/Echo"
        assert header.client_header.authority == log.channel.authority
        assert 29 < header.client_header.timeout.ToNanoseconds() / 1e9 <= 31
    message = echo_request("hi").SerializeToString()
    for entries in (client, server):
        assert [e.message.data for e in (entries[1], entries[4])] == [message, message]
        assert entries[1].message.length == len(message)
        assert entry_metadata(entries[3]) == [("early", b"1"), ("early-bin", b"\0\xff")]
        assert entry_metadata(entries[5]) == [("late", b"2")]
        assert entries[5].trailer.status_code == 0
        assert not any(e.payload_truncated for e in entries)
        times = [e.timestamp.ToNanoseconds() for e in entries]
        assert times == sorted(times)
        assert times[0] > 1.7e18
    # The peer is told with what came from it first.
    assert [e.HasField("peer") for e in client] == [False, False, False, True, False, False]
    assert [e.HasField("peer") for e in server] == [True] + [False] * 5
    assert client[3].peer.address == str(log.path)
    assert client[3].peer.type == server[0].peer.type == 3


async def test_a_peer_on_tcp_is_told_by_address_and_port() -> None:
    records: list[bytes] = []
    log = BinaryLog(BinaryLogFilter.parse("*"), records.append)
    with use_tracers(client=log, server=log), tcp_listener("tcp:127.0.0.1:0") as listener:
        port = listener.getsockname()[1]
        async with open_collapsing_nursery() as nursery:
            await nursery.start(Server(ECHO_SERVICER).serve, listener)
            async with connect_to(f"tcp:127.0.0.1:{port}") as channel:
                await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
            nursery.cancel_scope.cancel()
    client, server = split_by_logger(Entry.FromString(record) for record in records)
    peer = client[3].peer
    assert (peer.type, peer.address, peer.ip_port) == (1, "127.0.0.1", port)
    assert server[0].peer.address == "127.0.0.1"
    assert server[0].peer.ip_port not in (0, port)


async def test_a_stream_of_replies(short_dir: Path) -> None:
    async with logged(short_dir) as log:
        async for _ in log.stub.Repeat(RepeatRequest(count=3)):
            pass
        client, server = await log.sides()
    expected = [*UNARY[:4], *["SERVER_MESSAGE"] * 3, "SERVER_TRAILER"]
    assert entry_types(client) == entry_types(server) == expected


async def test_a_stream_of_replies_that_is_empty_has_no_header(short_dir: Path) -> None:
    async with logged(short_dir) as log:
        async for _ in log.stub.Repeat(RepeatRequest(count=0)):
            pass
        client, server = await log.sides()
    assert entry_types(client) == entry_types(server) == [*UNARY[:3], "SERVER_TRAILER"]
    assert client[-1].peer.address == str(log.path)


async def test_a_stream_of_requests(short_dir: Path) -> None:
    async with logged(short_dir) as log:
        await log.stub.Join(echo_requests("a", "b"))
        client, server = await log.sides()
    expected = ["CLIENT_HEADER", "CLIENT_MESSAGE", *UNARY[1:]]
    assert entry_types(client) == entry_types(server) == expected


async def test_a_stream_both_ways_in_the_order_of_what_happened(short_dir: Path) -> None:
    async with logged(short_dir) as log:
        async with log.stub.Chat() as call:
            for text in ("a", "b"):
                await call.send_message(echo_request(text))
                assert (await call.receive_message()).message == text
            await call.close()
            assert await call.receive_message() is None
        client, server = await log.sides()
    assert entry_types(client) == [
        "CLIENT_HEADER",
        "CLIENT_MESSAGE",
        "SERVER_HEADER",
        "SERVER_MESSAGE",
        "CLIENT_MESSAGE",
        "SERVER_MESSAGE",
        "CLIENT_HALF_CLOSE",
        "SERVER_TRAILER",
    ]
    assert entry_types(server) == entry_types(client)


# -- ways to end -------------------------------------------------------------------------------


async def test_a_status_with_all_that_comes_with_it(short_dir: Path) -> None:
    async with logged(short_dir, CallbackServicer(Echo=refusing)) as log:
        with pytest.raises(purerpc.NotFoundError):
            await log.stub.Echo(echo_request("hi"))
        client, server = await log.sides()
    assert entry_types(client) == entry_types(server) == [*UNARY[:3], "SERVER_TRAILER"]
    for entry in (client[-1], server[-1]):
        assert entry.trailer.status_code == 5
        assert entry.trailer.status_message == "no “such” thing"
        assert entry.trailer.status_details == DETAILS
        assert entry_metadata(entry) == [("late", b"2")]
    assert client[-1].peer.address == str(log.path)


async def test_a_call_whose_caller_gives_it_up(short_dir: Path) -> None:
    handler = CancellationRecorder()
    async with logged(short_dir, CallbackServicer(Echo=handler, Repeat=handler.streaming)) as log:
        async with open_collapsing_nursery() as nursery:
            nursery.start_soon(log.stub.Echo, echo_request("hi"))
            await handler.started.wait()
            nursery.cancel_scope.cancel()
        await handler.cancelled.wait()
        async with log.stub.Repeat(RepeatRequest()) as call:
            async for _ in call:
                break
        client, server = await log.sides()
    expected = [*UNARY[:3], "CANCEL"]
    assert entry_types(client[:4]) == entry_types(server[:4]) == expected
    expected = [*UNARY[:5], "CANCEL"]
    assert entry_types(client[4:]) == entry_types(server[4:]) == expected


async def test_a_deadline_is_a_status_and_no_cancellation(short_dir: Path) -> None:
    async with logged(short_dir, CallbackServicer(Echo=CancellationRecorder())) as log:
        with trio.move_on_after(0.5):
            await log.stub.Echo(echo_request("hi"))
        client, server = await log.sides()
    assert entry_types(client) == [*UNARY[:3], "SERVER_TRAILER"]
    assert client[-1].trailer.status_code == 4
    assert not client[-1].HasField("peer")
    # The server sees whichever is first, the deadline or that its caller has gone.
    assert entry_types(server[:3]) == UNARY[:3]
    assert entry_types(server[3:]) in (["CANCEL"], ["SERVER_TRAILER"])


async def test_a_call_that_never_gets_anywhere(short_dir: Path) -> None:
    async with logged(short_dir) as log:
        async with connect_to(f"unix:{short_dir / 'nobody'}") as channel:
            with pytest.raises(purerpc.UnavailableError):
                await channel.stub(EchoServiceStub).Echo(echo_request("hi"), wait_for_ready=False)
        client, _ = await log.sides()
    assert entry_types(client) == ["CLIENT_HEADER", "SERVER_TRAILER"]
    assert client[1].trailer.status_code == 14


# -- several attempts --------------------------------------------------------------------------


async def test_of_retries_only_what_the_caller_sees(short_dir: Path) -> None:
    flaky = FailingHandlers(unavailable_errors(2))
    config = make_method_config(retryPolicy=RETRY_POLICY)
    async with logged(short_dir, CallbackServicer(Echo=flaky.echo), config=config) as log:
        await log.stub.Echo(echo_request("hi"))
        client, server = await log.sides()
    assert entry_types(client) == UNARY
    assert entry_types(server) == [*([*UNARY[:3], "SERVER_TRAILER"] * 2), *UNARY]
    # What gRPC says of attempts is not the application's.
    assert [entry_metadata(e) for e in server if e.HasField("client_header")] == [[], [], []]


async def test_the_last_attempt_tells_how_a_call_failed(short_dir: Path) -> None:
    flaky = FailingHandlers(unavailable_errors(9))
    config = make_method_config(retryPolicy=RETRY_POLICY)
    async with logged(short_dir, CallbackServicer(Echo=flaky.echo), config=config) as log:
        with pytest.raises(purerpc.UnavailableError):
            await log.stub.Echo(echo_request("hi"))
        client, _ = await log.sides()
    assert entry_types(client) == [*UNARY[:3], "SERVER_TRAILER"]
    assert (client[-1].trailer.status_code, client[-1].trailer.status_message) == (14, "not now")


async def test_of_hedged_attempts_the_one_that_wins(short_dir: Path) -> None:
    slow, feed = CancellationRecorder(), FakeResolver()
    records: list[bytes] = []
    log = BinaryLog(BinaryLogFilter.parse("*"), records.append)
    config = parse_service_config(make_method_config(hedgingPolicy=HEDGING_POLICY))
    with use_tracers(client=log):
        async with (
            serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=slow))),
            serve_on_socket(short_dir / "b", Server(CallbackServicer(Echo=polite))),
            open_channel("x", feed, service_config=config) as channel,
        ):
            feed.set(unix_endpoint(short_dir / "a"), unix_endpoint(short_dir / "b"))
            for _ in range(4):  # one of them begins with the slow one
                await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    client, _ = split_by_logger(Entry.FromString(record) for record in records)
    assert entry_types(client) == UNARY * 4
    assert {e.peer.address for e in client if e.HasField("peer")} == {str(short_dir / "b")}


async def test_requests_that_are_sent_again_are_written_once(short_dir: Path) -> None:
    failures = unavailable_errors(1)

    async def join(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        found = [message.message async for message in messages]
        if failures:
            raise failures.pop()
        return echo_reply("".join(found))

    config = make_method_config(retryPolicy=RETRY_POLICY)
    async with logged(short_dir, CallbackServicer(Join=join), config=config) as log:
        await log.stub.Join(echo_requests("a", "b"))
        client, _ = await log.sides()
    assert entry_types(client) == ["CLIENT_HEADER", "CLIENT_MESSAGE", *UNARY[1:]]


# -- how much ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "keys", "data", "head_cut"),
    [
        ("*", [b"12345", b"1"], 202, False),
        ("*{h}", [b"12345", b"1"], 0, False),
        ("*{m}", [], 202, True),
        ("*{m:10}", [], 10, True),
        ("*{h:8;m:10}", [b"12345"], 10, True),
        ("*{h:12;m:500}", [b"12345", b"1"], 202, False),
        ("*{h:7;m:0}", [], 0, True),
    ],
)
async def test_limits(
    short_dir: Path, wanted: str, keys: list[bytes], data: int, head_cut: bool
) -> None:
    sent = [("key", "12345"), ("key", "1"), ("grpc-trace-bin", b"trace")]
    if wanted == "*{h:7;m:0}":
        sent = [("key", "12345"), ("grpc-trace-bin", b"trace")]
    message = echo_request("x" * 199)
    async with logged(short_dir, wanted=wanted) as log:
        await log.stub.Echo(message, metadata=sent)
        client, server = await log.sides()
    for entries in (client, server):
        assert entry_types(entries) == UNARY
        # It is always written, and counts for nothing.
        assert entry_metadata(entries[0]) == [
            *(("key", key) for key in keys),
            ("grpc-trace-bin", b"trace"),
        ]
        assert entries[0].payload_truncated is head_cut
        for entry in (entries[1], entries[4]):
            assert entry.message.length == message.ByteSize() == 202
            assert entry.message.data == message.SerializeToString()[:data]
            assert entry.payload_truncated is (data < 202)


async def test_what_the_filter_leaves_out_is_not_written(short_dir: Path) -> None:
    wanted = "echo.v1.EchoService/*,-echo.v1.EchoService/Echo"
    async with logged(short_dir, wanted=wanted) as log:
        await log.stub.Echo(echo_request("hi"))
        await log.stub.Join(echo_requests("a"))
        client, server = await log.sides()
    assert {e.client_header.method_name for e in client if e.HasField("client_header")} == {
        "/echo.v1.EchoService/Join"
    }
    assert entry_types(client) == entry_types(server)
