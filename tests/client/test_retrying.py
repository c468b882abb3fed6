"""Calls that are made again, over real sockets: by policy, hedged, pushed back, throttled."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import open_channel
from meshtrio.errors import ConnectionLostError
from meshtrio.grpc.service_config import MethodConfig, parse_service_config
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.failing_servicers import (
    HEDGING_POLICY,
    RETRY_POLICY,
    FailingHandlers,
    connect_to_servicers,
    make_failing_servicer,
    make_method_config,
    unavailable_errors,
)
from tests.support.servers import FakeResolver, serve_on_socket, unix_endpoint


async def test_a_call_is_made_again_and_says_how_often(short_dir: Path) -> None:
    found = FailingHandlers(unavailable_errors(3))
    async with connect_to_servicers(
        short_dir, make_method_config(retryPolicy=RETRY_POLICY), make_failing_servicer(found)
    ) as channel:
        reply = await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    assert reply.message == "hi"
    assert found.previous == [None, "1", "2", "3"]


async def test_the_last_failure_is_the_callers(short_dir: Path) -> None:
    found = FailingHandlers([*unavailable_errors(3), purerpc.UnavailableError("the last")])
    async with connect_to_servicers(
        short_dir, make_method_config(retryPolicy=RETRY_POLICY), make_failing_servicer(found)
    ) as channel:
        with pytest.raises(purerpc.UnavailableError, match="the last"):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    assert len(found.received_metadata) == 4


@pytest.mark.parametrize(
    "failure", [purerpc.InternalError("final"), purerpc.AbortedError("final")], ids=str
)
async def test_other_failures_are_final(failure: Exception, short_dir: Path) -> None:
    found = FailingHandlers([failure])
    async with connect_to_servicers(
        short_dir, make_method_config(retryPolicy=RETRY_POLICY), make_failing_servicer(found)
    ) as channel:
        with pytest.raises(type(failure), match="final"):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    assert len(found.received_metadata) == 1


async def test_without_a_policy_nothing_is_made_again(short_dir: Path) -> None:
    found = FailingHandlers(unavailable_errors(1))
    async with connect_to_servicers(short_dir, {}, make_failing_servicer(found)) as channel:
        with pytest.raises(purerpc.UnavailableError):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
        # The caller may bring one.
        found.failures = unavailable_errors(1)
        policy = parse_service_config(
            make_method_config(retryPolicy=RETRY_POLICY)
        ).get_method_config("", "")
        assert isinstance(policy, MethodConfig)
        await channel.stub(EchoServiceStub).Echo(echo_request("hi"), method_config=policy)
    assert len(found.received_metadata) == 3


async def test_a_server_can_say_when_and_that_never(short_dir: Path) -> None:
    found = FailingHandlers(unavailable_errors(1), pushback="150")
    async with connect_to_servicers(
        short_dir, make_method_config(retryPolicy=RETRY_POLICY), make_failing_servicer(found)
    ) as channel:
        stub = channel.stub(EchoServiceStub)
        await stub.Echo(echo_request("hi"))
        assert found.received_at[1] - found.received_at[0] >= 0.15
        found.failures, found.pushback = unavailable_errors(1), "-1"
        with pytest.raises(purerpc.UnavailableError):
            await stub.Echo(echo_request("hi"))
    assert len(found.received_metadata) == 3


async def test_a_deadline_is_not_waited_out(short_dir: Path) -> None:
    """The failure says more than the deadline that would come before the next attempt."""
    found = FailingHandlers(unavailable_errors(1), pushback="60000")
    async with connect_to_servicers(
        short_dir, make_method_config(retryPolicy=RETRY_POLICY), make_failing_servicer(found)
    ) as channel:
        with trio.fail_after(30), pytest.raises(purerpc.UnavailableError, match="not now"):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))


async def test_the_throttle_stops_retries_for_the_whole_channel(short_dir: Path) -> None:
    config = make_method_config(retryPolicy=RETRY_POLICY)
    config["retryThrottling"] = {"maxTokens": 4, "tokenRatio": 1}
    found = FailingHandlers(unavailable_errors(100))
    async with connect_to_servicers(short_dir, config, make_failing_servicer(found)) as channel:
        stub = channel.stub(EchoServiceStub)
        for attempts in (2, 1, 1):
            found.received_metadata.clear()
            with pytest.raises(purerpc.UnavailableError):
                await stub.Echo(echo_request("hi"))
            assert len(found.received_metadata) == attempts
        found.failures.clear()
        for _ in range(4):
            await stub.Echo(echo_request("hi"))
        found.failures, found.received_metadata = unavailable_errors(1), []
        await stub.Echo(echo_request("hi"))
    assert len(found.received_metadata) == 2


async def test_the_budget_bounds_what_retries_add(short_dir: Path) -> None:
    config = make_method_config(retryPolicy=RETRY_POLICY)
    config["meshtrio"] = {"retryBudget": {"ratio": 0.5, "minPerSecond": 0}}
    found = FailingHandlers(unavailable_errors(1000))
    async with connect_to_servicers(short_dir, config, make_failing_servicer(found)) as channel:
        for _ in range(20):
            with pytest.raises(purerpc.UnavailableError):
                await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    assert 25 <= len(found.received_metadata) <= 30


async def test_streams_earn_retries_and_calm_the_throttle_as_other_calls_do(
    short_dir: Path,
) -> None:
    config = make_method_config(retryPolicy=RETRY_POLICY)
    config["meshtrio"] = {"retryBudget": {"ratio": 0.5, "minPerSecond": 0}}
    config["retryThrottling"] = {"maxTokens": 4, "tokenRatio": 1}
    found = FailingHandlers(unavailable_errors(1))
    async with connect_to_servicers(short_dir, config, make_failing_servicer(found)) as channel:
        stub = channel.stub(EchoServiceStub)
        for _ in range(2):  # of which the first earns too little for its retry
            with contextlib.suppress(purerpc.UnavailableError):
                [reply async for reply in stub.Repeat(RepeatRequest(count=1))]
        found.failures, found.received_metadata = unavailable_errors(1), []
        replies = [reply async for reply in stub.Repeat(RepeatRequest(count=1))]
        assert channel.retry_control.throttle is not None
        assert channel.retry_control.throttle.tokens == 4
    assert (len(replies), found.previous) == (1, [None, "1"])


async def test_a_stream_is_made_again_until_its_reply_has_begun(short_dir: Path) -> None:
    found = FailingHandlers(unavailable_errors(1))
    async with connect_to_servicers(
        short_dir, make_method_config(retryPolicy=RETRY_POLICY), make_failing_servicer(found)
    ) as channel:
        stub = channel.stub(EchoServiceStub)
        replies = [reply.message async for reply in stub.Repeat(RepeatRequest(count=1))]
        assert replies == ["0"]
        assert found.previous == [None, "1"]
        found.failures = unavailable_errors(1)
        with pytest.raises(purerpc.UnavailableError):
            [reply async for reply in stub.Repeat(RepeatRequest(count=2))]
    assert len(found.received_metadata) == 3


async def test_another_attempt_goes_to_another_endpoint(short_dir: Path) -> None:
    bad, good = FailingHandlers(unavailable_errors(100)), FailingHandlers()
    config = make_method_config(retryPolicy={**RETRY_POLICY, "maxAttempts": 2})
    async with connect_to_servicers(
        short_dir, config, make_failing_servicer(bad), make_failing_servicer(good)
    ) as channel:
        for _ in range(20):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    assert len(good.received_metadata) == 20
    assert len(bad.received_metadata) > 5


async def test_a_broken_connection_is_retried_by_policy_only(short_dir: Path) -> None:
    breaking: list[Callable[[], None]] = []

    async def breaks(message: EchoRequest) -> EchoReply:
        if breaking:
            breaking.pop()()
            await trio.sleep_forever()
        return EchoReply(message="whole")

    server = Server(CallbackServicer(Echo=breaks))

    def cut() -> None:
        for connection in list(server.connections):
            connection.close("a test breaks it")

    feed = FakeResolver()
    feed.set(unix_endpoint(short_dir / "a"))
    config = parse_service_config(make_method_config(retryPolicy=RETRY_POLICY))
    async with (
        serve_on_socket(short_dir / "a", server),
        open_channel("x", feed, exit_info_timeout=0) as plain,
        open_channel("x", feed, exit_info_timeout=0, service_config=config) as retrying,
    ):
        breaking.append(cut)
        with pytest.raises(ConnectionLostError):
            await plain.stub(EchoServiceStub).Echo(echo_request("hi"))
        breaking.append(cut)
        reply = await retrying.stub(EchoServiceStub).Echo(echo_request("hi"))
        assert reply.message == "whole"


# -- hedging ---------------------------------------------------------------------------------


async def hang(message: EchoRequest) -> EchoReply:
    await trio.sleep_forever()
    raise AssertionError


async def test_the_first_answer_of_several_attempts_wins(short_dir: Path) -> None:
    found, cancelled = FailingHandlers(), []

    async def slow(message: EchoRequest) -> EchoReply:
        try:
            return await hang(message)
        finally:
            cancelled.append(True)

    config = make_method_config(hedgingPolicy=HEDGING_POLICY)
    async with connect_to_servicers(
        short_dir, config, CallbackServicer(Echo=slow), make_failing_servicer(found)
    ) as channel:
        for _ in range(6):
            with trio.fail_after(30):
                await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(found.received_metadata) == 6
    # About half went to the slow one first, and were cancelled there.
    assert cancelled


async def test_a_failure_that_is_not_fatal_hastens_the_next_attempt(short_dir: Path) -> None:
    found = FailingHandlers(unavailable_errors(2))
    config = make_method_config(hedgingPolicy={**HEDGING_POLICY, "hedgingDelay": "30s"})
    async with connect_to_servicers(short_dir, config, make_failing_servicer(found)) as channel:
        with trio.fail_after(30):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    assert found.previous == [None, "1", "2"]


@pytest.mark.parametrize(
    ("failures", "pushback", "attempts"),
    [
        ([purerpc.InternalError("x")], None, 1),
        (unavailable_errors(9), None, 3),
        (unavailable_errors(9), "-1", 1),
    ],
)
async def test_hedging_that_fails(
    failures: list[Exception], pushback: str | None, attempts: int, short_dir: Path
) -> None:
    found = FailingHandlers(list(failures), pushback=pushback)
    config = make_method_config(hedgingPolicy={**HEDGING_POLICY, "hedgingDelay": "30s"})
    async with connect_to_servicers(short_dir, config, make_failing_servicer(found)) as channel:
        with trio.fail_after(30), pytest.raises(type(failures[0])):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    assert len(found.received_metadata) == attempts


async def test_hedges_go_out_after_the_delay_and_wait_for_pushback(short_dir: Path) -> None:
    at: list[float] = []

    async def note(message: EchoRequest, request: Any) -> EchoReply:
        at.append(trio.current_time())
        if len(at) == 2:
            request.trailing_metadata = [("grpc-retry-pushback-ms", "200")]
            raise purerpc.UnavailableError("later")
        if len(at) == 3:
            return EchoReply()
        return await hang(message)

    config = make_method_config(hedgingPolicy=HEDGING_POLICY)
    async with connect_to_servicers(short_dir, config, CallbackServicer(Echo=note)) as channel:
        with trio.fail_after(30):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    assert at[1] - at[0] >= 0.05
    assert at[2] - at[1] >= 0.2


# -- what the config gives a method ----------------------------------------------------------


async def test_a_method_can_be_given_little_time(short_dir: Path) -> None:
    config = make_method_config(timeout="0.05s")
    async with connect_to_servicers(short_dir, config, CallbackServicer(Echo=hang)) as channel:
        with trio.fail_after(30), pytest.raises(purerpc.DeadlineExceededError, match=r"0\.05 s"):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))


@pytest.mark.parametrize("bound", ["maxRequestMessageBytes", "maxResponseMessageBytes"])
async def test_sizes_are_bounded(bound: str, short_dir: Path) -> None:
    config = make_method_config(**{bound: 100})
    async with connect_to_servicers(
        short_dir, config, make_failing_servicer(FailingHandlers())
    ) as channel:
        stub = channel.stub(EchoServiceStub)
        await stub.Echo(echo_request("x" * 90))
        with pytest.raises(purerpc.ResourceExhaustedError, match=f"of 102 bytes.* {bound}"):
            await stub.Echo(echo_request("x" * 100))


async def test_what_a_config_gives_holds_for_streams_too(short_dir: Path) -> None:
    async def slowly(message: RepeatRequest) -> AsyncIterator[EchoReply]:
        yield EchoReply(message="x" * message.count)
        await trio.sleep_forever()

    async def chat(messages: Any) -> AsyncIterator[EchoReply]:
        await trio.sleep_forever()
        yield EchoReply()

    config = make_method_config(
        timeout="0.1s", maxResponseMessageBytes=50, maxRequestMessageBytes=50
    )
    async with connect_to_servicers(
        short_dir, config, CallbackServicer(Repeat=slowly, Chat=chat)
    ) as channel:
        stub = channel.stub(EchoServiceStub)
        with trio.fail_after(30):
            async with stub.Repeat(RepeatRequest(count=1)) as call:
                assert (await call.receive_message()).message == "x"
                with pytest.raises(purerpc.DeadlineExceededError, match=r"0\.1 s"):
                    await call.receive_message()
            with pytest.raises(purerpc.ResourceExhaustedError, match="maxResponseMessageBytes"):
                await anext(stub.Repeat(RepeatRequest(count=100)))
            async with stub.Chat() as call:
                with pytest.raises(purerpc.ResourceExhaustedError, match="maxRequestMessageBytes"):
                    await call.send_message(echo_request("x" * 100))
                with pytest.raises(purerpc.ResourceExhaustedError, match="maxRequestMessageBytes"):
                    await call.receive_message()
            async with stub.Chat() as call:
                with pytest.raises(purerpc.DeadlineExceededError):
                    await call.receive_message()


async def counted(count: int, size: int = 1) -> AsyncIterator[EchoRequest]:
    for number in range(count):
        yield echo_request(str(number) * size)


@attrs.define
class FailingJoin:
    """Reads `reads` requests before it fails, in each attempt but the last."""

    failures: list[Exception]
    reads: int = 2
    attempts: list[str | None] = attrs.field(factory=list)

    async def join(self, messages: Any, request: Any) -> EchoReply:
        self.attempts.append(dict(request.custom_metadata).get("grpc-previous-rpc-attempts"))
        found = []
        async for message in messages:
            found.append(message.message[:1])
            if self.failures and len(found) == self.reads:
                raise self.failures.pop(0)
        return EchoReply(message="".join(found))

    async def chat(self, messages: Any) -> AsyncIterator[EchoReply]:
        async for message in messages:
            if self.failures:
                raise self.failures.pop(0)
            yield EchoReply(message=message.message)


async def test_a_stream_of_requests_is_sent_again_from_the_start(short_dir: Path) -> None:
    joining = FailingJoin(unavailable_errors(2))
    config = make_method_config(retryPolicy=RETRY_POLICY)
    servicer = CallbackServicer(Join=joining.join, Chat=joining.chat)
    async with connect_to_servicers(short_dir, config, servicer) as channel:
        stub = channel.stub(EchoServiceStub)
        with trio.fail_after(30):
            reply = await stub.Join(counted(9))
            assert reply.message == "012345678"
            assert joining.attempts == [None, "1", "2"]
            joining.failures = unavailable_errors(1)
            replies = [r.message async for r in stub.Chat(counted(5))]
            assert replies == list("01234")


async def test_more_requests_than_are_kept_are_not_sent_again(short_dir: Path) -> None:
    joining = FailingJoin(unavailable_errors(1), reads=400)
    async with connect_to_servicers(
        short_dir, make_method_config(retryPolicy=RETRY_POLICY), CallbackServicer(Join=joining.join)
    ) as channel:
        with trio.fail_after(30), pytest.raises(purerpc.UnavailableError):
            await channel.stub(EchoServiceStub).Join(counted(500, size=1000))
    assert len(joining.attempts) == 1


async def test_no_request_is_lost_that_is_made_between_two_attempts(short_dir: Path) -> None:
    """More than are kept, while the second attempt waits for an endpoint."""
    feed, joining, failed = (
        FakeResolver(),
        FailingJoin(unavailable_errors(1), reads=1),
        trio.Event(),
    )

    async def join(messages: Any, request: Any) -> EchoReply:
        feed.set()
        try:
            return await joining.join(messages, request)
        except purerpc.UnavailableError:
            failed.set()
            raise

    async def requests() -> AsyncIterator[EchoRequest]:
        yield echo_request("x")
        await failed.wait()
        async for message in counted(500, size=1000):
            yield message

    async def bring_back() -> None:
        await failed.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        feed.set(unix_endpoint(short_dir / "a"))

    config = parse_service_config(make_method_config(retryPolicy=RETRY_POLICY))
    async with serve_on_socket(short_dir / "a", Server(CallbackServicer(Join=join))):
        feed.set(unix_endpoint(short_dir / "a"))
        async with open_channel("x", feed, service_config=config) as channel:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bring_back)
                with trio.fail_after(30):
                    reply = await channel.stub(EchoServiceStub).Join(requests())
    assert len(reply.message) == 501
    assert joining.attempts == [None, "1"]


async def test_what_the_iterable_raises_is_not_retried(short_dir: Path) -> None:
    async def broken() -> AsyncIterator[EchoRequest]:
        yield echo_request("0")
        raise KeyError("the caller's own")

    joining = FailingJoin([])
    async with connect_to_servicers(
        short_dir, make_method_config(retryPolicy=RETRY_POLICY), CallbackServicer(Join=joining.join)
    ) as channel:
        with trio.fail_after(30), pytest.raises(KeyError, match="own"):
            await channel.stub(EchoServiceStub).Join(broken())
    assert len(joining.attempts) <= 1


async def test_requests_that_come_late_go_to_the_attempt_there_is(short_dir: Path) -> None:
    """The first attempt fails while the iterable is being waited for."""
    joining = FailingJoin(unavailable_errors(1), reads=1)
    failed = trio.Event()

    async def late() -> AsyncIterator[EchoRequest]:
        yield echo_request("0")
        await failed.wait()
        yield echo_request("1")

    async def tell(messages: Any, request: Any) -> EchoReply:
        try:
            return await joining.join(messages, request)
        except purerpc.UnavailableError:
            failed.set()
            raise

    async with connect_to_servicers(
        short_dir, make_method_config(retryPolicy=RETRY_POLICY), CallbackServicer(Join=tell)
    ) as channel:
        with trio.fail_after(30):
            reply = await channel.stub(EchoServiceStub).Join(late())
    assert reply.message == "01"
