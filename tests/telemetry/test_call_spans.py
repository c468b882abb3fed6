"""Our spans of calls record what the SDK's do, whatever is done with them."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from echo.v1.echo_grpc import EchoServiceStub
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from meshtrio.client.channel import connect_to
from meshtrio.config.otlp_endpoint import OtlpEndpoint as Where
from meshtrio.rpc.server import Server
from meshtrio.telemetry.traces.call_span import CallSpanTracer
from meshtrio.telemetry.traces.otlp_encoding import encode_export_request
from meshtrio.telemetry.traces.pipeline import export_traces
from tests.support.connection_pairs import echo_request
from tests.support.handlers import ECHO_SERVICER
from tests.support.otlp_collector import run_collector
from tests.support.servers import serve_on_socket
from tests.support.tracing import SequentialIdGenerator

LIMITS = SpanLimits(max_span_attributes=20, max_events=15, max_links=2, max_event_attributes=13)
RESOURCE = Resource({"service.name": "x"})
PARENTS = [
    None,
    SpanContext(1, 2, True, TraceFlags(TraceFlags.SAMPLED), TraceState([("k", "v")])),
    SpanContext(1, 2, False, TraceFlags(3)),
]

_values: st.SearchStrategy[Any] = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.lists(st.integers(0, 9) | st.none(), max_size=2),
    st.none(),
    st.builds(object),
)
_SDK_VERSION = tuple(map(int, version("opentelemetry-sdk").split(".")[:2]))
# Before 1.45 the SDK keeps the former value of an attribute that is set to what cannot be one.
_set_values = _values if _SDK_VERSION >= (1, 45) else st.one_of(st.booleans(), st.text(max_size=5))
_names = st.sampled_from("abcdefghijklmnopqrstuvwxyz")
_keys = _names | st.sampled_from(["", 5, None])
_attributes = st.dictionaries(_keys, _values, max_size=15)
_statuses = st.sampled_from(
    [Status(StatusCode.OK), Status(StatusCode.ERROR, "no"), Status(), StatusCode.OK]
)


def raised() -> BaseException:
    try:
        raise KeyError("missing")
    except KeyError as exc:
        return exc


_steps: st.SearchStrategy[tuple[Any, ...]] = st.one_of(
    st.tuples(st.just("set_attribute"), _keys, _set_values),
    st.tuples(st.just("set_attributes"), st.dictionaries(_names, _set_values)),
    st.tuples(st.just("add_event"), st.text(max_size=3), _attributes, st.integers(1, 9)),
    st.tuples(st.just("add_event"), st.just("many"), st.none(), st.integers(1, 9)),
    st.tuples(st.just("add_link"), st.sampled_from(PARENTS[1:]), _attributes),
    st.tuples(st.just("update_name"), st.text(max_size=3)),
    st.tuples(st.just("set_status"), _statuses),
    st.tuples(st.just("record_exception"), st.just(raised()), _attributes, st.just(1)),
    st.tuples(st.just("end"), st.just(7)),
)


class EndedSpans(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def comparable(span: ReadableSpan) -> Any:
    """Return what a collector gets, without what differs between runs."""
    request = encode_export_request([span])
    for of in request.resource_spans:
        for scope in of.scope_spans:
            for each in scope.spans:
                each.start_time_unix_nano = each.end_time_unix_nano = 0
                each.trace_id = each.span_id = b""
                each.flags &= ~TraceFlags.SAMPLED
                for pair in each.attributes:
                    if "object at" in pair.value.string_value:
                        pair.value.string_value = "object"
    return request


@given(
    st.sampled_from(PARENTS),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
    st.lists(_steps, max_size=8) | st.lists(_steps, min_size=16, max_size=40),
)
@settings(max_examples=300)
def test_what_is_recorded_is_what_the_sdk_records(
    parent: SpanContext | None, attributes: dict[str, Any], steps: list[tuple[Any, ...]]
) -> None:
    mine, sdks = EndedSpans(), EndedSpans()
    provider = TracerProvider(
        resource=RESOURCE, span_limits=LIMITS, id_generator=SequentialIdGenerator()
    )
    provider.add_span_processor(sdks)
    context = Context()
    if parent is not None:
        context = set_span_in_context(NonRecordingSpan(parent), context)
    for tracer in (
        CallSpanTracer(RESOURCE, LIMITS, SequentialIdGenerator(), mine.on_end).get_tracer("x", "1"),
        provider.get_tracer("x", "1"),
    ):
        span: Any = tracer.start_span("call", context, SpanKind.CLIENT, attributes)
        assert span.is_recording()
        for name, *arguments in steps:
            getattr(span, name)(*arguments)
        span.end(9)
        assert not span.is_recording()
    (one,), (other,) = mine.spans, sdks.spans
    assert comparable(one) == comparable(other)
    assert one.end_time == other.end_time
    counts = [(s.dropped_attributes, s.dropped_events, s.dropped_links) for s in (one, other)]
    assert counts[0] == counts[1]


def test_a_child_of_what_is_not_recorded_is_not_either() -> None:
    ended = EndedSpans()
    tracer = CallSpanTracer(RESOURCE, LIMITS, SequentialIdGenerator(), ended.on_end).get_tracer(
        "x", "1"
    )
    parent = NonRecordingSpan(SpanContext(1, 2, is_remote=True))
    span = tracer.start_span("call", set_span_in_context(parent, Context()), SpanKind.CLIENT, {})
    assert not span.is_recording()
    assert span.get_span_context() == parent.get_span_context()
    span.end()
    assert ended.spans == []


async def test_values_are_cut_where_the_variables_say_so(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")
    spans = await spans_of_a_call(short_dir)
    service = {p.value.string_value for s in spans for p in s.attributes if p.key == "rpc.service"}
    assert service == {"echo"}


async def test_nothing_is_recorded_where_the_sdk_is_off(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert await spans_of_a_call(short_dir) == []


async def spans_of_a_call(folder: Path) -> list[Any]:
    async with run_collector(folder / "c") as collector:
        async with (
            export_traces(Where.parse(f"unix:{folder / 'c'}"), 1.0),
            serve_on_socket(folder / "a", Server(ECHO_SERVICER)),
            connect_to(f"unix:{folder / 'a'}") as channel,
        ):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
        return [got.span for got in collector.spans]
