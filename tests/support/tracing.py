"""Spans of calls in one trio run: an exporter in memory and the ids to expect."""

from __future__ import annotations

from itertools import count
from typing import Any

from echo.v1.echo_grpc import EchoServiceStub
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator

from meshtrio.client.channel import Channel
from meshtrio.telemetry.traces import Tracing
from meshtrio.telemetry.traces.call_span import CallSpanTracer
from meshtrio.telemetry.traces.pipeline import PresetIdGenerator, RatioSampler


class SequentialIdGenerator(IdGenerator):
    def __init__(self) -> None:
        self._ids = count(1)

    def generate_trace_id(self) -> int:
        return next(self._ids)

    generate_span_id = generate_trace_id


PARENT_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TracingHarness:
    """Records spans with the SDK; with `own`, calls have spans of our own implementation."""

    uses_own_spans = True

    def __init__(self, ratio: float = 1.0) -> None:
        ids = PresetIdGenerator()
        lot = RatioSampler(ratio, ids)
        self.exporter = InMemorySpanExporter()
        processor = SimpleSpanProcessor(self.exporter)
        self.provider = TracerProvider(sampler=lot.sampler, id_generator=ids)
        self.provider.add_span_processor(processor)
        calls = CallSpanTracer(Resource({}), SpanLimits(), ids, processor.on_end)
        self.tracing = Tracing(calls if self.uses_own_spans else self.provider, lot)

    def spans_named(self, name: str) -> list[ReadableSpan]:
        found = self.exporter.get_finished_spans()
        return [span for span in found if span.name.startswith(name)]

    def span_named(self, name: str) -> ReadableSpan:
        (span,) = self.spans_named(name)
        return span


def make_echo_stub(channel: Channel) -> Any:
    return channel.stub(EchoServiceStub)


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def is_child_of(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and (child.parent.trace_id, child.parent.span_id) == ids(parent)
