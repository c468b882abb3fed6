"""Calls between two connected ends: every kind, every way to end."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.streaming import StreamingCall
from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.http2.limits import Limits
from tests.support.connection_pairs import (
    CallbackServicer,
    connect_pair,
    echo_reply,
    echo_request,
    echo_requests,
)
from tests.support.handlers import ECHO_SERVICER, CancellationRecorder, repeat_request


async def finish_call(call: Any) -> None:
    """See a call of either kind through to its end."""
    if isinstance(call, StreamingCall):
        async for _ in call:
            pass
    else:
        await call


# -- the four kinds ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_535, 300_000, 3_000_000])
async def test_unary_messages_of_every_size(size: int) -> None:
    async with connect_pair(ECHO_SERVICER) as pair:
        assert (await pair.stub.Echo(echo_request("x" * size))).message == "x" * size
        await pair.wait_until_idle()
        pair.assert_nothing_left()


@pytest.mark.parametrize("count", [0, 1, 1000])
async def test_server_stream(count: int) -> None:
    async with connect_pair(ECHO_SERVICER) as pair:
        replies = [r.message async for r in pair.stub.Repeat(repeat_request(count))]
        assert replies == [f"r{number}" for number in range(count)]
        await pair.wait_until_idle()
        pair.assert_nothing_left()


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "b", "c"] * 100])
async def test_client_stream(texts: list[str]) -> None:
    async with connect_pair(ECHO_SERVICER) as pair:
        assert (await pair.stub.Join(echo_requests(*texts))).message == " ".join(texts)
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_both_stream_turn_by_turn() -> None:
    async with connect_pair(ECHO_SERVICER) as pair:
        async with pair.stub.Chat() as call:
            for text in ("a", "b"):
                await call.send_message(echo_request(text))
                assert (await call.receive_message()).message == text
            await call.close()
            assert await call.receive_message() is None
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_both_stream_from_an_iterable() -> None:
    async with connect_pair(ECHO_SERVICER) as pair:
        chat_call = pair.stub.Chat(echo_requests("a", "b", "c"))
        assert [r.message async for r in chat_call] == ["a", "b", "c"]


async def test_many_calls_at_once_share_a_connection() -> None:
    async with connect_pair(ECHO_SERVICER) as pair:
        replies: list[str] = []

        async def one(text: str) -> None:
            replies.append((await pair.stub.Echo(echo_request(text))).message)

        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(one, str(number))
        assert sorted(replies, key=int) == [str(number) for number in range(500)]
        await pair.wait_until_idle()
        pair.assert_nothing_left()


# -- statuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        purerpc.NotFoundError("not here"),
        purerpc.PermissionDeniedError("ünïcode and % and\nnewline"),
        purerpc.ResourceExhaustedError(""),
        purerpc.UnknownError("on purpose"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_status_a_handler_raises_is_what_the_caller_catches(
    error: purerpc.RpcFailedError,
) -> None:
    async def handler(message: Any) -> EchoReply:
        raise error

    async with connect_pair(CallbackServicer(Echo=handler)) as pair:
        with pytest.raises(type(error)) as caught:
            await pair.stub.Echo(echo_request(""))
        assert caught.value.status.status_message == error.status.status_message


async def test_a_status_in_a_handlers_nursery_is_not_wrapped() -> None:
    async def handler(message: Any) -> EchoReply:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise purerpc.AlreadyExistsError("twice")

    async with connect_pair(CallbackServicer(Echo=handler)) as pair:
        with pytest.raises(purerpc.AlreadyExistsError):
            await pair.stub.Echo(echo_request(""))


async def test_replies_before_a_status_are_received() -> None:
    async def handler(message: Any) -> AsyncIterator[EchoReply]:
        yield echo_reply("one")
        raise purerpc.DataLossError("and no more")

    async with connect_pair(CallbackServicer(Repeat=handler)) as pair:
        call = pair.stub.Repeat(repeat_request(9))
        assert (await anext(call)).message == "one"
        with pytest.raises(purerpc.DataLossError):
            await anext(call)


async def _raises(message: Any) -> EchoReply:
    raise RuntimeError("a secret")


async def _returns_nothing(message: Any) -> Any:
    return None


async def _returns_another_type(message: Any) -> Any:
    return echo_request("a secret")


@pytest.mark.parametrize("handler", [_raises, _returns_nothing, _returns_another_type])
async def test_what_goes_wrong_in_a_handler_stays_in_its_log(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect_pair(CallbackServicer(Echo=handler)) as pair:
        with pytest.raises(purerpc.UnknownError) as caught:
            await pair.stub.Echo(echo_request(""))
        assert "secret" not in str(caught.value)
        assert "Traceback" in caplog.text
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_a_method_left_as_generated_is_unimplemented() -> None:
    async with connect_pair(CallbackServicer()) as pair:
        for call in (
            pair.stub.Echo(echo_request("")),
            pair.stub.Repeat(repeat_request(1)).receive_message(),
            pair.stub.Join(echo_requests("a")),
            pair.stub.Chat(echo_requests("a")).receive_message(),
        ):
            with pytest.raises(purerpc.UnimplementedError):
                await call
        await pair.wait_until_idle()
        pair.assert_nothing_left()


# -- metadata and deadlines --------------------------------------------------------------------


async def test_metadata_and_deadline_reach_the_handler() -> None:
    seen: list[Any] = []

    async def handler(message: Any, request: Any) -> EchoReply:
        seen.append(request)
        return echo_reply("")

    metadata = [("key", "value"), ("key", "again"), ("raw-bin", b"\x00\xff")]
    async with connect_pair(CallbackServicer(Echo=handler)) as pair:
        await pair.stub.Echo(echo_request(""), metadata=metadata)
        with trio.fail_after(30):
            await pair.stub.Echo(echo_request(""))
    assert seen[0].custom_metadata == tuple(metadata)
    assert seen[0].timeout is None
    assert seen[0].service_name == "echo.v1.EchoService"
    assert seen[0].method_name == "Echo"
    assert 10 < seen[1].timeout.total_seconds() <= 30
    assert seen[1].custom_metadata == ()


@pytest.mark.parametrize(
    "metadata", [[("grpc-x", "y")], [("k", b"bytes")], [("k-bin", "text")], [("k", "é")]]
)
async def test_metadata_that_cannot_be_sent_is_refused_here(metadata: Any) -> None:
    async with connect_pair(ECHO_SERVICER) as pair:
        with pytest.raises((ValueError, TypeError), match="metadata key"):
            await pair.stub.Echo(echo_request(""), metadata=metadata)
        pair.assert_nothing_left()


async def test_the_handlers_scope_has_the_callers_deadline() -> None:
    until = CancellationRecorder()
    async with connect_pair(CallbackServicer(Echo=until)) as pair:
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.2):
            await pair.stub.Echo(echo_request(""))
        await until.cancelled.wait()
        await pair.wait_until_idle()
        pair.assert_nothing_left()


# -- cancellation ------------------------------------------------------------------------------


async def test_a_cancelled_unary_call_cancels_its_handler() -> None:
    until = CancellationRecorder()
    async with connect_pair(CallbackServicer(Echo=until)) as pair:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.stub.Echo, echo_request(""))
            await until.started.wait()
            nursery.cancel_scope.cancel()
        await until.cancelled.wait()
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_leaving_a_reply_stream_early_cancels_its_handler() -> None:
    until = CancellationRecorder()
    async with connect_pair(CallbackServicer(Repeat=until.streaming)) as pair:
        async with pair.stub.Repeat(repeat_request(9)) as call:
            async for each in call:
                assert each.message == "first"
                break
        gc.collect()
        await until.cancelled.wait()
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_leaving_the_block_of_a_call_cancels_its_handler() -> None:
    until = CancellationRecorder()
    async with connect_pair(CallbackServicer(Repeat=until.streaming)) as pair:
        async with pair.stub.Repeat(repeat_request(9)) as call:
            await call.receive_message()
        await until.cancelled.wait()
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_a_call_that_was_cancelled_says_so_when_used_again() -> None:
    until = CancellationRecorder()
    async with connect_pair(CallbackServicer(Repeat=until.streaming)) as pair:
        async with pair.stub.Repeat(repeat_request(9)) as call:
            await call.receive_message()
        with pytest.raises(purerpc.CancelledError):
            await call.receive_message()


@pytest.mark.parametrize("method", ["Join", "Chat"])
async def test_an_error_in_the_callers_requests_is_the_callers(method: str) -> None:
    async def broken() -> AsyncIterator[EchoRequest]:
        yield echo_request("one")
        raise KeyError("mine")

    async with connect_pair(ECHO_SERVICER) as pair:
        with pytest.raises(KeyError, match="mine"):
            await finish_call(getattr(pair.stub, method)(broken()))
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_a_reply_before_the_requests_end_stops_the_sender() -> None:
    async def first_only(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        return echo_reply((await anext(aiter(messages))).message)

    closed = trio.Event()

    async def endless() -> AsyncIterator[EchoRequest]:
        try:
            while True:
                yield echo_request("x" * 1000)
        finally:
            closed.set()

    async with connect_pair(CallbackServicer(Join=first_only)) as pair:
        assert (await pair.stub.Join(endless())).message == "x" * 1000
        await closed.wait()
        await pair.wait_until_idle()
        pair.assert_nothing_left()


# -- limits ------------------------------------------------------------------------------------


async def test_a_reply_over_the_limit_fails_its_call_only() -> None:
    limits = Limits(max_message_size=1000)
    async with connect_pair(ECHO_SERVICER, client_limits=limits) as pair:
        with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 1000"):
            await pair.stub.Echo(echo_request("x" * 2000))
        assert (await pair.stub.Echo(echo_request("small"))).message == "small"
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_a_request_over_the_limit_fails_its_call_only() -> None:
    limits = Limits(max_message_size=1000)
    async with connect_pair(ECHO_SERVICER, server_limits=limits) as pair:
        with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 1000"):
            await pair.stub.Echo(echo_request("x" * 2000))
        assert (await pair.stub.Echo(echo_request("small"))).message == "small"
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_a_slow_reader_holds_the_writer_back() -> None:
    sent = 0

    async def endless(message: Any) -> AsyncIterator[EchoReply]:
        nonlocal sent
        while True:
            sent += 1
            yield echo_reply("x" * 10_000)

    limits = Limits(stream_window=65_535)
    async with connect_pair(CallbackServicer(Repeat=endless), client_limits=limits) as pair:
        async with pair.stub.Repeat(repeat_request(1)) as call:
            await pair.wait_until_idle()
            stopped_at = sent
            assert stopped_at * 10_000 < 65_535 + 20_000
            for _ in range(stopped_at):
                await call.receive_message()
            await pair.wait_until_idle()
            assert sent > stopped_at


async def test_calls_over_the_servers_limit_wait_their_turn() -> None:
    running, most = 0, 0

    async def handler(message: EchoRequest) -> EchoReply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.testing.wait_all_tasks_blocked()
        running -= 1
        return echo_reply(message.message)

    limits = Limits(max_concurrent_streams=3)
    async with connect_pair(CallbackServicer(Echo=handler), server_limits=limits) as pair:
        await pair.wait_until_idle()
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(pair.stub.Echo, echo_request(str(number)))
        assert most == 3


# -- the other side goes away ------------------------------------------------------------------


async def test_a_lost_connection_fails_every_call_at_once() -> None:
    until = CancellationRecorder()
    async with connect_pair(CallbackServicer(Echo=until, Repeat=until.streaming)) as pair:
        errors: list[Exception] = []

        async def call(kind: Any) -> None:
            with pytest.raises(ConnectionLostError) as caught:
                await kind
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, pair.stub.Echo(echo_request("")))
            async with pair.stub.Repeat(repeat_request(1)) as streaming:
                await streaming.receive_message()
                nursery.start_soon(call, streaming.receive_message())
                await until.started.wait()
                await pair.wait_until_idle()
                pair.break_connection()
                await until.cancelled.wait()
                await pair.wait_until_idle()
        assert len(errors) == 2
        assert pair.client.streams == {}


async def test_draining_lets_running_calls_finish_and_refuses_others() -> None:
    release = trio.Event()
    begun = trio.Event()

    async def handler(message: EchoRequest) -> EchoReply:
        begun.set()
        await release.wait()
        return echo_reply(message.message)

    async with connect_pair(CallbackServicer(Echo=handler)) as pair, trio.open_nursery() as nursery:
        replies: list[str] = []

        async def call() -> None:
            replies.append((await pair.stub.Echo(echo_request("late"))).message)

        nursery.start_soon(call)
        await begun.wait()
        nursery.start_soon(pair.server.drain)
        await pair.wait_until_idle()
        assert not pair.client.is_usable
        with pytest.raises(ConnectionLostError):
            await pair.stub.Echo(echo_request("new"))
        release.set()
        await pair.wait_until_idle()
        assert replies == ["late"]
        assert pair.client.closed
        assert pair.server.closed


async def test_calls_above_the_last_stream_are_known_to_be_unprocessed() -> None:
    until = CancellationRecorder()
    async with connect_pair(CallbackServicer(Repeat=until.streaming)) as pair:
        async with pair.stub.Repeat(repeat_request(1)) as first:
            await first.receive_message()
            pair.server._engine.refuse_new_streams()
            # One that cannot be made again: its requests may be gone.
            async with pair.stub.Chat() as second:
                pair.server.flush()
                with pytest.raises(CallRefusedError):
                    await second.receive_message()


async def test_a_server_may_speak_first() -> None:
    async def greet(requests: Any) -> AsyncIterator[EchoReply]:
        yield EchoReply(message="you first")
        async for message in requests:
            yield EchoReply(message=message.message)

    async with connect_pair(CallbackServicer(Chat=greet)) as pair:
        with trio.fail_after(30):
            async with pair.stub.Chat() as call:
                assert (await call.receive_message()).message == "you first"
                await call.send_message(echo_request("then me"))
                assert (await call.receive_message()).message == "then me"
