"""Counts of calls by method, kept for those who watch a server or the gateway by method.

Each watcher has a `MethodTracker` of its own, whose `take` returns the counts since the last one.
Latencies are counted in buckets that are the same everywhere, so that those of several instances
can be added up and quantiles computed from the sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from time import monotonic
from typing import Generic, TypeVar

from meshtrio.grpc.status import StatusCode

BUCKET_COUNT = 96
"""Number of latency buckets."""
_FIRST_BOUND = 10e-6
"""Upper bound of bucket 0, in seconds."""
_BUCKETS_PER_OCTAVE = 4
_LOG_STEP = math.log(2) / _BUCKETS_PER_OCTAVE
MAX_METHODS = 100
"""Maximum number of methods of a server that are counted each; calls of others are "other"."""
MAX_METHOD_LENGTH = 200
"""Maximum characters of the name of a method that is counted by itself."""
MAX_METHOD_IDLE_TIME = 60.0
"""Seconds without a call after which the mesh no longer lists a method."""
OTHER_METHOD = "other"
"""Stands for methods that there are not, and those beyond the limits."""

_STATUS_CODES = frozenset(code.value for code in StatusCode)
_UNKNOWN, _UNIMPLEMENTED = StatusCode.UNKNOWN.value, StatusCode.UNIMPLEMENTED.value

K = TypeVar("K", bound=Hashable)


def find_bucket(seconds: float) -> int:
    """Return the number of the latency bucket of a duration."""
    if seconds <= _FIRST_BOUND:
        return 0
    # Less a trifle, so that the bounds themselves are not rounded up.
    exact = math.log(seconds / _FIRST_BOUND) / _LOG_STEP
    return math.ceil(exact - 1e-9) if exact < BUCKET_COUNT else BUCKET_COUNT - 1


def compute_quantiles(latency: Mapping[int, int], quantiles: Sequence[float]) -> list[float | None]:
    """Return the seconds that a share of the calls took at most, interpolated in their buckets.

    Args:
        latency: Number of calls by bucket.
        quantiles: Shares from 0 to 1.

    Returns:
        One for each quantile; None if there are no calls.
    """
    total = sum(latency.values())
    if not total:
        return [None] * len(quantiles)
    return [_compute_quantile(latency, quantile * total) for quantile in quantiles]


def _compute_quantile(latency: Mapping[int, int], rank: float) -> float:
    below, bucket = 0, 0
    for bucket in sorted(latency):
        if below + latency[bucket] >= rank:
            break
        below += latency[bucket]
    share = min((rank - below) / latency[bucket], 1.0) if latency[bucket] else 1.0
    if not bucket:
        return _FIRST_BOUND * share
    return _FIRST_BOUND * math.exp((bucket - 1 + share) * _LOG_STEP)


class MethodLoad:
    """The calls of one method since they were last taken."""

    __slots__ = (
        "earlier",
        "ended",
        "in_flight",
        "is_known",
        "last_active",
        "latency",
        "started",
        "was_taken",
    )

    def __init__(self, *, is_known: bool = False) -> None:
        self.started = 0
        """Number of calls that have started."""
        self.in_flight = 0
        """Number of calls under way that have started while they were counted."""
        self.earlier = 0
        """Number of calls under way that have started before."""
        self.ended: dict[int, int] = {}
        """Number of calls that have ended, by status code."""
        self.latency: dict[int, int] = {}
        """Number of these by latency bucket."""
        self.is_known = is_known
        """Whether the method is known to exist."""
        self.was_taken = False
        """Whether it had calls under way the last time, and was not known yet."""
        self.last_active = 0.0
        """When there was a call last, as of the last time that they were taken."""

    @property
    def is_idle(self) -> bool:
        return not (self.started or self.ended or self.in_flight or self.earlier)

    def record(self, code: int, seconds: float) -> None:
        """Count the end of a call whose start was counted here."""
        self.in_flight -= 1
        self.count_end(code, seconds)

    def record_earlier(self, code: int) -> None:
        """Count the end of a call that had started before calls were counted."""
        self.earlier = max(self.earlier - 1, 0)
        self.count_end(code, None)

    def count_end(self, code: int, seconds: float | None) -> None:
        """Count the status of a call, and its duration if that is known."""
        if code not in _STATUS_CODES:
            code = _UNKNOWN
        self.ended[code] = self.ended.get(code, 0) + 1
        if seconds is not None:
            bucket = find_bucket(seconds)
            self.latency[bucket] = self.latency.get(bucket, 0) + 1
        if code != _UNIMPLEMENTED:
            self.is_known = True

    def add(self, started: int, ended: Mapping[int, int], latency: Mapping[int, int]) -> None:
        """Add calls that were counted elsewhere."""
        self.started += started
        for own, others in ((self.ended, ended), (self.latency, latency)):
            for key, count in others.items():
                own[key] = own.get(key, 0) + count

    def list_latency(self) -> list[int]:
        """Return the number of calls in each latency bucket up to the last that has any."""
        return [self.latency.get(n, 0) for n in range(max(self.latency, default=-1) + 1)]

    def take(self) -> MethodLoad:
        """Return the counts, and start anew."""
        taken = MethodLoad(is_known=self.is_known)
        taken.started, self.started = self.started, 0
        taken.ended, self.ended = self.ended, {}
        taken.latency, self.latency = self.latency, {}
        taken.in_flight, taken.earlier = self.in_flight, self.earlier
        return taken


class MethodTracker(Generic[K]):
    """Counts calls by method for one watcher; of `max_methods` methods each, and all others."""

    def __init__(
        self,
        other: K,
        max_methods: int = MAX_METHODS,
        *,
        max_idle_time: float = math.inf,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """Count nothing yet.

        Args:
            other: The key of calls that are not counted by themselves.
            max_methods: Number of methods that are.
            max_idle_time: Seconds without a call after which the counts of a method are dropped.
                Its calls then have to keep what `start_call` returned until they end.
            now: The clock for that.
        """
        self.other = other
        """The key of calls that are not counted by themselves."""
        self._other = MethodLoad(is_known=True)
        self._methods: dict[K, MethodLoad] = {}
        self._max_methods = max_methods
        self._max_idle_time = max_idle_time
        self._now = now

    def __len__(self) -> int:
        return len(self._methods)

    def __contains__(self, key: K) -> bool:
        return key in self._methods

    def get(self, key: K, *, is_known: bool = False) -> MethodLoad:
        """Return the counts of a method, or those of others if there are too many methods.

        Unless `is_known`, the method's calls are added to the others if all are UNIMPLEMENTED.
        """
        found = self._methods.get(key)
        if found is None:
            if key == self.other or len(self._methods) >= self._max_methods:
                return self._other
            found = self._methods[key] = MethodLoad(is_known=is_known)
            found.last_active = self._now()
        return found

    def start_call(self, key: K, *, is_known: bool = False) -> MethodLoad:
        """Count the start of a call; its end is to be recorded by what this returns."""
        load = self.get(key, is_known=is_known)
        load.started += 1
        load.in_flight += 1
        return load

    def count_rejected(self, key: K, code: int) -> None:
        """Count a call that was rejected at once."""
        load = self.get(key, is_known=True)
        load.started += 1
        load.count_end(code, None)

    def reset_in_flight(self) -> None:
        """Forget the calls in flight, which are going to be set again."""
        for load in (*self._methods.values(), self._other):
            load.in_flight = 0

    def take(self) -> list[tuple[K, MethodLoad]]:
        """Return the counts since the last time, by method, those of others last.

        Methods without calls are among them until they are dropped. A method that is not known to
        exist is left out until its first call has ended, or has been under way for this long.
        """
        taken, now = [], self._now()
        for key, load in list(self._methods.items()):
            if not load.is_known and not load.in_flight:
                self._other.add(load.started, load.ended, load.latency)
                del self._methods[key]
                continue
            if not load.is_known and not load.was_taken:
                load.was_taken = True
                continue
            if not load.is_idle:
                load.last_active = now
            elif now - load.last_active > self._max_idle_time:
                del self._methods[key]
                continue
            taken.append((key, load.take()))
        if not self._other.is_idle:
            taken.append((self.other, self._other.take()))
        return taken
