"""Misbehaviour of peers, handlers and callers at the worst moment breaks nothing else."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncIterator
from typing import Any

import purerpc
import pytest
import trio
import trio.testing
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.multicallable import UnaryUnaryMultiCallable
from meshtrio.grpc.framing import frame_message
from meshtrio.http2 import frames
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.http2.limits import Limits
from meshtrio.messages import health
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.util.errors import UsageError
from tests.support.connection_pairs import (
    CallbackServicer,
    ConnectionPair,
    connect_pair,
    connect_raw_peer,
    echo_reply,
    echo_request,
    echo_requests,
)
from tests.support.direct_channels import channel_over_socket
from tests.support.handlers import ECHO_SERVICER, CancellationRecorder, handle_echo, repeat_request
from tests.support.raw_calls import request_headers_frame

HEAD = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/echo.v1.EchoService/Echo"),
    (b"content-type", b"application/grpc"),
]


CHECK = health.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]


async def assert_unharmed(pair: ConnectionPair) -> None:
    assert (await pair.stub.Echo(echo_request("unharmed"))).message == "unharmed"


# -- a request and its end in one read -----------------------------------------------------------


@pytest.mark.parametrize("path", [b"/echo.v1.EchoService/Echo", b"/no.Such/Method", b"/"])
async def test_a_request_that_is_reset_in_the_same_read(path: bytes) -> None:
    async with connect_raw_peer(ECHO_SERVICER) as peer:
        await peer.send(request_headers_frame(1, path=path) + frames.rst_stream(1, 8))
        assert not peer.server.closed
        peer.assert_nothing_left()


@pytest.mark.parametrize("path", [b"/echo.v1.EchoService/Echo", b"/no.Such/Method", b"/"])
async def test_a_request_and_a_violation_in_the_same_read(path: bytes) -> None:
    async with connect_raw_peer(ECHO_SERVICER) as peer:
        await peer.send(
            request_headers_frame(1, path=path)
            + frames.encode_frame(frames.FrameType.PING, 0, 0, b"x")
        )
        assert peer.read_frames()[-1][0] == frames.FrameType.GOAWAY
        assert peer.server.closed


async def test_what_is_not_grpc_is_told_what_this_is() -> None:
    async with connect_raw_peer(ECHO_SERVICER) as peer:
        block = encoder.encode([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")])
        await peer.send(
            frames.encode_header_block(1, block, end_stream=True, max_frame_size=16_384)
        )
        assert b"gRPC" in peer.read_frames()[-1][3]
        assert not peer.server.closed
        peer.assert_nothing_left()


# What clients of Unix sockets send as :authority (grpc issue 21745 and others), and none at all.
AUTHORITIES = [b"%2Ftmp%2Fmesh.sock", b"/tmp/mesh.sock", b"unix:/a b", b"", "\u00e9".encode(), None]


@pytest.mark.parametrize("authority", AUTHORITIES, ids=repr)
async def test_any_authority_is_served(authority: bytes | None) -> None:
    extra = () if authority is None else ((b":authority", authority),)
    async with connect_raw_peer(CallbackServicer(Echo=handle_echo)) as peer:
        block = encoder.encode([*HEAD[:1], *extra, *HEAD[1:]])
        message = frame_message(EchoRequest(message="hi").SerializeToString())
        await peer.send(
            frames.encode_header_block(1, block, end_stream=False, max_frame_size=16_384)
            + frames.encode_frame(FrameType.DATA, frames.END_STREAM, 1, message)
        )
        answers = [answer for answer in peer.read_frames() if answer[2] == 1]
        assert [type_ for type_, *_ in answers][-1:] == [FrameType.HEADERS]
        assert any(type_ == FrameType.DATA for type_, *_ in answers)


# -- handlers and callers that fail while they are cancelled -------------------------------------


async def failing_clean_up(message: Any) -> EchoReply:
    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("the clean-up failed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        await trio.sleep_forever()
    raise AssertionError("unreachable")


async def test_a_handler_whose_clean_up_fails_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connect_pair(CallbackServicer(Slow=failing_clean_up, Echo=handle_echo)) as pair:
        with trio.move_on_after(0.2):
            await pair.stub.Slow(echo_request(""))
        await pair.wait_until_idle()
        assert "the clean-up failed" in caplog.text
        await assert_unharmed(pair)


async def test_requests_whose_clean_up_fails_harm_nobody() -> None:
    async def broken() -> AsyncIterator[EchoRequest]:
        yield echo_request("one")
        await failing_clean_up(None)

    async with connect_pair(ECHO_SERVICER) as pair:
        with trio.move_on_after(0.2):
            await pair.stub.Join(broken())
        await pair.wait_until_idle()
        await assert_unharmed(pair)


async def test_a_handler_that_ends_in_a_shield_is_not_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, release = trio.Event(), trio.Event()

    async def stubborn(message: Any) -> EchoReply:
        begun.set()
        with trio.CancelScope(shield=True):
            await release.wait()
        return echo_reply("too late")

    async with connect_pair(CallbackServicer(Echo=stubborn)) as pair:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.stub.Echo, echo_request(""))
            await begun.wait()
            nursery.cancel_scope.cancel()
        await pair.wait_until_idle()
        release.set()
        await pair.wait_until_idle()
        assert caplog.records == []
        pair.assert_nothing_left()


async def test_resets_do_not_free_places_of_handlers_that_run_on() -> None:
    running, most, release = 0, 0, trio.Event()

    async def stubborn(message: Any) -> EchoReply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        with trio.CancelScope(shield=True):
            await release.wait()
        running -= 1
        return echo_reply("")

    limits = Limits(max_concurrent_streams=5)
    async with connect_raw_peer(CallbackServicer(Echo=stubborn), limits=limits) as peer:
        for number in range(1, 101, 2):
            message = frames.encode_frame(frames.FrameType.DATA, 1, number, frame_message(b""))
            await peer.send(request_headers_frame(number) + message)
            await peer.send(frames.rst_stream(number, 8))
        assert most == 5
        release.set()
        await trio.testing.wait_all_tasks_blocked(0.01)


# -- congestion ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "size"), [(50, 50_000), (10, 250_000), (200, 10_000)])
async def test_two_congested_peers_do_not_wait_for_each_other(calls: int, size: int) -> None:
    async with connect_pair(ECHO_SERVICER) as pair:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(calls):
                    nursery.start_soon(pair.stub.Echo, echo_request("x" * size))
        pair.assert_nothing_left()


async def test_a_peer_that_asks_and_does_not_read_is_not_asked_for_more() -> None:
    async with connect_raw_peer(ECHO_SERVICER) as peer:
        pings = frames.ping(b"12345678", ack=False) * 100_000
        with trio.move_on_after(0.5) as scope:
            while True:
                await peer.send(pings)
        assert scope.cancelled_caught
        assert peer.server.write_buffer.size < 1_000_000


async def test_empty_data_is_not_kept() -> None:
    async with connect_raw_peer(ECHO_SERVICER) as peer:
        await peer.send(
            request_headers_frame(1) + frames.encode_frame(frames.FrameType.DATA, 0, 1) * 1000
        )
        reader = peer.server.streams[1]._reader
        assert reader is None or reader._chunks == []


async def test_a_deadline_while_the_reply_waits_for_the_kernel_harms_nobody() -> None:
    async def large(message: Any) -> EchoReply:
        return echo_reply("x" * 3_000_000)

    limits = Limits(stream_window=16_000_000, connection_window=16_000_000)
    async with connect_pair(CallbackServicer(Echo=large, Slow=large), client_limits=limits) as pair:
        with trio.move_on_after(0.01):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(pair.stub.Echo, echo_request(""))
        await pair.wait_until_idle()
        assert not pair.server.closed
        pair.assert_nothing_left()


# -- calls that are used in odd ways -------------------------------------------------------------


async def test_a_cancelled_send_ends_the_call() -> None:
    """Half a message may have gone out; what follows it would be taken for its rest."""

    async def never_reads(messages: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        await trio.sleep_forever()
        yield echo_reply("")

    async with connect_pair(CallbackServicer(Chat=never_reads)) as pair:
        async with pair.stub.Chat() as call:
            with trio.move_on_after(0.2) as scope:
                await call.send_message(echo_request("x" * 3_000_000))
                await call.send_message(echo_request("y" * 3_000_000))
            assert scope.cancelled_caught
            with pytest.raises(purerpc.CancelledError):
                await call.receive_message()
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_sending_after_the_end_is_refused_and_ending_twice_is_not() -> None:
    async with connect_pair(ECHO_SERVICER) as pair, pair.stub.Chat() as call:
        await call.close()
        await call.close()
        with pytest.raises(UsageError, match="ended already"):
            await call.send_message(echo_request("late"))


async def test_a_call_cancelled_before_its_first_use_does_not_start() -> None:
    async with connect_pair(ECHO_SERVICER) as pair:
        call = pair.stub.Chat(echo_requests("a"))
        call.cancel()
        with pytest.raises(purerpc.CancelledError):
            await call.receive_message()
        assert pair.client.streams == {}


async def test_a_dropped_call_drops_its_sender() -> None:
    closed = trio.Event()

    async def one_then_wait() -> AsyncIterator[EchoRequest]:
        try:
            yield echo_request("one")
            await trio.sleep_forever()
        finally:
            closed.set()

    async def first_only(messages: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
        yield echo_reply((await anext(aiter(messages))).message)

    async with connect_pair(CallbackServicer(Chat=first_only)) as pair:
        async with pair.stub.Chat(one_then_wait()) as call:
            async for _ in call:
                await pair.wait_until_idle()
                break
        gc.collect()
        with trio.fail_after(30):
            await closed.wait()


async def test_metadata_over_the_peers_limit_is_refused_here() -> None:
    async with connect_pair(ECHO_SERVICER) as pair:
        await pair.wait_until_idle()
        with pytest.raises(purerpc.ResourceExhaustedError, match="metadata"):
            await pair.stub.Echo(echo_request(""), metadata=[("k", "v" * 40_000)])
        await assert_unharmed(pair)


async def test_a_page_instead_of_a_reply_gives_the_status_of_its_http_status() -> None:
    page = encoder.encode([(b":status", b"503"), (b"content-type", b"text/html")])
    ours, theirs = socket.socketpair()
    with theirs:
        async with channel_over_socket(ours) as connection:
            theirs.sendall(
                frames.settings({})
                + frames.encode_header_block(1, page, end_stream=False, max_frame_size=16_384)
                + frames.encode_frame(frames.FrameType.DATA, 0, 1, b"<html>try again</html>")
            )
            call = UnaryUnaryMultiCallable(connection, method_from_descriptor(CHECK))
            with pytest.raises(purerpc.UnavailableError, match="503"), trio.fail_after(30):
                await call(health.HealthCheckRequest())


async def test_a_peer_that_answered_garbage_and_left_is_told_by_what_it_said() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"SSH-2.0-garbage\r\n" * 100)
    async with channel_over_socket(ours) as connection:
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(purerpc.UnavailableError, match="the peer violated HTTP/2"):
            await UnaryUnaryMultiCallable(connection, method_from_descriptor(CHECK))(
                health.HealthCheckRequest()
            )


async def test_draining_sends_every_byte_of_the_last_reply() -> None:
    async def large(message: Any) -> EchoReply:
        return echo_reply("x" * 3_000_000)

    async with connect_pair(CallbackServicer(Echo=large)) as pair, trio.open_nursery() as nursery:
        sizes: list[int] = []

        async def call() -> None:
            sizes.append(len((await pair.stub.Echo(echo_request(""))).message))

        for _ in range(5):
            nursery.start_soon(call)
        await trio.lowlevel.checkpoint()
        while not pair.server.streams:
            await trio.lowlevel.checkpoint()
        await pair.server.drain()
        await pair.wait_until_idle()
        assert sizes == [3_000_000] * 5


async def test_a_cancelled_handler_is_not_started_at_all() -> None:
    until = CancellationRecorder()
    async with connect_pair(CallbackServicer(Repeat=until.streaming)) as pair:
        call = pair.stub.Repeat(repeat_request(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.receive_message)
            nursery.cancel_scope.cancel()
        await pair.wait_until_idle()
        assert not until.started.is_set()
        pair.assert_nothing_left()
