"""What a service's config says of its calls holds for those that are passed on, too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.gateways import (
    GatewayHarness,
    configure_service,
    run_gateway,
    server_with_reflection,
)
from tests.support.servers import servicer_named

ECHO = {"a": ["echo.v1.EchoService"]}


async def answers(behind: GatewayHarness, count: int, **options: Any) -> Counter[str]:
    stub, found = behind.channel.stub(EchoServiceStub), Counter[str]()
    with trio.fail_after(30):
        for _ in range(count):
            try:
                found[(await stub.Echo(echo_request("?"), **options)).message] += 1
            except purerpc.InternalError:
                found["failed"] += 1
    return found


async def test_calls_in_flight_are_bounded_and_counted_out(short_dir: Path) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def slow(message: EchoRequest) -> EchoReply:
        if message.message == "slow":
            begun.set()
            await go_on.wait()
        return echo_reply(message.message)

    async with run_gateway(
        short_dir, ECHO, a=server_with_reflection(CallbackServicer(Echo=slow))
    ) as behind:
        configure_service(behind, meshtrio={"maxInFlight": 1})
        stub = behind.channel.stub(EchoServiceStub)
        assert await answers(behind, 5) == {"?": 5}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub.Echo, echo_request("slow"))
            await begun.wait()
            with pytest.raises(purerpc.ResourceExhaustedError, match="calls in flight is reached"):
                await stub.Echo(echo_request("?"))
            go_on.set()
        assert await answers(behind, 5) == {"?": 5}


async def test_an_endpoint_that_fails_is_ejected(short_dir: Path) -> None:
    async def broken(message: EchoRequest) -> EchoReply:
        raise purerpc.InternalError("broken")

    outliers = {
        "interval": "60s",
        "consecutiveFailures": 3,
        "maxEjectionPercent": 100,
        "childPolicy": [{"round_robin": {}}],
    }
    async with run_gateway(
        short_dir, ECHO, a=server_with_reflection(CallbackServicer(Echo=broken))
    ) as behind:
        async with behind.serve_endpoint("a", server_with_reflection(servicer_named("good"))):
            configure_service(
                behind, loadBalancingConfig=[{"outlier_detection_experimental": outliers}]
            )
            found = await answers(behind, 40)
            assert 1 <= found["failed"] <= 10
            assert await answers(behind, 20) == {"good": 20}


async def test_calls_of_one_key_go_to_one_endpoint(short_dir: Path) -> None:
    ring = {"ring_hash_experimental": {"requestHashHeader": "user"}}
    async with run_gateway(
        short_dir, ECHO, a=server_with_reflection(servicer_named("x"))
    ) as behind:
        async with behind.serve_endpoint("a", server_with_reflection(servicer_named("y"))):
            configure_service(behind, loadBalancingConfig=[ring])
            await answers(behind, 1)
            await trio.testing.wait_all_tasks_blocked(0.02)
            owners = set()
            for user in map(str, range(20)):
                found = await answers(behind, 3, metadata=[("user", user)])
                assert len(found) == 1
                owners |= found.keys()
            assert owners == {"x", "y"}
