"""Traces of one process: OpenTelemetry's SDK, our spans of calls, and the way to a collector."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from meshtrio.config.otlp_endpoint import OtlpEndpoint
from meshtrio.telemetry.traces import Tracing
from meshtrio.telemetry.traces.batch_span_processor import TrioBatchSpanProcessor
from meshtrio.telemetry.traces.call_span import MAX_PLAIN_ENTRIES, CallSpanTracerProvider
from meshtrio.telemetry.traces.otlp_exporter import open_exporter
from meshtrio.telemetry.traces.ratio_sampler import PresetIdGenerator, RatioSampler
from meshtrio.util.concurrency import background_service

_log = logging.getLogger("meshtrio.telemetry")


@attrs.frozen
class TracePipeline:
    """What of a process has to do with its traces."""

    processor: TrioBatchSpanProcessor
    always_on_provider: TracerProvider
    """For spans that are few, and all recorded: those of supervision."""
    id_generator: PresetIdGenerator
    """Of `everything`."""


@asynccontextmanager
async def export_traces(
    collector: OtlpEndpoint, ratio: float, resource: Mapping[str, str] | None = None
) -> AsyncIterator[TracePipeline]:
    """Make spans of the calls of the block, and send them; what waits at its end is sent, too.

    `ratio`: of 0 to 1, how many of the calls that begin here are recorded; calls that have a parent
    go by it. OpenTelemetry's tracer provider is set to the one that is used, unless the program has
    set one: its own spans are among those of the calls, then.
    """
    ids, lot_ids = PresetIdGenerator(), PresetIdGenerator()
    lot = RatioSampler(ratio, lot_ids)
    about = Resource.create(dict(resource or {}))
    # Of a stream that lasts for days, the last messages: as many as OpenTelemetry's variables say.
    limits = SpanLimits()
    provider = TracerProvider(
        sampler=lot.sampler, id_generator=lot_ids, resource=about, span_limits=limits
    )
    everything = TracerProvider(
        sampler=ALWAYS_ON, id_generator=ids, resource=about, span_limits=limits
    )
    async with open_exporter(collector) as send:
        queue = TrioBatchSpanProcessor(send)
        provider.add_span_processor(queue)
        everything.add_span_processor(queue)
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(provider)
        async with background_service(queue.run):
            calls = CallSpanTracerProvider(about, limits, lot_ids, queue.on_end)
            with Tracing(provider if _needs_sdk_spans(provider, limits) else calls, lot).install():
                yield TracePipeline(queue, everything, ids)


def _needs_sdk_spans(provider: TracerProvider, limits: SpanLimits) -> bool:
    """Whether OpenTelemetry's variables ask for what only its SDK does: to be off
    (OTEL_SDK_DISABLED), to cut values (OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT), to keep fewer attributes
    or events than calls come to by themselves."""
    lengths = (limits.max_attribute_length, limits.max_span_attribute_length)
    counts = (limits.max_span_attributes, limits.max_events, limits.max_event_attributes)
    return (
        lengths != (None, None)
        or any(count is not None and count < MAX_PLAIN_ENTRIES for count in counts)
        or isinstance(provider.get_tracer("meshtrio"), trace.NoOpTracer)
    )


def sampling_ratio_from_environment() -> float | None:
    """As OTEL_TRACES_SAMPLER and its argument say; None for `always_off`, by which nothing at all
    is recorded.

    Others that do not go by parents are taken for those that do, with a warning, so that a trace is
    whole or not there. Raises ValueError for what is no such sampler.
    """
    sampler = os.environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
    by_name = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
    kind = sampler.removeprefix("parentbased_")
    if kind not in by_name:
        known = ", ".join(f"parentbased_{name}" for name in by_name)
        raise ValueError(f"OTEL_TRACES_SAMPLER={sampler} is none of {known}")
    if sampler == "always_off":
        return None
    if sampler == kind:
        _log.warning("OTEL_TRACES_SAMPLER=%s is taken for parentbased_%s", sampler, kind)
    fixed = by_name[kind]
    return _parse_sampler_arg() if fixed is None else fixed


def _parse_sampler_arg() -> float:
    text = os.environ.get("OTEL_TRACES_SAMPLER_ARG") or "1.0"
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG={text} is not between 0 and 1")
    return ratio
