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
        self._random = Random()
        self._chance = self._bound / (1 << _HALF)
        self._left = self._gap()
        self.sampler: Sampler = ParentBased(TraceIdRatioBased(ratio))

    def __call__(self) -> bool:
        self._left -= 1
        if self._left > 0:
            return False
        self._left = self._gap()
        self._ids.trace_id = (
            self._random.getrandbits(_HALF) << _HALF | self._random.randrange(self._bound) or 1
        )
        return True

    def _gap(self) -> float:
        """Which call from now on is the next one that wins, as if each had drawn for itself."""
        if not 0 < self._chance < 1:
            return 1 if self._chance else inf
        return 1 + log(1 - self._random.random()) // log1p(-self._chance)
