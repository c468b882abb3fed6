"""Interceptors on both sides, `current_call` in a handler, and what is carried on from it."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import connect_to
from meshtrio.client.interceptors import ClientCall, call_credentials
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.rpc.context import ServerContext, current_call
from meshtrio.rpc.server import Server
from meshtrio.util.errors import UsageError
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.handlers import handle_chat, handle_repeat
from tests.support.servers import serve_on_socket
from tests.support.tls import TEST_CA, client_tls, server_context
from tests.support.tls import serve_on_tcp as serving_tls


async def told(message: EchoRequest, request: Any) -> EchoReply:
    """Answers with a value of its metadata."""
    return EchoReply(message=dict(request.custom_metadata).get(message.message, ""))


class RecordingInterceptor:
    """A client's interceptor that records what it sees."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.lines: list[str] = []
        self.calls: list[ClientCall] = []

    @asynccontextmanager
    async def __call__(self, call: ClientCall) -> AsyncIterator[None]:
        self.calls.append(call)
        self.lines.append(f"{self.name}+{call.method.rpartition('/')[2]}")
        call.metadata.append(("trail", self.name))
        try:
            yield
        except Exception as exc:
            self.lines.append(f"{self.name}!{type(exc).__name__}")
            raise
        self.lines.append(f"{self.name}-")


async def test_they_are_around_each_call_the_first_outermost(short_dir: Path) -> None:
    address = f"unix:{short_dir / 'a'}"
    outer, inner = RecordingInterceptor("outer"), RecordingInterceptor("inner")
    outer.lines = inner.lines
    async with serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=told))):
        async with connect_to(address, interceptors=[outer, inner]) as channel:
            stub = channel.stub(EchoServiceStub)
            assert (await stub.Echo(echo_request("trail"))).message == "inner"
            assert outer.lines == ["outer+Echo", "inner+Echo", "inner-", "outer-"]
            call = outer.calls[0]
            assert call.peer == address
            assert call.trailing_metadata == ()
            assert call.deadline == float("inf")
            outer.lines.clear()
            with pytest.raises(purerpc.UnimplementedError):
                await stub.Join(some())
            assert outer.lines[-2:] == ["inner!UnimplementedError", "outer!UnimplementedError"]


async def some() -> AsyncIterator[EchoRequest]:
    yield EchoRequest(message="x")


async def test_retries_are_within_one_block(short_dir: Path) -> None:
    failures = [purerpc.UnavailableError("not now")] * 2

    async def flaky(message: EchoRequest) -> EchoReply:
        if failures:
            raise failures.pop()
        return EchoReply()

    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = parse_service_config({"methodConfig": [{"name": [{}], "retryPolicy": retry}]})
    log = RecordingInterceptor()
    async with serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=flaky))):
        address = f"unix:{short_dir / 'a'}"
        async with connect_to(address, interceptors=[log], service_config=config) as channel:
            await channel.stub(EchoServiceStub).Echo(echo_request("x"))
    assert log.lines == ["+Echo", "-"]


async def test_they_see_the_end_of_a_stream_however_it_comes(short_dir: Path) -> None:
    log = RecordingInterceptor()

    async def failing(message: RepeatRequest) -> AsyncIterator[EchoReply]:
        yield EchoReply()
        raise purerpc.AbortedError("enough")

    servicer = CallbackServicer(Repeat=handle_repeat, Chat=handle_chat)
    async with (
        serve_on_socket(short_dir / "a", Server(servicer)),
        serve_on_socket(short_dir / "b", Server(CallbackServicer(Repeat=failing))),
        connect_to(f"unix:{short_dir / 'a'}", interceptors=[log]) as good,
        connect_to(f"unix:{short_dir / 'b'}", interceptors=[log]) as bad,
    ):
        replies = [r async for r in good.stub(EchoServiceStub).Repeat(RepeatRequest(count=3))]
        assert len(replies) == 3
        assert log.lines == ["+Repeat", "-"]
        log.lines.clear()
        with pytest.raises(purerpc.AbortedError):
            [r async for r in bad.stub(EchoServiceStub).Repeat(RepeatRequest(count=3))]
        assert log.lines == ["+Repeat", "!AbortedError"]
        log.lines.clear()
        async with good.stub(EchoServiceStub).Repeat(RepeatRequest(count=1000)) as call:
            async for _ in call:
                break
        async with good.stub(EchoServiceStub).Chat() as chatting:
            await chatting.send_message(echo_request("x"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert sorted(log.lines) == ["+Chat", "+Repeat", "-", "-"]


async def test_one_may_refuse_a_call_and_change_its_failure(short_dir: Path) -> None:
    @asynccontextmanager
    async def refuse(call: ClientCall) -> AsyncIterator[None]:
        if call.method.endswith("/Repeat"):
            raise purerpc.PermissionDeniedError("not from here")
        try:
            yield
        except purerpc.UnimplementedError:
            raise purerpc.NotFoundError("as it is called here") from None

    async with serve_on_socket(short_dir / "a", Server(CallbackServicer())):
        async with connect_to(f"unix:{short_dir / 'a'}", interceptors=[refuse]) as channel:
            stub = channel.stub(EchoServiceStub)
            with pytest.raises(purerpc.PermissionDeniedError):
                await anext(stub.Repeat(RepeatRequest()))
            with pytest.raises(purerpc.NotFoundError):
                await stub.Echo(echo_request("x"))
            with pytest.raises(purerpc.NotFoundError):
                await anext(stub.Chat())


async def test_credentials_and_metadata_of_the_channel(short_dir: Path) -> None:
    tokens = iter(["one", "two"])

    async def token(call: ClientCall) -> list[tuple[str, str]]:
        await trio.lowlevel.checkpoint()
        return [("authorization", next(tokens))]

    async with serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=told))):
        async with connect_to(
            f"unix:{short_dir / 'a'}",
            interceptors=[call_credentials(token)],
            metadata=[("team", "blue")],
        ) as channel:
            stub = channel.stub(EchoServiceStub)
            for word, said in (("authorization", "one"), ("authorization", "two")):
                assert (await stub.Echo(echo_request(word))).message == said
        async with connect_to(f"unix:{short_dir / 'a'}", metadata=[("team", "blue")]) as channel:
            stub = channel.stub(EchoServiceStub)
            assert (await stub.Echo(echo_request("team"))).message == "blue"
            reply = await stub.Echo(echo_request("own"), metadata=[("own", "x")])
            assert reply.message == "x"


