"""Traces of calls and of plugins' processes (extra `tracing`).

    with Tracing(provider).install():
        async with mesh.connect("plugin.echo") as channel: ...

Theory of operation
-------------------

An outgoing call is a span `Sent.pkg.Service.Method` with a child `Attempt.pkg.Service.Method` for
each attempt; a served call is a span `Recv.pkg.Service.Method` whose parent is the caller's attempt
(gRFC A72). Context and baggage travel in metadata by OpenTelemetry's global propagators, W3C's by
default. In a handler the call's span is the current one, so that the handler's calls and spans are
its children.

    tracing               Tracing, the tracer of servers and channels: sampled or not, which parent
    call_tracers          tracers of served calls, outgoing calls and attempts
    propagation           contexts to and from metadata, and those of process runs
    call_span             our implementation of OpenTelemetry's Span, and its tracer
    batch_span_processor  bounded queue of ended spans, and the task that exports them
    otlp_exporter, otlp_http_exporter, otlp_encoding
                          one batch to a collector
    process_spans         spans of process runs, from lifecycle events
    pipeline              all of these, set up for one process; sampling of calls without a parent

Data flows one way: `Tracing` starts a span; the call ends it; the span goes to the processor's
`on_end`, in any thread; the processor's task exports batches. Nothing waits for the exporter: spans
that do not fit the queue are dropped, and counted.

Sampling: a call with a parent follows its parent; a call without one follows `should_sample`. Calls
that are not sampled must cost next to nothing. So

- one tracer object, without state, serves all unsampled calls of a context, and contexts are
  recognised by identity or, for served calls, by the caller's metadata (two bounded caches);
- unsampled calls that start in this process share one trace id, which is never exported. Their
  headers are then the same bytes for each call, which both peers' HPACK tables and caches exploit.

Sampled calls take our own `CallSpan`, because an SDK span costs three times as much. It becomes one
of the SDK's `ReadableSpan`s when it ends. If OpenTelemetry's environment variables ask for what
only the SDK does, spans are the SDK's (`pipeline`).

Of OpenTelemetry only public names are used: `opentelemetry.sdk.trace` (ReadableSpan, SpanProcessor,
TracerProvider, SpanLimits), its samplers and id generators, the containers BoundedAttributes and
BoundedList, and the OTLP exporter's `encode_spans`.
"""

from meshtrio.telemetry.traces.tracing import TracerProviderLike, Tracing

__all__ = ["TracerProviderLike", "Tracing"]
