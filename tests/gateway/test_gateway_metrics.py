"""What is counted of the calls that are passed on: where each went, how it ended, its time."""

from __future__ import annotations

from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.telemetry.metric_families import Distribution
from meshtrio.telemetry.metrics.call_metrics import (
    MAX_MEASURED_SERVICES,
    GatewayMetrics,
)
from meshtrio.telemetry.metrics.call_recorder import FLUSH_THRESHOLD
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.gateways import (
    configure_service,
    count_calls,
    run_gateway,
    server_with_reflection,
)

A = "mesh:///a"


async def test_by_where_they_went_and_how_they_ended(short_dir: Path) -> None:
    began, ends = trio.Event(), trio.Event()

    async def answer(message: EchoRequest) -> EchoReply:
        match message.message:
            case "fail":
                raise purerpc.NotFoundError("no")
            case "wait":
                began.set()
                try:
                    await trio.sleep_forever()
                finally:
                    ends.set()
        return echo_reply("ok")

    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=answer))
    ) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        await stub.Echo(echo_request("fine"))
        with pytest.raises(purerpc.NotFoundError):
            await stub.Echo(echo_request("fail"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub.Echo, echo_request("wait"))
            await began.wait()
            assert count_calls(behind.gateway)[0] == 3
            nursery.cancel_scope.cancel()
        await ends.wait()
        with trio.move_on_after(0.2):
            await stub.Echo(echo_request("wait"))
        with pytest.raises(purerpc.RpcFailedError):
            await stub.Echo(echo_request("fine"), metadata=[("x-mesh-target", "nobody")])
        await behind.assert_nothing_left()
        began_in_all, ended = count_calls(behind.gateway)
    assert began_in_all == 5
    assert ended == {
        (A, "OK"): 1,
        (A, "NOT_FOUND"): 1,
        (A, "CANCELLED"): 1,
        (A, "DEADLINE_EXCEEDED"): 1,
        ("other", "NOT_FOUND"): 1,
    }


class HoldingHandler:
    """A handler that replies once `goes_on` is set."""

    def __init__(self) -> None:
        self.arrived, self.goes_on = trio.Event(), trio.Event()

    async def answer(self, message: EchoRequest) -> EchoReply:
        self.arrived.set()
        await self.goes_on.wait()
        return echo_reply("ok")


async def test_the_time_is_that_from_head_to_status(short_dir: Path) -> None:
    held = HoldingHandler()
    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=held.answer))
    ) as behind:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(behind.channel.stub(EchoServiceStub).Echo, echo_request("x"))
            await held.arrived.wait()
            since = trio.current_time()
            while trio.current_time() < since + 0.01:
                await trio.lowlevel.checkpoint()
            held.goes_on.set()
        assert behind.gateway.call_metrics is not None
        (point,) = behind.gateway.call_metrics.collect()[1].points
    assert isinstance(point.value, Distribution)
    assert 0.01 <= point.value.sum < 5


async def test_a_call_that_its_service_has_no_place_for_is_among_its_own(short_dir: Path) -> None:
    held = HoldingHandler()
    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer(Echo=held.answer))
    ) as behind:
        configure_service(behind, meshtrio={"maxInFlight": 1})
        stub = behind.channel.stub(EchoServiceStub)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub.Echo, echo_request("x"))
            await held.arrived.wait()
            with pytest.raises(purerpc.ResourceExhaustedError):
                await stub.Echo(echo_request("x"))
            held.goes_on.set()
        assert count_calls(behind.gateway)[1] == {(A, "OK"): 1, (A, "RESOURCE_EXHAUSTED"): 1}


def test_series_are_bounded_whatever_is_registered() -> None:
    calls = GatewayMetrics()
    for number in range(2 * MAX_MEASURED_SERVICES):
        for code in (0, 99):
            calls.start_call(f"s{number}").record(code, 0.1)
    calls.start_call("other").record(0, 0.1)
    for _ in range(FLUSH_THRESHOLD):
        calls.start_call(None).record(5, 0.1)
    began, ended = calls.collect()
    assert len(began.points) == MAX_MEASURED_SERVICES + 1
    assert len(ended.points) == 2 * (MAX_MEASURED_SERVICES + 1) + 1
    assert (
        sum(p.value for p in began.points if isinstance(p.value, int))
        == 4 * MAX_MEASURED_SERVICES + 1 + FLUSH_THRESHOLD
    )
    statuses = {dict(point.labels)["grpc.status"] for point in ended.points}
    assert statuses == {"OK", "UNKNOWN", "NOT_FOUND"}


def test_a_service_called_other_has_a_series_of_its_own() -> None:
    metrics = GatewayMetrics()
    for service in ("other", None, ""):
        metrics.start_call(service).record(0, 0.1)
    started, _ = metrics.collect()
    series = [(dict(point.labels)["grpc.target"], point.value) for point in started.points]
    assert series == [("mesh:///other", 1), ("other", 2)]