# -- on the server ---------------------------------------------------------------------------


async def test_a_servers_interceptors_may_refuse_and_add(short_dir: Path) -> None:
    lines: list[str] = []

    @asynccontextmanager
    async def guard(call: ServerContext) -> AsyncIterator[None]:
        if ("pass", "word") not in call.custom_metadata:
            raise purerpc.UnauthenticatedError("who are you?")
        lines.append(call.method_name)
        yield
        call.trailing_metadata = [("seen", "by-guard")]
        lines.append("done")

    server = Server(CallbackServicer(Echo=told, Repeat=handle_repeat), interceptors=[guard])
    async with serve_on_socket(short_dir / "a", server):
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            stub = channel.stub(EchoServiceStub)
            with pytest.raises(purerpc.UnauthenticatedError, match="who are you"):
                await stub.Echo(echo_request("x"))
            metadata = [("pass", "word")]
            _, outcome = await stub.Echo.with_call(echo_request("pass"), metadata=metadata)
            assert outcome.trailing_metadata == (("seen", "by-guard"),)
            call = stub.Repeat(RepeatRequest(count=2), metadata=metadata)
            assert len([reply async for reply in call]) == 2
            assert call.trailing_metadata == (("seen", "by-guard"),)
    assert lines == ["Echo", "done", "Repeat", "done"]


def test_there_is_no_current_call_outside_a_handler() -> None:
    with pytest.raises(UsageError, match="for handlers"):
        current_call()


async def test_a_handler_knows_its_call_wherever_it_is(short_dir: Path) -> None:
    found: dict[str, Any] = {}

    async def deep() -> None:
        call = current_call()
        found.update(peer=call.peer, left=call.deadline - trio.current_time())
        call.trailing_metadata = [("from", "below")]

    async def handler(message: EchoRequest) -> EchoReply:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deep)
        return EchoReply(message=current_call().method_name)

    async with serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=handler))):
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            with trio.fail_after(30):
                reply, outcome = await channel.stub(EchoServiceStub).Echo.with_call(
                    echo_request("x")
                )
    assert reply.message == "Echo"
    assert outcome.trailing_metadata == (("from", "below"),)
    assert (found["peer"].pid, found["peer"].uid) == (os.getpid(), os.getuid())
    assert 0 < found["left"] <= 30


async def test_a_handler_learns_why_it_was_cancelled(short_dir: Path) -> None:
    reasons: list[str] = []

    async def handler(message: EchoRequest) -> EchoReply:
        try:
            await trio.sleep_forever()
        finally:
            reasons.append(current_call().cancellation_reason)
        raise AssertionError

    async with serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=handler))):
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.stub(EchoServiceStub).Echo, echo_request("x"))
                await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked(0.01)
    (reason,) = reasons
    assert "CANCEL" in reason


async def test_the_certificate_of_a_caller_is_known() -> None:
    async def who(message: EchoRequest, request: Any) -> EchoReply:
        return EchoReply(message=" ".join([*request.peer.subject_alt_names, request.peer.address]))

    context: ssl.SSLContext = server_context(mutual=True)
    async with serving_tls(context, CallbackServicer(Echo=who)) as address:
        tls = client_tls(client_ca=TEST_CA)
        async with connect_to(address, tls=tls) as channel:
            reply = await channel.stub(EchoServiceStub).Echo(echo_request("x"))
    name, _, peer = reply.message.partition(" ")
    assert name == "email:client@example.org"
    assert peer.startswith("127.0.0.1:")


TRACE = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


async def test_trace_and_baggage_go_on_with_a_handlers_own_calls(short_dir: Path) -> None:
    address = f"unix:{short_dir / 'b'}"

    async def passing_on(message: EchoRequest) -> EchoReply:
        async with connect_to(address) as behind:
            stub = behind.stub(EchoServiceStub)
            own = [("baggage", "its=own")] if message.message == "baggage" else []
            reply: EchoReply = await stub.Echo(message, metadata=own)
            return reply

    async with (
        serve_on_socket(short_dir / "b", Server(CallbackServicer(Echo=told))),
        serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=passing_on))),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        stub = channel.stub(EchoServiceStub)
        metadata = [TRACE, ("baggage", "user=7"), ("secret", "stays here")]
        for word, said in (("traceparent", TRACE[1]), ("secret", ""), ("baggage", "its=own")):
            assert (await stub.Echo(echo_request(word), metadata=metadata)).message == said
