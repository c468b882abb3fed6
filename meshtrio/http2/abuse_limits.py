"""Limits on what costs a peer less than this side: token buckets, the cost of frames and resets.

Frames without content. PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA and frames of unknown
types cost this side a step each and the peer nothing, so each takes a control token. DATA earns
tokens back, in either direction: a peer answers DATA with WINDOW_UPDATE frames.

Rapid reset (CVE-2023-44487) opens and resets streams without waiting, so that the limit of
concurrent streams bounds nothing. What distinguishes it from calls that reach their deadlines is
time: a client that waits before it gives up has at most `max_concurrent_streams` calls in each such
period, and a client that lets the response begin has paid for a whole call. Only servers count
resets, because clients bound the streams that they open themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshtrio.http2.errors import DenialOfServiceError
from meshtrio.http2.limits import Limits
from meshtrio.http2.stream import H2Stream
from meshtrio.util.token_bucket import TokenBucket

_MAX_CONTROL_TOKENS = 1_000_000
"""Maximum number of control tokens that DATA may earn: WINDOW_UPDATE frames for a gigabyte."""
_COST_WITH_DEADLINE = 0.1
"""Tokens of an early reset on a stream with a deadline. If this side was late to read, the request
and the reset at its deadline arrive together and look like an attack. Such a low cost allows 2,000
a second by default, each of which is dropped before its handler starts."""


class AbuseLimits:
    """Token buckets of one connection. Raises DenialOfServiceError once one is empty."""

    def __init__(self, limits: Limits, *, is_client: bool) -> None:
        self.now = 0.0
        """Time of the current `H2Connection.receive_data` (seconds, monotonic)."""
        self.control_bucket = TokenBucket(
            limits.control_burst, limits.control_rate, max_tokens=_MAX_CONTROL_TOKENS
        )
        """Tokens for frames without content."""
        self.reset_bucket = TokenBucket(limits.reset_burst, limits.reset_rate)
        """Tokens for resets; each stream that ends without one adds a token."""
        self._reset_grace = limits.reset_grace
        self._is_client = is_client

    def share(self, reset_bucket: TokenBucket, control_bucket: TokenBucket) -> None:
        """Count together with the other connections of the same client.

        `control_bucket` is charged, too, for frames without content that were not earned.
        """
        self.reset_bucket = reset_bucket
        self.control_bucket.parent = control_bucket

    def charge_control_frame(self, what: str) -> None:
        """Charge the peer for a frame without content; `what` names the kind in the plural."""
        if not self.control_bucket.try_acquire(self.now):
            # gRPC clients know this text and send PING less often after it (grpc/doc/keepalive.md).
            reason = "too_many_pings" if what == "PING frames" else f"too many {what}"
            raise DenialOfServiceError(reason)

    def charge_reset(self, cost: float = 1.0) -> None:
        """Charge a client for a stream that was opened for nothing."""
        if cost and not self._is_client and not self.reset_bucket.try_acquire(self.now, cost):
            raise DenialOfServiceError("too many streams opened and reset")

    def charge_abandoned_streams(self, streams: Iterable[H2Stream], now: float) -> bool:
        """Charge a client for abandoned streams; return False if there are not enough tokens."""
        cost = sum(self.reset_cost(stream, now) for stream in streams)
        return not cost or self.reset_bucket.try_acquire(now, cost)

    def reset_cost(self, stream: H2Stream, now: float) -> float:
        """Return the number of tokens that a client's reset of a stream costs."""
        if stream.response_started or now - stream.opened_at >= self._reset_grace:
            return 0.0
        return _COST_WITH_DEADLINE if stream.has_deadline else 1.0
