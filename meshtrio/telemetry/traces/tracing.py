"""The tracer of servers and channels: decides which calls have a span, and its parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from meshtrio.grpc.metadata import Metadata
from meshtrio.rpc import tracer
from meshtrio.rpc.composite_tracer import use_tracers
from meshtrio.rpc.context import ServerContext, current_context
from meshtrio.rpc.method import Method
from meshtrio.rpc.stats import LoadRecorder
from meshtrio.rpc.stream import Stream
from meshtrio.telemetry.traces import call_tracers
from meshtrio.telemetry.traces.propagation import (
    EMPTY_CONTEXT,
    extract_context,
    unsampled_root_context,
    with_served_call_as_parent,
)
from meshtrio.util.caches import BoundedCache
from meshtrio.util.version import VERSION

_MAX_CACHED_CONTEXTS = 256


class TracerProviderLike(Protocol):
    """The part of a tracer provider that is used; OpenTelemetry's providers have it."""

    def get_tracer(self, name: str, version: str, /) -> call_tracers.TracerLike: ...


class Tracing(tracer.ServerTracer, tracer.ClientTracer):
    """Records spans of the calls of servers and channels.

        with Tracing(provider).install():
            async with mesh.connect("plugin.echo") as channel: ...

    Source: gRFC A72.
    """

    def __init__(
        self, provider: TracerProviderLike, should_sample: Callable[[], bool] | None = None
    ) -> None:
        """Create a tracer.

        Args:
            provider: Makes the spans. Its sampler decides on each call that reaches it.
            should_sample: Called for each call without a parent; if it returns False the call is
                not sampled and the provider is not asked. By default all calls reach the provider.
                See `pipeline.RatioSampler`.
        """
        self._tracer = provider.get_tracer("meshtrio", VERSION)
        self._should_sample = should_sample or (lambda: True)
        root = unsampled_root_context()
        self._unsampled_server_call = call_tracers.UnsampledServerCall(root)
        self._unsampled_client_call = call_tracers.UnsampledClientCall(root)
        self._orphan_contexts = BoundedCache[Metadata, Context](_MAX_CACHED_CONTEXTS)
        """Contexts of callers' metadata in which there is no parent span."""
        self._unsampled_server_calls = BoundedCache[Metadata, tracer.ServerCallTracer](
            _MAX_CACHED_CONTEXTS
        )
        """Tracers of calls whose caller is not sampled, by the caller's metadata."""
        self._root_context: Context | None = None
        """The empty context that was current last, compared by identity."""
        self._last_unsampled: tuple[Context, call_tracers.UnsampledClientCall] | None = None
        """The unsampled context that a call was made in last, compared by identity."""

    def install(self) -> AbstractContextManager[None]:
        """Trace the calls of all channels and servers that are created in the block."""
        return use_tracers(client=self, server=self)

    # -- served calls ------------------------------------------------------------------------

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> tracer.ServerCallTracer:
        metadata = server_context.custom_metadata
        if metadata and (found := self._unsampled_server_calls.get(metadata)) is not None:
            return found
        parent = self._parent_context(metadata)
        caller = trace.get_current_span(parent).get_span_context()
        if not caller.is_valid:
            # Periodic health checks start no trace.
            if not LoadRecorder.is_counted(method.service) or not self._should_sample():
                if not parent:
                    return self._unsampled_server_call
                return call_tracers.UnsampledServerCall(unsampled_root_context(parent))
        elif not caller.trace_flags.sampled:
            unsampled = call_tracers.UnsampledServerCall(parent)
            self._unsampled_server_calls[metadata] = unsampled
            return unsampled
        name, attributes = _span_name("Recv", method), _span_attributes(method)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        context = trace.set_span_in_context(span, parent)
        if not span.is_recording():
            return call_tracers.UnsampledServerCall(context)
        call = stream.message_tracer = call_tracers.SampledServerCall(span, context)
        return call

    def _parent_context(self, metadata: Metadata) -> Context:
        if not metadata:
            return EMPTY_CONTEXT
        found = self._orphan_contexts.get(metadata)
        if found is None:
            found = extract_context(metadata, Context())
            if not trace.get_current_span(found).get_span_context().is_valid:
                self._orphan_contexts[metadata] = found
        return found

    # -- outgoing calls ----------------------------------------------------------------------

    def trace_method(self, target: str, method: Method) -> tracer.StartCall:
        name = _span_name("Sent", method)
        attributes = {**_span_attributes(method), "server.address": target}
        # Health checks, and the control calls that a process makes throughout, start no trace.
        may_start_trace = LoadRecorder.is_counted(method.service)

        def start_call() -> tracer.ClientCallTracer:
            return self._start_client_call(name, attributes, may_start_trace)

        return start_call

    def _start_client_call(
        self, name: str, attributes: Mapping[str, Any], may_start_trace: bool
    ) -> tracer.ClientCallTracer:
        """Start to trace a call that is made in the current context.

        `may_start_trace`: whether a call without a parent may be sampled.
        """
        context = contexts.get_current()
        if context is self._root_context and current_context.get() is None:
            if not may_start_trace or not self._should_sample():
                return self._unsampled_client_call
        elif self._last_unsampled is not None and self._last_unsampled[0] is context:
            return self._last_unsampled[1]
        else:
            context = with_served_call_as_parent(context)
            if (unsampled := self._get_unsampled(context, may_start_trace)) is not None:
                return unsampled
        span = self._tracer.start_span(name, context, SpanKind.CLIENT, attributes)
        context = trace.set_span_in_context(span, context)
        if not span.is_recording():
            return call_tracers.UnsampledClientCall(context)
        return call_tracers.SampledClientCall(span, self._tracer, context, name)

    def _get_unsampled(
        self, context: Context, may_start_trace: bool
    ) -> tracer.ClientCallTracer | None:
        """Return the tracer of a call in a context; None if the call is to be sampled."""
        parent = trace.get_current_span(context).get_span_context()
        if not parent.is_valid:
            if not context:
                self._root_context = context
            if may_start_trace and self._should_sample():
                return None
            if not context:
                return self._unsampled_client_call
            return call_tracers.UnsampledClientCall(unsampled_root_context(context))
        if parent.trace_flags.sampled:
            return None
        unsampled = call_tracers.UnsampledClientCall(context)
        self._last_unsampled = (context, unsampled)
        return unsampled


def _span_name(kind: str, method: Method) -> str:
    """Return the name of a span of a method; `kind` is Sent, Attempt or Recv."""
    return f"{kind}.{method.service}.{method.name}"


def _span_attributes(method: Method) -> dict[str, str]:
    """Return the attributes of OpenTelemetry's conventions; gRFC A72 requires none."""
    return {"rpc.system": "grpc", "rpc.service": method.service, "rpc.method": method.name}
