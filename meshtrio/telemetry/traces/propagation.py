"""Trace context and baggage in gRPC metadata, by the global propagators; contexts of processes."""

from __future__ import annotations

import re
from contextlib import suppress
from random import getrandbits

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from meshtrio.grpc.metadata import Metadata, encode_metadata
from meshtrio.http2.hpack import encoder
from meshtrio.rpc.context import current_context

EMPTY_CONTEXT = Context()
_LAUNCH_ID = re.compile("[0-9a-f]{16}")


def extract_context(metadata: Metadata, context: Context) -> Context:
    """Return a context with what the propagators read from metadata added to it."""
    carrier: dict[str, str] = {}
    for key, value in metadata:
        if isinstance(value, str):
            carrier[key] = f"{carrier[key]},{value}" if key in carrier else value
    return propagate.extract(carrier, context)


def with_served_call_as_parent(context: Context) -> Context:
    """Return a context whose parent is the caller of the served call, if it has no other parent.

    In a handler whose own call is not traced, outgoing calls thus belong to its caller's trace, as
    they would if this process did not trace at all.
    """
    call = current_context.get()
    if call is None or trace.get_current_span(context).get_span_context().is_valid:
        return context
    return extract_context(call.propagated_metadata, context)


def unsampled_root_context(context: Context = EMPTY_CONTEXT) -> Context:
    """Return a context with a new trace that is not sampled, and so is never exported."""
    root = SpanContext(getrandbits(128) or 1, getrandbits(64) or 1, is_remote=False)
    return trace.set_span_in_context(NonRecordingSpan(root), context)


def encode_context_headers(context: Context) -> tuple[bytes, frozenset[str]]:
    """Return the header fields that carry a context, HPACK-encoded, and their keys.

    Fields of a propagator that gRPC cannot send are omitted: tracing must not make calls fail.
    """
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    fields: list[tuple[bytes, bytes]] = []
    for key, value in carrier.items():
        with suppress(ValueError, TypeError):
            fields += encode_metadata(((key.lower(), value),))
    return encoder.encode(fields), frozenset(name.decode() for name, _ in fields)


def process_span_context(launch_id: str) -> SpanContext | None:
    """Return the context of the span of a process run; None for a malformed launch id.

    It is derived from the launch id, so that a caller whose call failed because a plugin's process
    exited can link to the mesh's span of it without any further message (`ExitInfo.launch_id`).
    """
    if _LAUNCH_ID.fullmatch(launch_id) is None:
        return None
    number = int(launch_id, 16)
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext((number << 64) | number, number, is_remote=True, trace_flags=flags)
