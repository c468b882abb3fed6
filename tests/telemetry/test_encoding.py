"""Spans are encoded as the library does it, whatever they are."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from meshtrio.telemetry.traces.otlp_encoding import encode_export_request
from tests.support.tracing import SequentialIdGenerator

_texts = st.text(max_size=8) | st.text(min_size=95, max_size=105)
_values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, True, False, 0.0, -0.0, 1.0, math.inf, math.nan]),
    st.floats(),
    _texts,
    st.lists(st.integers(0, 9), max_size=3),
    st.lists(_texts, max_size=3),
)
_attributes = st.dictionaries(st.sampled_from(["a", "b", "rpc.method"]), _values)
_contexts = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.just(TraceFlags(TraceFlags.SAMPLED)),
    st.sampled_from([TraceState(), TraceState([("k", "v")])]),
)
_statuses = st.one_of(
    st.none(), st.just(Status(StatusCode.OK)), st.builds(Status, st.just(StatusCode.ERROR), _texts)
)


_IDS = SequentialIdGenerator()
_PROVIDERS = [
    TracerProvider(resource=Resource({"service.name": name}), span_limits=limits, id_generator=_IDS)
    for name, limits in (
        ("one", SpanLimits()),
        ("other", SpanLimits(max_span_attributes=1, max_events=1, max_event_attributes=1)),
    )
]


@st.composite
def spans(draw: Any) -> ReadableSpan:
    tracer = draw(st.sampled_from(_PROVIDERS)).get_tracer(draw(st.sampled_from(["x", "y"])))
    parent = draw(st.none() | _contexts)
    span = tracer.start_span(
        draw(_texts),
        None if parent is None else set_span_in_context(NonRecordingSpan(parent)),
        draw(st.sampled_from(list(SpanKind))),
        draw(_attributes),
        [Link(context, draw(_attributes)) for context in draw(st.lists(_contexts, max_size=1))],
    )
    for attributes in draw(st.lists(_attributes, max_size=2)):
        span.add_event("event", attributes)
    status = draw(_statuses)
    if status is not None:
        span.set_status(status)
    span.end()
    return span  # type: ignore[no-any-return]


def span_with(name: str, **attributes: Any) -> ReadableSpan:
    span: Any = _PROVIDERS[0].get_tracer("x").start_span(name, attributes=attributes)
    span.end()
    return span  # type: ignore[no-any-return]


def flat(request: Any) -> list[Any]:
    """Each span with its resource and scope, as bytes, in the order of their ids.

    Bytes, since a NaN is equal to nothing, and messages with 0.0 and -0.0 may be equal.
    """
    return [
        (*(each.SerializeToString(deterministic=True) for each in (span, of, scope)), url)
        for _, span, of, url, scope in parts(request)
    ]


def parts(request: Any) -> list[Any]:
    """Each span with its id, resource and scope, in the order of their ids."""
    found = [
        (span.span_id, span, of.resource, of.schema_url, scope.scope)
        for of in request.resource_spans
        for scope in of.scope_spans
        for span in scope.spans
    ]
    return sorted(found, key=lambda each: each[0])


@given(st.lists(spans(), max_size=6))
@settings(max_examples=300)
def test_spans_are_encoded_as_the_library_does_it(made: Iterable[ReadableSpan]) -> None:
    assert flat(encode_export_request([*made])) == flat(encode_spans([*made]))


_QUIET_NAN = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_00AB))[0]


@pytest.mark.parametrize(
    "value",
    [0.0, -0.0, 0, False, 1.0, 1, True, math.nan, -math.nan, _QUIET_NAN, math.inf, 5e-324, "", ()],
)
@pytest.mark.parametrize("before", [0.0, -0.0, 0, False, 1.0, 1, True, math.nan])
def test_a_value_is_encoded_by_its_bits_whatever_was_encoded_before(
    before: Any, value: Any
) -> None:
    made = [span_with("one", same=before), span_with("other", same=value)]
    assert flat(encode_export_request(made)) == flat(encode_spans(made))


@pytest.mark.parametrize("odd", ["\ud800", 2**70, ["\ud800"]])
def test_what_cannot_be_encoded_costs_no_other_attribute(odd: Any) -> None:
    made = [span_with("one", odd=odd, good=1), span_with("other", good=1, odd=odd)]
    told = [
        [pair.key for pair in span.attributes] for _, span, *_ in parts(encode_export_request(made))
    ]
    assert told == [["good"], ["good"]]


def test_a_name_that_is_no_text_costs_no_other_span() -> None:
    made = [span_with("\ud800"), span_with("good"), span_with("\udfff", n=1)]
    assert [span.name for _, span, *_ in parts(encode_export_request(made))] == ["good"]
