"""Transparent retries (gRFC A6): a refused call is retried once, and one not sent always."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import Channel, open_channel
from meshtrio.discovery.endpoint import ServiceState
from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.frames import Setting
from meshtrio.rpc.server import Server
from meshtrio.transport.listener import unix_listener
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.failing_servicers import HEDGING_POLICY, RETRY_POLICY, make_method_config
from tests.support.gateways import run_gateway, server_with_reflection
from tests.support.servers import FakeResolver, serve_on_socket, unix_endpoint


@attrs.define
class RefusingHandlers:
    """Resets the first `refusals` streams with REFUSED_STREAM, as a server's library does."""

    refusals: int
    received: list[str | None] = attrs.field(factory=list)
    """The value of grpc-previous-rpc-attempts of each stream, refused or not."""

    async def _admit(self, request: Any) -> None:
        self.received.append(dict(request.custom_metadata).get("grpc-previous-rpc-attempts"))
        if len(self.received) <= self.refusals:
            request._stream.reset(ErrorCode.REFUSED_STREAM)
            await trio.sleep_forever()

    async def echo(self, message: EchoRequest, request: Any) -> EchoReply:
        await self._admit(request)
        return EchoReply(message=message.message)

    async def repeat(self, message: RepeatRequest, request: Any) -> AsyncIterator[EchoReply]:
        await self._admit(request)
        yield EchoReply(message=message.message)

    async def join(self, messages: Any, request: Any) -> EchoReply:
        await self._admit(request)
        return EchoReply(message="".join([each.message async for each in messages]))

    def make_servicer(self) -> CallbackServicer:
        return CallbackServicer(Echo=self.echo, Repeat=self.repeat, Join=self.join)


async def call_method(channel: Channel, method: str) -> str:
    stub = channel.stub(EchoServiceStub)
    if method == "Echo":
        return str((await stub.Echo(echo_request("hi"))).message)
    if method == "Repeat":
        return "".join([each.message async for each in stub.Repeat(RepeatRequest(message="hi"))])

    async def requests() -> AsyncIterator[EchoRequest]:
        for letter in "hi":
            yield echo_request(letter)

    return str((await stub.Join(requests())).message)


@asynccontextmanager
async def connect_to_handlers(
    folder: Path, handlers: RefusingHandlers, config: dict[str, Any]
) -> AsyncIterator[Channel]:
    resolver = FakeResolver()
    resolver.set(unix_endpoint(folder / "a"))
    async with (
        serve_on_socket(folder / "a", Server(handlers.make_servicer())),
        open_channel("x", resolver, service_config=parse_service_config(config)) as channel,
    ):
        yield channel


METHODS = pytest.mark.parametrize("method", ["Echo", "Repeat", "Join"])


@METHODS
async def test_a_refused_call_is_retried_once_without_a_policy(
    method: str, short_dir: Path
) -> None:
    handlers = RefusingHandlers(1)
    async with connect_to_handlers(short_dir, handlers, {}) as channel:
        assert await call_method(channel, method) == "hi"
    assert handlers.received == [None, None]


@METHODS
async def test_the_second_refusal_is_final_without_a_policy(method: str, short_dir: Path) -> None:
    handlers = RefusingHandlers(9)
    async with connect_to_handlers(short_dir, handlers, {}) as channel:
        with pytest.raises(CallRefusedError):
            await call_method(channel, method)
    assert handlers.received == [None, None]


@METHODS
async def test_the_second_refusal_is_subject_to_the_policy(method: str, short_dir: Path) -> None:
    handlers = RefusingHandlers(3)
    config = make_method_config(retryPolicy=RETRY_POLICY)
    async with connect_to_handlers(short_dir, handlers, config) as channel:
        assert await call_method(channel, method) == "hi"
    assert handlers.received == [None, None, "1", "2"]


async def test_a_policy_limits_refusals(short_dir: Path) -> None:
    handlers = RefusingHandlers(99)
    config = make_method_config(retryPolicy=RETRY_POLICY)
    async with connect_to_handlers(short_dir, handlers, config) as channel:
        with pytest.raises(CallRefusedError):
            await call_method(channel, "Echo")
    assert handlers.received == [None, None, "1", "2", "3"]


async def test_each_hedge_is_retried_once(short_dir: Path) -> None:
    handlers = RefusingHandlers(3)
    config = make_method_config(hedgingPolicy={**HEDGING_POLICY, "hedgingDelay": "30s"})
    async with connect_to_handlers(short_dir, handlers, config) as channel:
        assert await call_method(channel, "Echo") == "hi"
    assert handlers.received == [None, None, "1", "1"]


