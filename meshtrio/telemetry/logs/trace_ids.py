"""The ids of the trace and the span that the current code belongs to."""

from __future__ import annotations

import re
import sys

from meshtrio.rpc.context import current_context

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED_FLAG = 1


def current_trace_ids() -> tuple[str, str]:
    """Return the ids of trace and span in hexadecimal, or two empty strings.

    They are those of OpenTelemetry's current span if the program uses OpenTelemetry, else those in
    the `traceparent` of the call that is being served. A trace that is not sampled has no ids: it
    cannot be looked up, and calls may share its id (see `telemetry.traces`).
    """
    return _ids_of_opentelemetry() or _ids_of_served_call() or ("", "")


def parse_traceparent(value: object) -> tuple[str, str] | None:
    """Return the ids in a traceparent if it is sampled (W3C Trace Context, §3.2)."""
    found = _TRACEPARENT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(flags, 16) & _SAMPLED_FLAG:
        return None
    return (trace_id, span_id) if trace_id.strip("0") and span_id.strip("0") else None


def _ids_of_served_call() -> tuple[str, str] | None:
    call = current_context.get()
    metadata = () if call is None else call.custom_metadata
    return parse_traceparent(next((v for key, v in metadata if key == "traceparent"), None))


def _ids_of_opentelemetry() -> tuple[str, str] | None:
    """Return the ids of the current span, without importing OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    try:
        context = trace.get_current_span().get_span_context()
        ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        return ids if context.is_valid and context.trace_flags & _SAMPLED_FLAG else None
    except Exception:
        return None  # It is partly imported; the record is written without ids.
