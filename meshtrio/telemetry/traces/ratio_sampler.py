"""Sampling of calls without a parent, decided before OpenTelemetry is involved.

The SDK takes microseconds for a span that is not recorded, which at a ratio of one in a hundred is
most of the cost of tracing. So the decision is made first, and a sampled call gets a trace id that
the SDK's `TraceIdRatioBased` samples too.
"""

from __future__ import annotations

from math import inf, log, log1p
from random import Random

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

_ID_HALF_BITS = 64


class PresetIdGenerator(RandomIdGenerator):
    """Generates random ids, except for the next trace or span if its id was set."""

    def __init__(self) -> None:
        self.next_trace_id = 0
        self.next_span_id = 0

    def generate_trace_id(self) -> int:
        chosen, self.next_trace_id = self.next_trace_id, 0
        return chosen or super().generate_trace_id()

    def generate_span_id(self) -> int:
        chosen, self.next_span_id = self.next_span_id, 0
        return chosen or super().generate_span_id()


class RatioSampler:
    """Decides on calls without a parent; `sampler` confirms the decision from the trace id."""

    def __init__(self, ratio: float, id_generator: PresetIdGenerator) -> None:
        """`ratio`: share of calls that are sampled, from 0 to 1."""
        self._trace_id_bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._id_generator = id_generator
        self._random = Random()
        self._probability = self._trace_id_bound / (1 << _ID_HALF_BITS)
        self._calls_until_sample = self._draw_interval()
        self.sampler: Sampler = ParentBased(TraceIdRatioBased(ratio))

    def __call__(self) -> bool:
        """Return whether the next call is sampled; if so, set the id of its trace."""
        self._calls_until_sample -= 1
        if self._calls_until_sample > 0:
            return False
        self._calls_until_sample = self._draw_interval()
        self._id_generator.next_trace_id = (
            self._random.getrandbits(_ID_HALF_BITS) << _ID_HALF_BITS
            | self._random.randrange(self._trace_id_bound)
            or 1
        )
        return True

    def _draw_interval(self) -> float:
        """Draw the number of calls up to the next sampled one, from a geometric distribution."""
        if not 0 < self._probability < 1:
            return 1 if self._probability else inf
        return 1 + log(1 - self._random.random()) // log1p(-self._probability)
