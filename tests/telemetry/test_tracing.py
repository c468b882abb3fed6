"""Spans of calls: their names, parents, events and ends, and what is not recorded at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from meshtrio.client.channel import Channel, connect_to
from meshtrio.client.multicallable import DynamicStub
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.rpc.server import Server
from meshtrio.telemetry.traces.pipeline import PresetIdGenerator, RatioSampler
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.failing_servicers import make_servicer_failing_with
from tests.support.handlers import ECHO_SERVICER, CancellationRecorder
from tests.support.servers import serve_on_socket
from tests.support.tracing import (
    PARENT_TRACEPARENT,
    TracingHarness,
    ids,
    is_child_of,
    make_echo_stub,
)

UNSAMPLED = PARENT_TRACEPARENT[:-1] + "0"


@pytest.fixture(autouse=True, params=[True, False], ids=["own spans", "the SDK's"])
def _spans_of_both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TracingHarness, "uses_own_spans", request.param)


@asynccontextmanager
async def run_traced_server(
    folder: Path,
    servicer: Any = ECHO_SERVICER,
    ratio: float = 1.0,
    config: dict[str, Any] | None = None,
) -> AsyncIterator[tuple[TracingHarness, Channel]]:
    found = TracingHarness(ratio)
    with found.tracing.install():
        async with serve_on_socket(folder / "a", Server(servicer)):
            parsed = None if config is None else parse_service_config(config)
            async with connect_to(f"unix:{folder / 'a'}", service_config=parsed) as channel:
                yield found, channel


async def test_a_call_is_a_span_with_an_attempt_that_is_received(short_dir: Path) -> None:
    async with run_traced_server(short_dir) as (found, channel):
        await make_echo_stub(channel).Echo(echo_request("hi"))
    sent, attempt = found.span_named("Sent."), found.span_named("Attempt.")
    received = found.span_named("Recv.")
    assert sent.name == "Sent.echo.v1.EchoService.Echo"
    assert attempt.name == "Attempt.echo.v1.EchoService.Echo"
    assert received.name == "Recv.echo.v1.EchoService.Echo"
    assert sent.parent is None
    assert is_child_of(attempt, sent)
    assert is_child_of(received, attempt)
    assert (sent.kind, attempt.kind) == (SpanKind.CLIENT, SpanKind.CLIENT)
    assert received.kind is SpanKind.SERVER
    assert {span.status.status_code for span in (sent, attempt, received)} == {StatusCode.OK}
    assert attempt.attributes is not None
    assert attempt.attributes["previous-rpc-attempts"] == 0
    assert attempt.attributes["transparent-retry"] is False
    assert attempt.attributes["network.peer.address"] == f"unix:{short_dir / 'a'}"


def messages(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    return [
        (e.name, dict(e.attributes or {}))
        for e in span.events
        if e.name != "Delayed LB pick complete"
    ]


async def test_messages_are_events_in_their_order(short_dir: Path) -> None:
    async def gzipped(message: Any, request: Any) -> AsyncIterator[EchoReply]:
        request.compression = "gzip"
        yield echo_reply("x" * 500)
        yield echo_reply("y")

    async with run_traced_server(short_dir, CallbackServicer(Repeat=gzipped)) as (found, channel):
        async for _ in make_echo_stub(channel).Repeat(RepeatRequest(message="r")):
            pass
    attempt = messages(found.span_named("Attempt."))
    assert [name for name, _ in attempt] == ["Outbound message"] + ["Inbound message"] * 2
    assert [each["sequence-number"] for _, each in attempt] == [0, 0, 1]
    assert attempt[1][1]["message-size"] == echo_reply("x" * 500).ByteSize()
    assert attempt[1][1]["message-size-compressed"] < 100
    received = messages(found.span_named("Recv."))
    assert [name for name, _ in received] == ["Inbound message"] + ["Outbound message"] * 2
    assert received[1][1] == attempt[1][1]
    assert "message-size-compressed" not in received[0][1]


async def test_each_attempt_is_a_span_and_failures_bear_their_status(short_dir: Path) -> None:
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    failures = iter([purerpc.UnavailableError("not yet"), purerpc.NotFoundError("never")])
    async with run_traced_server(
        short_dir, make_servicer_failing_with(failures), config=config
    ) as (found, channel):
        with pytest.raises(purerpc.NotFoundError):
            await make_echo_stub(channel).Echo(echo_request("?"))
    first, second = sorted(found.spans_named("Attempt."), key=lambda span: span.start_time or 0)
    assert [s.attributes["previous-rpc-attempts"] for s in (first, second) if s.attributes] == [
        0,
        1,
    ]
    assert first.status.description == "UNAVAILABLE: not yet"
    sent = found.span_named("Sent.")
    assert sent.status.status_code is StatusCode.ERROR
    assert sent.status.description == "NOT_FOUND: never"
    assert sent.attributes is not None
    assert sent.attributes["rpc.grpc.status_code"] == 5
    assert all(is_child_of(span, sent) for span in (first, second))
    assert len(found.spans_named("Recv.")) == 2


async def test_a_deadline_and_a_cancelled_call_have_their_end(short_dir: Path) -> None:
    until = CancellationRecorder()
    async with run_traced_server(short_dir, CallbackServicer(Echo=until)) as (found, channel):
        with trio.move_on_after(0.2):
            await make_echo_stub(channel).Echo(echo_request("?"))
        await until.cancelled.wait()
        until.started = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_echo_stub(channel).Echo, echo_request("?"))
            await until.started.wait()
            nursery.cancel_scope.cancel()
    codes = [span.attributes["rpc.grpc.status_code"] for span in found.spans_named("Sent.")]  # type: ignore[index]
    assert codes == [4, 1]
    assert len(found.spans_named("Attempt.")) == 2


async def test_what_a_handler_does_is_below_its_call(short_dir: Path) -> None:
    found = TracingHarness()

    async def passes_on(message: EchoRequest) -> EchoReply:
        with found.provider.get_tracer("mine").start_as_current_span("thinking"):
            assert baggage.get_baggage("tenant") == "blue"
            async with connect_to(f"unix:{short_dir / 'b'}") as channel:
                return await make_echo_stub(channel).Echo(message)  # type: ignore[no-any-return]

    async def second(message: EchoRequest) -> EchoReply:
        assert baggage.get_baggage("tenant") == "blue"
        return echo_reply("second")

    with found.tracing.install():
        async with (
            serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=passes_on))),
            serve_on_socket(short_dir / "b", Server(CallbackServicer(Echo=second))),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            token = context.attach(baggage.set_baggage("tenant", "blue"))
            assert (await make_echo_stub(channel).Echo(echo_request("hi"))).message == "second"
            context.detach(token)
    (thinking,) = found.spans_named("thinking")
    outer = next(span for span in found.spans_named("Sent.") if span.parent is None)
    inner = next(span for span in found.spans_named("Sent.") if span.parent is not None)
    assert is_child_of(inner, thinking)
    assert len({ids(span)[0] for span in found.exporter.get_finished_spans()}) == 1
    assert len(found.exporter.get_finished_spans()) == 7
    received = [span for span in found.spans_named("Recv.") if is_child_of(thinking, span)]
    assert len(received) == 1
    assert ids(outer)[0] == ids(inner)[0]


@pytest.mark.parametrize(("header", "recorded"), [(PARENT_TRACEPARENT, 1), (UNSAMPLED, 0)])
async def test_a_foreign_parent_decides(header: str, recorded: int, short_dir: Path) -> None:
    found, seen = TracingHarness(ratio=1.0), []

    async def note(message: EchoRequest, request: Any) -> EchoReply:
        seen.append(trace.get_current_span().get_span_context())
        with found.provider.get_tracer("mine").start_as_current_span("work"):
            return echo_reply("")

    with found.tracing.install():
        server = Server(CallbackServicer(Echo=note))
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        for _ in range(2):
            await make_echo_stub(channel).Echo(
                echo_request("?"), metadata=(("traceparent", header),)
            )
    assert len(found.spans_named("Recv.")) == 2 * recorded
    assert len(found.spans_named("work")) == 2 * recorded
    for each in seen:
        assert f"{each.trace_id:032x}" == PARENT_TRACEPARENT.split("-")[1]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        "garbage",
        "ff-" + PARENT_TRACEPARENT[3:],
        PARENT_TRACEPARENT.replace("0af7", "zzzz"),
        "0" * 5000,
    ],
)
async def test_garbage_for_a_parent_begins_a_new_trace(header: str, short_dir: Path) -> None:
    found = TracingHarness()
    with found.tracing.install():
        server = Server(ECHO_SERVICER)
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        metadata = (("traceparent", header), ("tracestate", ",,=" + header[:9]), ("baggage", "=;,"))
        await make_echo_stub(channel).Echo(echo_request("?"), metadata=metadata)
    assert found.span_named("Recv.").parent is None


async def test_what_is_not_recorded_is_not_recorded_anywhere_below(short_dir: Path) -> None:
    """And its head is the same bytes for each call, which a server remembers."""
    heads = set()
    found = TracingHarness(ratio=0.0)

    async def note(message: EchoRequest, request: Any) -> EchoReply:
        heads.add(dict(request.custom_metadata)["traceparent"])
        async with connect_to(f"unix:{short_dir / 'b'}") as channel:
            await make_echo_stub(channel).Echo(message)
        with found.provider.get_tracer("mine").start_as_current_span("work"):
            return echo_reply("")

    below = TracingHarness(ratio=1.0)
    with found.tracing.install():
        first = Server(CallbackServicer(Echo=note))
        with below.tracing.install():
            second = Server(ECHO_SERVICER)
        async with (
            serve_on_socket(short_dir / "a", first),
            serve_on_socket(short_dir / "b", second),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            for _ in range(20):
                await make_echo_stub(channel).Echo(echo_request("?"))
    assert not found.exporter.get_finished_spans()
    assert not below.exporter.get_finished_spans()
    assert len(heads) == 1


def test_the_lot_is_as_the_ratio_says_and_the_sampler_agrees() -> None:
    chosen = PresetIdGenerator()
    lot = RatioSampler(0.25, chosen)
    drawn = 0
    for _ in range(4000):
        if lot():
            drawn += 1
            trace_id = chosen.generate_trace_id()
            assert lot.sampler.should_sample(None, trace_id, "x").decision.is_sampled()
    assert 800 < drawn < 1200
    assert not any(RatioSampler(0.0, chosen)() for _ in range(1000))
    assert all(RatioSampler(1.0, chosen)() for _ in range(1000))


async def test_health_and_the_like_begin_no_trace(short_dir: Path) -> None:
    from meshtrio.messages import health as messages
    from meshtrio.supervisor.probe import SocketProbe
    from meshtrio.transport.dial import dial
    from tests.support.servers import standard_server

    found = TracingHarness()
    with found.tracing.install():
        server, _ = standard_server(ECHO_SERVICER)
        async with (
            serve_on_socket(short_dir / "a", server),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            health = await SocketProbe().check(5, partial(dial, f"unix:{short_dir / 'a'}", None))
            asking = DynamicStub(channel, messages.DESCRIPTOR.services_by_name["Health"])
            await asking.Check(messages.HealthCheckRequest())
            assert not found.exporter.get_finished_spans()
            with found.provider.get_tracer("mine").start_as_current_span("work"):
                await asking.Check(messages.HealthCheckRequest())
    assert health.is_serving
    assert is_child_of(found.span_named("Sent."), found.span_named("work"))
