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

from meshtrio.config.collector import Collector
from meshtrio.structured import running
from meshtrio.telemetry.traces import Tracing
from meshtrio.telemetry.traces.call_spans import FEW, CallSpans
from meshtrio.telemetry.traces.otlp import sending
from meshtrio.telemetry.traces.queue import SpanQueue
from meshtrio.telemetry.traces.sampling import ChosenIds, Lot

_log = logging.getLogger("meshtrio.telemetry")


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
    # Of a stream that lasts for days, the last messages: as many as OpenTelemetry's variables say.
    limits = SpanLimits()
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
    (OTEL_SDK_DISABLED), to cut values (OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT), to keep fewer attributes
    or events than calls come to by themselves."""
    lengths = (limits.max_attribute_length, limits.max_span_attribute_length)
    counts = (limits.max_span_attributes, limits.max_events, limits.max_event_attributes)
    return (
        lengths != (None, None)
        or any(count is not None and count < FEW for count in counts)
        or isinstance(provider.get_tracer("meshtrio"), trace.NoOpTracer)
    )


def ratio_from_environment() -> float | None:
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
    return _ratio() if fixed is None else fixed


def _ratio() -> float:
    text = os.environ.get("OTEL_TRACES_SAMPLER_ARG") or "1.0"
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG={text} is not between 0 and 1")
    return ratio
