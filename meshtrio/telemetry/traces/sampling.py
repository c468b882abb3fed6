"""Which calls without a parent are recorded, drawn before OpenTelemetry is asked.

The SDK takes some microseconds to make a span that is not recorded. Where one call of a hundred is,
that is most of what tracing costs; so the lot is drawn first, by the rule of its own
`TraceIdRatioBased`, and a call that wins gets the trace id it won with.
"""

from __future__ import annotations

from random import Random

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

_HALF = 64


class ChosenIds(RandomIdGenerator):
    """Random ids, unless one was chosen for the next trace."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        chosen, self.trace_id = self.trace_id, 0
        return chosen or super().generate_trace_id()

    def generate_span_id(self) -> int:
        chosen, self.span_id = self.span_id, 0
        return chosen or super().generate_span_id()


class Lot:
    """Draws for calls without a parent; `sampler` gives the same answer for what it has drawn."""

    def __init__(self, ratio: float, ids: ChosenIds) -> None:
        """`ratio`: of 0 to 1, how many are recorded."""
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._ids = ids
        self._draw = Random().getrandbits
        self.sampler: Sampler = ParentBased(TraceIdRatioBased(ratio))

    def __call__(self) -> bool:
        low = self._draw(_HALF)
        if low >= self._bound:
            return False
        self._ids.trace_id = (self._draw(_HALF) << _HALF) | low or 1
        return True
