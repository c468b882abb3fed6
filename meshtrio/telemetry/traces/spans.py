"""Traces of one process: OpenTelemetry's SDK, our spans of calls, and the way to a collector."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from meshtrio.config.collector import Collector
from meshtrio.errors import UsageError
from meshtrio.structured import running
from meshtrio.telemetry.traces import Tracing
from meshtrio.telemetry.traces.call_spans import CallSpans
from meshtrio.telemetry.traces.otlp import sending
from meshtrio.telemetry.traces.queue import SpanQueue
from meshtrio.telemetry.traces.sampling import ChosenIds, Lot


@attrs.frozen
class Traces:
    """What of a process has to do with its traces."""

    queue: SpanQueue
    everything: TracerProvider
    """For spans that are few, and all recorded: those of supervision."""
    ids: ChosenIds
    """Of `everything`."""


@asynccontextmanager
async def traced(
    collector: Collector, ratio: float, resource: Mapping[str, str] | None = None
) -> AsyncIterator[Traces]:
    """Make spans of the calls of the block, and send them; what waits at its end is sent, too.

    `ratio`: of 0 to 1, how many of the calls that begin here are recorded; calls that have a parent
    go by it. OpenTelemetry's tracer provider is set to the one that is used, unless the program has
    set one: its own spans are among those of the calls, then.
    """
    ids, lot_ids = ChosenIds(), ChosenIds()
    lot = Lot(ratio, lot_ids)
    about = Resource.create(dict(resource or {}))
    # Of a stream that lasts for days, the last messages.
    limits = SpanLimits(max_events=128, max_links=32)
    provider = TracerProvider(
        sampler=lot.sampler, id_generator=lot_ids, resource=about, span_limits=limits
    )
    everything = TracerProvider(
        sampler=ALWAYS_ON, id_generator=ids, resource=about, span_limits=limits
    )
    async with sending(collector) as send:
        queue = SpanQueue(send)
        provider.add_span_processor(queue)
        everything.add_span_processor(queue)
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(provider)
        async with running(queue.run):
            calls = CallSpans(about, limits, lot_ids, queue.on_end)
            with Tracing(provider if _is_particular(provider, limits) else calls, lot).observing():
                yield Traces(queue, everything, ids)


def _is_particular(provider: TracerProvider, limits: SpanLimits) -> bool:
    """Whether OpenTelemetry's variables ask for what only its SDK does: to be off
    (OTEL_SDK_DISABLED), to cut values (OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT)."""
    lengths = (limits.max_attribute_length, limits.max_span_attribute_length)
    return lengths != (None, None) or isinstance(provider.get_tracer("meshtrio"), trace.NoOpTracer)


def ratio_from_environment() -> float:
    """As OTEL_TRACES_SAMPLER and its argument say. Raises UsageError for a sampler that is none of
    those by ratio, by parent, always and never."""
    sampler = os.environ.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    by_name = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
    kind = sampler.removeprefix("parentbased_")
    if kind not in by_name:
        known = ", ".join(f"parentbased_{name}" for name in by_name)
        raise UsageError(f"OTEL_TRACES_SAMPLER={sampler} is none of {known}")
    fixed = by_name[kind]
    if fixed is not None:
        return fixed
    text = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "1.0")
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise UsageError(f"OTEL_TRACES_SAMPLER_ARG={text} is not between 0 and 1")
    return ratio
