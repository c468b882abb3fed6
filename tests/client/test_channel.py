"""Channels: endpoints that come and go, waiting for one, and stubs."""

from __future__ import annotations

import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import connect_to, open_channel
from meshtrio.client.multicallable import DynamicStub
from meshtrio.discovery.endpoint import ExitInfo
from meshtrio.errors import ConnectionLostError, PluginDiedError
from meshtrio.grpc.service_config import (
    LoadBalancingConfig,
    LoadBalancingPolicy,
    ServiceConfig,
)
from meshtrio.http2.limits import Limits
from meshtrio.messages import health as messages
from meshtrio.rpc.server import Server
from meshtrio.transport.listener import unix_listener
from meshtrio.util.errors import UsageError
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.servers import (
    FakeResolver,
    call_echo,
    serve_on_socket,
    servicer_named,
    standard_server,
    unix_endpoint,
)


async def test_calls_are_spread_evenly_and_follow_the_endpoints(short_dir: Path) -> None:
    a, b, feed = short_dir / "a", short_dir / "b", FakeResolver()
    config = ServiceConfig(load_balancing=LoadBalancingConfig(LoadBalancingPolicy.ROUND_ROBIN))
    async with (
        serve_on_socket(a),
        serve_on_socket(b),
        open_channel("x", feed, service_config=config) as channel,
    ):
        feed.set(unix_endpoint(a), unix_endpoint(b))
        await trio.testing.wait_all_tasks_blocked(0.01)
        answers = [await call_echo(channel) for _ in range(10)]
        assert sorted(answers) == ["a"] * 5 + ["b"] * 5
        feed.set(unix_endpoint(b))
        assert {await call_echo(channel) for _ in range(4)} == {"b"}
        feed.set(unix_endpoint(a))
        assert {await call_echo(channel) for _ in range(4)} == {"a"}


async def test_a_call_waits_for_an_endpoint(short_dir: Path) -> None:
    a, feed, answers = short_dir / "a", FakeResolver(), []
    async with open_channel("x", feed) as channel, trio.open_nursery() as nursery:

        async def call() -> None:
            answers.append(await call_echo(channel))

        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        feed.set(unix_endpoint(a))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert answers == []
        nursery.start_soon(_serve_until_cancelled, a)
        with trio.fail_after(30):
            while not answers:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert answers == ["a"]


async def _serve_until_cancelled(path: Path) -> None:
    async with serve_on_socket(path):
        await trio.sleep_forever()


async def test_calls_under_way_outlive_the_listing_of_their_endpoint(short_dir: Path) -> None:
    a, b, feed = short_dir / "a", short_dir / "b", FakeResolver()
    release, begun, answers = trio.Event(), trio.Event(), []

    async def echo(message: EchoRequest) -> EchoReply:
        begun.set()
        await release.wait()
        return EchoReply(message="late")

    async with serve_on_socket(a, Server(CallbackServicer(Echo=echo))), serve_on_socket(b):
        async with open_channel("x", feed) as channel, trio.open_nursery() as nursery:

            async def call() -> None:
                answers.append(await call_echo(channel))

            feed.set(unix_endpoint(a))
            nursery.start_soon(call)
            await begun.wait()
            feed.set(unix_endpoint(b))
            assert await call_echo(channel) == "b"
            release.set()
    assert answers == ["late"]


async def test_a_departure_tells_how_the_plugin_died(short_dir: Path) -> None:
    a, feed = short_dir / "a", FakeResolver()
    async with serve_on_socket(a) as server, open_channel("plugin.x", feed) as channel:
        feed.set(unix_endpoint(a))
        stub = channel.stub(EchoServiceStub)
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(PluginDiedError, match="it died") as caught:
                    await stub.Echo(echo_request("hang"))
                assert caught.value.signal == signal.SIGKILL
                assert caught.value.stderr_tail == ("oh",)

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.01)
            for connection in list(server.connections):
                connection.transport.sock.shutdown(socket.SHUT_RDWR)
            departure = ExitInfo("a", "it died", signal=signal.SIGKILL, stderr_tail=("oh",))
            feed.set(departures=(departure,))


async def test_an_endpoint_that_comes_back_is_connected_again(short_dir: Path) -> None:
    a = short_dir / "a"
    async with connect_to(f"unix:{a}") as channel:
        for _ in range(3):
            async with serve_on_socket(a):
                with trio.fail_after(30):
                    assert await call_echo(channel) == "a"