@pytest.mark.parametrize(("refusals", "streams"), [(1, 2), (9, 2)])
async def test_the_gateway_retries_once(refusals: int, streams: int, short_dir: Path) -> None:
    handlers = RefusingHandlers(refusals)
    async with run_gateway(
        short_dir, a=server_with_reflection(handlers.make_servicer())
    ) as gateway:
        stub = gateway.channel.stub(EchoServiceStub)
        if refusals == 1:
            assert (await stub.Echo(echo_request("hi"))).message == "hi"
        else:
            with pytest.raises(purerpc.UnavailableError):
                await stub.Echo(echo_request("hi"))
    assert len(handlers.received) == streams


# -- calls that were not sent ----------------------------------------------------------------


async def _accept_without_reading(listener: socket.socket) -> trio.SocketStream:
    """Accept a connection, allow the client any amount of data, and read none of it."""
    with trio.socket.from_stdlib_socket(listener.dup()) as listening:
        accepted, _ = await listening.accept()
    stream = trio.SocketStream(accepted)
    settings = {Setting.INITIAL_WINDOW_SIZE: 2**30, Setting.MAX_CONCURRENT_STREAMS: 100}
    await stream.send_all(frames.settings(settings) + frames.window_update(0, 2**30))
    return stream


@METHODS
async def test_a_call_that_was_not_sent_is_made_elsewhere(method: str, short_dir: Path) -> None:
    """It waits behind a large request, for a server that reads nothing and then goes away."""
    a, b, resolver, failures, replies = short_dir / "a", short_dir / "b", FakeResolver(), [], []
    resolver.set(unix_endpoint(a))
    handlers = RefusingHandlers(0)

    async def call_large(channel: Channel) -> None:
        try:
            await channel.stub(EchoServiceStub).Echo(echo_request("x" * 4_000_000))
        except ConnectionLostError as exc:
            failures.append(type(exc))

    async def call_small(channel: Channel) -> None:
        replies.append(await call_method(channel, method))

    with unix_listener(a) as listener:
        async with (
            serve_on_socket(b, Server(handlers.make_servicer())),
            open_channel("x", resolver, exit_info_timeout=0) as channel,
            trio.open_nursery() as nursery,
        ):
            stream = await _accept_without_reading(listener)
            nursery.start_soon(call_large, channel)
            await trio.testing.wait_all_tasks_blocked(0.01)
            (endpoint,) = channel.picker.endpoints
            connection = endpoint.subchannel.connection
            assert connection is not None
            assert connection.write_buffer.size > 0
            nursery.start_soon(call_small, channel)
            await trio.testing.wait_all_tasks_blocked(0.01)
            resolver.set(unix_endpoint(b))
            await stream.aclose()
            with trio.fail_after(30):
                while not (failures and replies):
                    await trio.lowlevel.checkpoint()
    assert failures == [ConnectionLostError]
    assert replies == ["hi"]
    assert handlers.received == [None]


# -- reloads of the service config -----------------------------------------------------------


def _state(**values: Any) -> ServiceState:
    return ServiceState((), service_config=json.dumps(values))


async def test_a_reload_keeps_the_budget_and_the_throttle() -> None:
    throttling = {"maxTokens": 10, "tokenRatio": 0.1}
    async with open_channel("x", FakeResolver()) as channel:
        channel.update_state(
            _state(retryThrottling=throttling, meshtrio={"retryBudget": {"minPerSecond": 1}})
        )
        control, now = channel.retry_control, trio.current_time()
        assert control.throttle is not None
        control.throttle.tokens = 4
        while control.budget.withdraw(now):
            pass
        control.budget.deposit(now)
        # Another key of the config has changed.
        channel.update_state(
            _state(
                retryThrottling=throttling,
                meshtrio={"retryBudget": {"minPerSecond": 1}},
                healthCheckConfig={},
            )
        )
        assert channel.retry_control is control
        assert control.throttle.tokens == 4
        assert not control.throttle.can_retry
        assert not control.budget.withdraw(now)
        # The limits themselves have changed: what is left is scaled.
        channel.update_state(
            _state(
                retryThrottling={"maxTokens": 20, "tokenRatio": 0.1},
                meshtrio={"retryBudget": {"minPerSecond": 5}},
            )
        )
        assert control.throttle.tokens == 8
        assert not control.budget.withdraw(now)
