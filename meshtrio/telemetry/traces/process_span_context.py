"""The span context of a process run, derived from its launch id.

A caller whose call failed because a plugin's process exited receives the launch id
(`ExitInfo.launch_id`), and can link to the mesh's span of the process without any further message.
"""

from __future__ import annotations

import re

from opentelemetry.trace import SpanContext, TraceFlags

_LAUNCH_ID = re.compile("[0-9a-f]{16}")


def process_span_context(launch_id: str) -> SpanContext | None:
    """Return the context of the span of a process run; None for a malformed launch id.

    `launch_id` has 16 hexadecimal digits.
    """
    if _LAUNCH_ID.fullmatch(launch_id) is None:
        return None
    number = int(launch_id, 16)
    return SpanContext(
        (number << 64) | number, number, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
