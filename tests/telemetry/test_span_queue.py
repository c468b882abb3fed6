"""A collector that is slow, gone, or talks nonsense: no call waits for it, and nothing piles up."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
import trio.testing
from echo.v1.echo_grpc import EchoServiceStub
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from meshtrio.client.channel import connect_to
from meshtrio.config.otlp_endpoint import OtlpEndpoint as Where
from meshtrio.rpc.server import Server
from meshtrio.telemetry.traces.batch_span_processor import TrioBatchSpanProcessor
from meshtrio.telemetry.traces.pipeline import TracePipeline, export_traces
from tests.support.connection_pairs import echo_request
from tests.support.handlers import ECHO_SERVICER
from tests.support.otlp_collector import run_collector
from tests.support.scheduling_delay import SchedulingDelay
from tests.support.servers import serve_on_socket


def read_counts(queue: TrioBatchSpanProcessor) -> dict[str, float]:
    """Return the counts "sent" and "waiting", and of dropped spans by reason."""
    found: dict[str, float] = {}
    for family in queue.collect():
        for point in family.points:
            name = dict(point.labels).get("reason", family.name.rpartition(".")[2])
            assert isinstance(point.value, int | float)
            found[name] = point.value
    return found


@asynccontextmanager
async def connect_traced(
    folder: Path, export_timeout: float = 10.0
) -> AsyncIterator[tuple[TracePipeline, Any]]:
    """Yield a pipeline to a collector at "c", and a stub whose calls are traced."""
    where = Where.parse(f"unix:{folder / 'c'}")
    async with export_traces(where, 1.0, export_timeout=export_timeout) as traces:
        async with (
            serve_on_socket(folder / "a", Server(ECHO_SERVICER)),
            connect_to(f"unix:{folder / 'a'}") as channel,
        ):
            yield traces, channel.stub(EchoServiceStub)


async def time_slowest_call(stub: Any, count: int) -> float:
    """Make calls one after the other; returns the seconds that the slowest took."""
    slowest = 0.0
    for _ in range(count):
        began = trio.current_time()
        await stub.Echo(echo_request("hi"))
        slowest = max(slowest, trio.current_time() - began)
    return slowest


async def hangs() -> Any:
    await trio.sleep_forever()


async def fails() -> Any:
    raise purerpc.UnavailableError("no room")


async def refuses() -> Any:
    raise purerpc.InvalidArgumentError("not like this")


async def talks_nonsense() -> Any:
    return otlp.ExportTraceServiceRequest()


async def rejects_some() -> Any:
    partial = otlp.ExportTracePartialSuccess(rejected_spans=10, error_message="too old")
    return otlp.ExportTraceServiceResponse(partial_success=partial)


async def rejects_too_many() -> Any:
    partial = otlp.ExportTracePartialSuccess(rejected_spans=2**60)
    return otlp.ExportTraceServiceResponse(partial_success=partial)


@pytest.mark.parametrize("answer", [hangs, fails, refuses, talks_nonsense, None])
async def test_no_call_waits_and_no_memory_grows_whatever_the_collector_does(
    answer: Any, short_dir: Path
) -> None:
    async with trio.open_nursery() as nursery:
        if answer is not None:
            nursery.start_soon(_collect, short_dir / "c", answer)
        async with connect_traced(short_dir) as (traces, stub):
            await time_slowest_call(stub, 900)  # of three spans each: more than there is room for
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                with SchedulingDelay() as late:
                    slowest = await time_slowest_call(stub, 600)
                grown = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
            counts = read_counts(traces.processor)
            assert slowest < 0.5 + late.allowance
            assert counts["waiting"] <= 2048
            # Room for 2,048 spans is no more than that, whether it was full before or not.
            assert grown < 16 * 1024 * 1024
            if answer is hangs or answer is None:
                assert counts["queue_full"] > 0
        ended = read_counts(traces.processor)
        assert ended["waiting"] == 0
        assert sum(ended.values()) == 1500 * 3
        nursery.cancel_scope.cancel()


async def _collect(path: Path, answer: Any) -> None:
    async with run_collector(path) as collector:
        collector.respond = answer
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("answer", "rejected"), [(rejects_some, 10), (rejects_too_many, 30), (None, 0)]
)
async def test_what_arrives_and_what_is_rejected_are_counted(
    answer: Any, rejected: int, short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_collector(short_dir / "c") as collector:
        collector.respond = answer
        async with connect_traced(short_dir) as (traces, stub):
            await time_slowest_call(stub, 10)
            await collector.wait_until(lambda got: len(got.spans) == 30)
    counts = read_counts(traces.processor)
    assert counts["sent"] == 30 - rejected
    assert counts["rejected"] == rejected
    assert ("rejected 10: too old" in caplog.text) == (answer is rejects_some)
    assert len({got.span.span_id for got in collector.spans}) == 30


async def test_a_collector_that_comes_back_gets_what_was_kept(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect_traced(short_dir) as (traces, stub):
        await time_slowest_call(stub, 5)
        async with run_collector(short_dir / "c") as collector:
            await collector.wait_until(lambda got: len(got.spans) == 15)
    assert read_counts(traces.processor)["sent"] == 15


async def test_why_a_collector_cannot_be_reached_is_told(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect_traced(short_dir, export_timeout=0.1) as (traces, stub):
        await time_slowest_call(stub, 1)
        while not read_counts(traces.processor)["not_sent"]:
            await trio.testing.wait_all_tasks_blocked(0.05)
    assert f"at unix:{short_dir / 'c'} did not take them within 0.1 s: No such" in caplog.text


async def test_the_end_does_not_wait_for_a_collector_that_hangs(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_collect, short_dir / "c", hangs)
        async with connect_traced(short_dir) as (traces, stub):
            await time_slowest_call(stub, 5)
            began = trio.current_time()
        assert trio.current_time() - began < 5
        nursery.cancel_scope.cancel()
    counts = read_counts(traces.processor)
    assert counts["not_sent"] + counts["stopped"] == 15
    assert "spans are dropped: some were not exported within 2 s of the end" in caplog.text


async def test_what_is_on_its_way_at_the_end_arrives() -> None:
    on_its_way, answered = trio.Event(), trio.Event()

    async def send(spans: Sequence[ReadableSpan]) -> tuple[int, str]:
        on_its_way.set()
        await answered.wait()
        return 0, ""

    queue = TrioBatchSpanProcessor(send)
    provider = TracerProvider(active_span_processor=queue, shutdown_on_exit=False)
    tracer = provider.get_tracer("a test")
    async with trio.open_nursery() as nursery:
        await nursery.start(queue.run)
        tracer.start_span("on its way").end()
        await on_its_way.wait()
        tracer.start_span("left").end()
        nursery.cancel_scope.cancel()
        answered.set()
    assert read_counts(queue) == {
        "sent": 2,
        "waiting": 0,
        "queue_full": 0,
        "not_sent": 0,
        "rejected": 0,
        "stopped": 0,
    }


async def test_why_spans_are_dropped_is_told_once(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_collector(short_dir / "c") as collector:
        collector.respond = refuses
        with caplog.at_level(logging.WARNING, logger="meshtrio.telemetry"):
            async with connect_traced(short_dir) as (traces, stub):
                for count in (3, 6):
                    await stub.Echo(echo_request("hi"))
                    await collector.wait_until(lambda got, count=count: len(got.spans) >= count)
    said = [record.message for record in caplog.records if "spans are dropped" in record.message]
    assert len(said) == 1
    assert "not like this" in said[0]
    assert read_counts(traces.processor)["not_sent"] == 6


async def test_a_span_that_cannot_be_sent_costs_no_other(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_collector(short_dir / "c") as collector:
        with caplog.at_level(logging.WARNING, logger="meshtrio.telemetry"):
            async with connect_traced(short_dir) as (traces, stub):
                tracer = traces.always_on_provider.get_tracer("a handler's")
                tracer.start_span("\ud800").end()
                tracer.start_span("large", attributes={"n": 2**70, "m": 1}).end()
                await stub.Echo(echo_request("hi"))
                await collector.wait_until(lambda got: len(got.spans) == 4)
    counts = read_counts(traces.processor)
    assert (counts["sent"], counts["rejected"]) == (4, 1)
    said = [record.message for record in caplog.records if "spans are dropped" in record.message]
    assert said == ["spans are dropped: 1 have text that is not valid Unicode"]
