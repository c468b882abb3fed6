"""The trace of one life of a plugin's process, known by its word alone.

Who meets a plugin's death is told the word with it (`ExitInfo.life`), and can point to what the
mesh recorded of that without having been told of any span.
"""

from __future__ import annotations

import re

from opentelemetry.trace import SpanContext, TraceFlags

_LAUNCH_ID = re.compile("[0-9a-f]{16}")


def process_span_context(launch_id: str) -> SpanContext | None:
    """Of the span that lasts as long as a process; `life` is its word, of 16 hexadecimal digits.
    None for anything else."""
    if _LAUNCH_ID.fullmatch(launch_id) is None:
        return None
    number = int(launch_id, 16)
    return SpanContext(
        (number << 64) | number, number, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