async def test_an_error_leaves_the_block_as_it_was_raised(short_dir: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with connect_to(f"unix:{short_dir / 'a'}"):
            raise KeyError("mine")


async def test_leaving_the_block_ends_its_calls(short_dir: Path) -> None:
    a = short_dir / "a"
    async with serve_on_socket(a), trio.open_nursery() as nursery:
        async with connect_to(f"unix:{a}") as channel:

            async def call(text: str) -> None:
                with pytest.raises(ConnectionLostError):
                    await channel.stub(EchoServiceStub).Echo(echo_request(text))

            nursery.start_soon(call, "hang")
            await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(30):
            await call("after the end")


async def test_purerpcs_own_stub_works_for_unary_calls(short_dir: Path) -> None:
    a = short_dir / "a"
    async with serve_on_socket(a), connect_to(f"unix:{a}") as channel:
        bare: Any = EchoServiceStub(channel)
        assert (await bare.Echo(echo_request("?"))).message == "a"
        with pytest.raises(purerpc.UnimplementedError):
            await bare.Slow(echo_request("?"))


async def test_what_is_no_stub_is_refused(short_dir: Path) -> None:
    class Other:
        def __init__(self, channel: object) -> None:
            pass

    async with connect_to(f"unix:{short_dir / 'a'}") as channel:
        with pytest.raises(UsageError, match="Other is not a stub"):
            channel.stub(Other)


@pytest.mark.parametrize(
    ("servicers", "reason"),
    [
        ([object()], "is not a servicer"),
        ([CallbackServicer], "instead of an instance"),
        ([CallbackServicer(), CallbackServicer()], r"two servicers serve echo\.v1\.EchoService"),
    ],
)
def test_what_is_no_servicer_is_refused(servicers: list[Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Server(*servicers)


async def test_a_drained_server_reports_the_calls_it_cut(short_dir: Path) -> None:
    a = short_dir / "a"
    async with serve_on_socket(a) as server, connect_to(f"unix:{a}") as channel:
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(purerpc.UnavailableError, match="stopped during the call"):
                    await channel.stub(EchoServiceStub).Echo(echo_request("hang"))

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(await server.drain(grace=0.05)) == 1


async def test_a_connection_that_drains_is_replaced_beside_its_last_call(short_dir: Path) -> None:
    a = short_dir / "a"
    async with serve_on_socket(a) as server, connect_to(f"unix:{a}") as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.stub(EchoServiceStub).Echo, echo_request("hang"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            for connection in list(server.connections):
                nursery.start_soon(connection.drain)
            await trio.testing.wait_all_tasks_blocked(0.01)
            with trio.fail_after(30):
                assert await call_echo(channel) == "a"
            nursery.cancel_scope.cancel()


async def test_no_waiter_sleeps_beside_a_free_place(short_dir: Path) -> None:
    async def turn(message: EchoRequest) -> EchoReply:
        for _ in range(int(message.message) % 7):
            await trio.lowlevel.checkpoint()
        return EchoReply(message=message.message)

    limits = Limits(max_concurrent_streams=1)
    paths = [short_dir / name for name in "abc"]
    async with AsyncExitStack() as stack:
        for path in paths:
            await stack.enter_async_context(
                serve_on_socket(path, Server(CallbackServicer(Echo=turn), limits=limits))
            )
        feed = FakeResolver()
        feed.set(*map(unix_endpoint, paths))
        channel = await stack.enter_async_context(open_channel("x", feed))
        stub = channel.stub(EchoServiceStub)
        with trio.fail_after(20):
            for _ in range(10):
                async with trio.open_nursery() as nursery:
                    for number in range(30):
                        nursery.start_soon(stub.Echo, echo_request(str(number)))


async def test_a_full_backlog_is_waited_for(short_dir: Path) -> None:
    a = short_dir / "a"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(a))
        listener.listen(0)
        async with connect_to(f"unix:{a}") as first, connect_to(f"unix:{a}") as second:
            await trio.testing.wait_all_tasks_blocked(0.01)
            listener.setblocking(False)
            async with trio.open_nursery() as nursery:
                await nursery.start(Server(servicer_named("a")).serve, listener)
                with trio.fail_after(30):
                    assert [await call_echo(first), await call_echo(second)] == ["a", "a"]
                nursery.cancel_scope.cancel()


async def test_a_server_that_closes_at_once_is_tried_with_backoff(short_dir: Path) -> None:
    accepted = 0
    with unix_listener(short_dir / "a") as listener:
        async with connect_to(f"unix:{short_dir / 'a'}"):
            with trio.move_on_after(0.5):
                while True:
                    await trio.lowlevel.wait_readable(listener)
                    listener.accept()[0].close()
                    accepted += 1
    assert 2 <= accepted <= 10


async def test_a_health_watch_does_not_hold_up_a_drain(short_dir: Path) -> None:
    server, health = standard_server(servicer_named("a"))
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        stub = DynamicStub(channel, messages.DESCRIPTOR.services_by_name["Health"])
        async with stub.Watch(messages.HealthCheckRequest()) as call:
            await call.receive_message()
            health.shutdown_started.set()
            with trio.fail_after(30):
                assert await server.drain(grace=60) == ()
