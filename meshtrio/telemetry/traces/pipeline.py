"""Tracing of one process: providers, sampler, span processor and exporter, connected."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import attrs
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased

from meshtrio.config.otlp_endpoint import OtlpEndpoint
from meshtrio.telemetry.traces import Tracing
from meshtrio.telemetry.traces.batch_span_processor import EXPORT_TIMEOUT, TrioBatchSpanProcessor
from meshtrio.telemetry.traces.call_span import MAX_PLAIN_ENTRIES, CallSpanTracer
from meshtrio.telemetry.traces.otlp_exporter import open_exporter
from meshtrio.util.concurrency import background_service

_log = logging.getLogger("meshtrio.telemetry")

_ID_HALF_BITS = 64


@attrs.frozen
class TracePipeline:
    """The running tracing of a process."""

    processor: TrioBatchSpanProcessor
    """Exports the spans, and counts them."""
    always_on_provider: TracerProvider
    """Provider whose spans are all recorded, for the few spans of supervision."""
    id_generator: PresetIdGenerator
    """Generates the ids of `always_on_provider`'s spans."""


@asynccontextmanager
async def export_traces(
    collector: OtlpEndpoint,
    ratio: float,
    resource: Mapping[str, str] | None = None,
    *,
    export_timeout: float = EXPORT_TIMEOUT,
) -> AsyncIterator[TracePipeline]:
    """Trace the calls of channels and servers that are created in the block, and export the spans.

    Sets OpenTelemetry's global tracer provider, unless the program has set one, so that the
    program's own spans belong to the calls' traces. Needs the extra `tracing`.

    Args:
        collector: Where spans are exported to.
        ratio: The fraction of calls without a parent that are sampled, from 0 to 1. Other calls are
            sampled if their parent is.
        resource: Attributes of the process, in addition to those of OTEL_RESOURCE_ATTRIBUTES.
        export_timeout: Seconds that the export of one batch may take.

    Yields:
        The running tracing.

    Raises:
        ValueError: OpenTelemetry's SDK rejects the value of one of its variables.

    Cancellation: At the end of the block, shielded for at most 2 s, to export the spans that are
    left.

    Source: gRFC A72.
    """
    always_on_ids, sampled_ids = PresetIdGenerator(), PresetIdGenerator()
    sampler = RatioSampler(ratio, sampled_ids)
    merged = Resource.create(dict(resource or {}))
    # They bound the message events of a stream that lasts for days.
    limits = SpanLimits()
    make = partial(TracerProvider, resource=merged, span_limits=limits)
    provider = make(sampler=sampler.sampler, id_generator=sampled_ids)
    always_on = make(sampler=ALWAYS_ON, id_generator=always_on_ids)
    async with open_exporter(collector, export_timeout) as export:
        processor = TrioBatchSpanProcessor(export)
        provider.add_span_processor(processor)
        always_on.add_span_processor(processor)
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(provider)
        async with background_service(processor.run):
            own = CallSpanTracer(merged, limits, sampled_ids, processor.on_end)
            used = provider if _needs_sdk_spans(provider, limits) else own
            with Tracing(used, sampler).install():
                yield TracePipeline(processor, always_on, always_on_ids)


def _needs_sdk_spans(provider: TracerProvider, limits: SpanLimits) -> bool:
    """Return whether OpenTelemetry's variables require the SDK's own spans.

    Those that do disable the SDK (OTEL_SDK_DISABLED), truncate values
    (OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT), or limit attributes or events to fewer than a call records.
    """
    lengths = (limits.max_attribute_length, limits.max_span_attribute_length)
    counts = (limits.max_span_attributes, limits.max_events, limits.max_event_attributes)
    return (
        lengths != (None, None)
        or any(count is not None and count < MAX_PLAIN_ENTRIES for count in counts)
        or isinstance(provider.get_tracer("meshtrio"), trace.NoOpTracer)
    )


# -- sampling --------------------------------------------------------------------------------


class PresetIdGenerator(RandomIdGenerator):
    """Generates random ids, except for the next trace or span if its id was set."""

    def __init__(self) -> None:
        self.next_trace_id = 0
        self.next_span_id = 0

    def generate_trace_id(self) -> int:
        chosen, self.next_trace_id = self.next_trace_id, 0
        return chosen or super().generate_trace_id()

    def generate_span_id(self) -> int:
        chosen, self.next_span_id = self.next_span_id, 0
        return chosen or super().generate_span_id()


class RatioSampler:
    """Decides on calls without a parent; `sampler` confirms the decision from the trace id.

    The SDK takes microseconds for a span that is not recorded, which at a ratio of one in a hundred
    is most of the cost of tracing. So the decision is made first, and a sampled call gets a trace
    id that the SDK's `TraceIdRatioBased` samples too.
    """

    def __init__(self, ratio: float, id_generator: PresetIdGenerator) -> None:
        """`ratio`: share of calls that are sampled, from 0 to 1."""
        self._trace_id_bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._probability = self._trace_id_bound / (1 << _ID_HALF_BITS)
        self._id_generator = id_generator
        self._random = Random()
        self.sampler: Sampler = ParentBased(TraceIdRatioBased(ratio))

    def __call__(self) -> bool:
        """Return whether the next call is sampled; if so, set the id of its trace."""
        if self._random.random() >= self._probability:
            return False
        self._id_generator.next_trace_id = (
            self._random.getrandbits(_ID_HALF_BITS) << _ID_HALF_BITS
            | self._random.randrange(self._trace_id_bound)
            or 1
        )
        return True


def sampling_ratio_from_environment() -> float | None:
    """Return the ratio that OTEL_TRACES_SAMPLER and its argument set; None for `always_off`.

    Samplers that ignore the parent are replaced by those that follow it, with a warning, so that
    traces are complete or absent.

    Raises:
        ValueError: The sampler is unknown, or its argument is not between 0 and 1.
    """
    sampler = os.environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
    kind = sampler.removeprefix("parentbased_")
    known = ("always_on", "always_off", "traceidratio")
    if kind not in known:
        choices = ", ".join(f"parentbased_{name}" for name in known)
        raise ValueError(f"OTEL_TRACES_SAMPLER={sampler} is unknown; choose from {choices}")
    if sampler == "always_off":
        return None
    if sampler == kind:
        _log.warning("OTEL_TRACES_SAMPLER=%s is replaced by parentbased_%s", sampler, kind)
    if kind != "traceidratio":
        return float(kind == "always_on")
    text = os.environ.get("OTEL_TRACES_SAMPLER_ARG") or "1.0"
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG={text} is not between 0 and 1")
    return ratio
