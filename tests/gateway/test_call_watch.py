"""The gateway's calls by method, for those who watch them."""

from __future__ import annotations

from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.multicallable import make_multicallable
from meshtrio.contract import TARGET_METADATA_KEY
from meshtrio.gateway.call_watch import CallWatch
from meshtrio.rpc.method import Method
from meshtrio.rpc.method_load import MethodTracker
from meshtrio.services.method_statistics import MAX_GATEWAY_METHODS, GatewayKey
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.gateways import GatewayHarness, run_gateway, server_with_reflection
from tests.support.servers import servicer_named

ECHO = {"a": ["echo.v1.EchoService"]}
METHOD = "echo.v1.EchoService/Echo"
Taken = dict[GatewayKey, tuple[int, int, dict[int, int]]]


def taken(tracker: MethodTracker[GatewayKey]) -> Taken:
    """Started, in flight and ended, by service and method."""
    return {key: (load.started, load.in_flight, load.ended) for key, load in tracker.take()}


def streams(behind: GatewayHarness) -> list[object]:
    found = behind.server.connections
    return [stream for connection in found for stream in connection.streams.values()]


async def test_nothing_observes_calls_without_metrics_and_watchers(short_dir: Path) -> None:
    """The metrics count all the same while calls are watched, and after that."""
    async with run_gateway(
        short_dir, ECHO, a=server_with_reflection(servicer_named("a"))
    ) as behind:
        stub, gateway = behind.channel.stub(EchoServiceStub), behind.gateway
        assert gateway.call_observer is gateway.call_metrics
        await stub.Echo(echo_request("?"))
        with gateway.watch_calls(streams(behind)) as first:
            with gateway.watch_calls(streams(behind)) as second:
                await stub.Echo(echo_request("?"))
            await stub.Echo(echo_request("?"))
            assert gateway.call_observer is not gateway.call_metrics
        assert gateway.call_observer is gateway.call_metrics
        await stub.Echo(echo_request("?"))
        assert taken(first) == {("a", METHOD): (2, 0, {0: 2})}
        assert taken(second) == {("a", METHOD): (1, 0, {0: 1})}
        await behind.assert_nothing_left()


async def test_calls_of_reflection_and_the_like_are_not_counted(short_dir: Path) -> None:
    async with run_gateway(
        short_dir, ECHO, a=server_with_reflection(servicer_named("a"))
    ) as behind:
        method = Method.from_path(
            "/grpc.channelz.v1.Channelz/GetServers", (EchoRequest, EchoReply), False, False
        )
        with behind.gateway.watch_calls(streams(behind)) as tracker:
            call = make_multicallable(behind.channel, method)
            with pytest.raises(purerpc.InternalError, match="cannot be parsed"):
                await call(EchoRequest(), metadata=[(TARGET_METADATA_KEY, "a")])
            await behind.channel.stub(EchoServiceStub).Echo(echo_request("?"))
            assert taken(tracker) == {("a", METHOD): (1, 0, {0: 1})}


async def test_a_long_call_is_in_the_counts_of_each_watcher(short_dir: Path) -> None:
    """It keeps nothing of watchers that have gone."""
    begun, go_on = trio.Event(), trio.Event()

    async def slow(message: EchoRequest) -> EchoReply:
        begun.set()
        await go_on.wait()
        return echo_reply(message.message)

    async with run_gateway(
        short_dir, ECHO, a=server_with_reflection(CallbackServicer(Echo=slow))
    ) as behind:
        gateway, stub = behind.gateway, behind.channel.stub(EchoServiceStub)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub.Echo, echo_request("?"))
            with trio.fail_after(30):
                await begun.wait()
            for _ in range(20):
                with gateway.watch_calls(streams(behind)) as tracker:
                    taken(tracker)
                    assert taken(tracker) == {("a", METHOD): (0, 1, {})}
            with (
                gateway.watch_calls(streams(behind)) as first,
                gateway.watch_calls(streams(behind)) as second,
            ):
                (call,) = (each for each in streams(behind) if hasattr(each, "_outcome_recorder"))
                assert call._outcome_recorder.loads.keys() == {first, second}
                go_on.set()
                await trio.testing.wait_all_tasks_blocked(0.02)
                assert taken(first) == taken(second) == {("a", METHOD): (0, 0, {0: 1})}
        await behind.assert_nothing_left()


async def test_calls_that_may_not_be_made_are_counted(short_dir: Path) -> None:
    """Under the name of a method, if the mesh knows its service."""
    async with run_gateway(
        short_dir, ECHO, a=server_with_reflection(servicer_named("a"))
    ) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        behind.server.check_access = lambda *_: "you may not"
        with behind.gateway.watch_calls(streams(behind)) as tracker:
            with pytest.raises(purerpc.PermissionDeniedError):
                await stub.Echo(echo_request("?"))
            for path in ("/no.such.Service/Method", "/grpc.health.v1.Health/Check"):
                method = Method.from_path(path, (EchoRequest, EchoReply), False, False)
                with pytest.raises(purerpc.PermissionDeniedError):
                    await make_multicallable(behind.channel, method)(echo_request("?"))
            assert taken(tracker) == {
                ("a", METHOD): (1, 0, {7: 1}),
                ("", "other"): (1, 0, {7: 1}),
            }


def test_the_number_of_methods_is_bounded_whatever_they_are_called() -> None:
    watch = CallWatch(None)
    with watch.add_tracker() as tracker:
        for number in range(1000):
            watch.count_rejected("a", f"/s/refused{number}", 7)
        assert len(tracker) == MAX_GATEWAY_METHODS // 2
        for number in range(1000):
            watch.start_call("a", f"/s/m{number}").record(0, 0.1)
        for name in ("x" * 1000, "\x1b[2J", "a\nb"):
            watch.start_call("a", f"/s/{name}").record(0, 0.1)
        found = taken(tracker)
        assert len(found) == MAX_GATEWAY_METHODS + 1
        assert sum(started for started, _, _ in found.values()) == 2003
        assert found["", "other"][0] == 2003 - MAX_GATEWAY_METHODS
