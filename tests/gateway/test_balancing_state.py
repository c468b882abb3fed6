"""What the gateway's channels say of their endpoints."""

from __future__ import annotations

import time
from pathlib import Path

import purerpc
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.gateway.balancing_state import list_balancing
from meshtrio.messages import control
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.gateways import (
    GatewayHarness,
    configure_service,
    run_gateway,
    server_with_reflection,
)
from tests.support.servers import servicer_named

ECHO = {"a": ["echo.v1.EchoService"]}


def state_of(behind: GatewayHarness) -> control.ServiceBalancing:
    (found,) = list_balancing(behind.gateway, ["a", "unknown"])
    assert isinstance(found, control.ServiceBalancing)
    return found


def ids_of(behind: GatewayHarness) -> list[str]:
    return [each.endpoint_id for each in state_of(behind).endpoints]


def state_of_endpoint(behind: GatewayHarness, name: str) -> control.EndpointBalancing:
    (found,) = (each for each in state_of(behind).endpoints if each.endpoint_id == name)
    return found


async def test_a_service_that_was_not_called_has_no_channel(short_dir: Path) -> None:
    async with run_gateway(
        short_dir, ECHO, a=server_with_reflection(servicer_named("a"))
    ) as behind:
        assert list_balancing(behind.gateway, ["a"]) == []
        await behind.channel.stub(EchoServiceStub).Echo(echo_request("?"))
        state = state_of(behind)
        assert (state.service, state.policy, state.waiting) == ("a", "least_request", 0)
        (endpoint,) = state.endpoints
        endpoint.ClearField("in_flight")  # The call of reflection may not have ended yet.
        assert endpoint == control.EndpointBalancing(
            endpoint_id=endpoint.endpoint_id,
            address=f"unix:{short_dir}/{endpoint.endpoint_id}",
            connectivity="ready",
            available=True,
            weight=1,
            healthy=True,
        )


async def test_ejections_calls_in_flight_and_failures_to_connect(short_dir: Path) -> None:
    begun = trio.Event()

    async def handle(message: EchoRequest) -> EchoReply:
        if message.message == "slow":
            begun.set()
            await trio.sleep_forever()
        return echo_reply("good")

    async def broken(message: EchoRequest) -> EchoReply:
        raise purerpc.InternalError("broken")

    outliers = {
        "interval": "60s",
        "consecutiveFailures": 1,
        "maxEjectionPercent": 100,
        "childPolicy": [{"round_robin": {}}],
    }
    good = server_with_reflection(CallbackServicer(Echo=handle))
    bad = server_with_reflection(CallbackServicer(Echo=broken))
    absent = short_dir / "absent.sock"
    async with run_gateway(short_dir, ECHO, a=good) as behind:
        async with behind.serve_endpoint("a", bad):
            configure_service(
                behind, loadBalancingConfig=[{"outlier_detection_experimental": outliers}]
            )
            stub, before = behind.channel.stub(EchoServiceStub), time.time()
            with behind.register_endpoint("a", absent), trio.fail_after(30):
                ejected = None
                while ejected is None:
                    try:
                        await stub.Echo(echo_request("?"))
                    except purerpc.InternalError:
                        ejected = next(
                            each for each in state_of(behind).endpoints if each.HasField("ejection")
                        )
                assert not ejected.available
                assert ejected.ejections == 1
                assert ejected.ejection.rule == "consecutive_failures"
                assert before - 1 < ejected.ejection.since < time.time() + 1
                assert 29 < ejected.ejection.until - ejected.ejection.since < 31
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stub.Echo, echo_request("slow"))
                    await begun.wait()
                    # The subchannel may have calls of reflection, too.
                    serving = next(iter(set(ids_of(behind)) - {ejected.endpoint_id, str(absent)}))
                    while state_of_endpoint(behind, serving).in_flight != 1:
                        await trio.testing.wait_all_tasks_blocked(0.005)
                    assert state_of_endpoint(behind, serving).available
                    while state_of_endpoint(behind, str(absent)).failed_connects < 2:
                        await trio.testing.wait_all_tasks_blocked(0.005)
                    missing = state_of_endpoint(behind, str(absent))
                    assert (missing.connectivity, missing.available) == ("transient-failure", False)
                    assert missing.connect_error == "No such file or directory"
                    nursery.cancel_scope.cancel()
