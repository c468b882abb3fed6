"""Which calls without a parent are recorded, drawn before OpenTelemetry is asked.

The SDK takes some microseconds to make a span that is not recorded. Where one call of a hundred is,
that is most of what tracing costs; so the lot is drawn first, by the rule of its own
`TraceIdRatioBased`, and a call that wins gets a trace id that wins by it.
"""

from __future__ import annotations

from math import inf, log, log1p
from random import Random

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

_ID_HALF_BITS = 64


class PresetIdGenerator(RandomIdGenerator):
    """Random ids, unless one was chosen for the next trace."""

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
    """Draws for calls without a parent; `sampler` gives the same answer for what it has drawn."""

    def __init__(self, ratio: float, id_generator: PresetIdGenerator) -> None:
        """`ratio`: of 0 to 1, how many are recorded."""
        self._trace_id_bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._id_generator = id_generator
        self._random = Random()
        self._probability = self._trace_id_bound / (1 << _ID_HALF_BITS)
        self._calls_until_sample = self._draw_interval()
        self.sampler: Sampler = ParentBased(TraceIdRatioBased(ratio))

    def __call__(self) -> bool:
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
        """Which call from now on is the next one that wins, as if each had drawn for itself."""
        if not 0 < self._probability < 1:
            return 1 if self._probability else inf
        return 1 + log(1 - self._random.random()) // log1p(-self._probability)
