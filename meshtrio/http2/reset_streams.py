"""Streams that ended by RST_STREAM: frames that arrive late for them, and what a reset costs.

Late frames. A peer that resets a stream may have sent frames for it before, or may send them still
(grpc-java sends RST_STREAM at a deadline and then the trailers that were queued). They concern no
other stream, so they are dropped, whichever side sent the reset (RFC 9113 §5.1, "closed").

Costs. Rapid reset (CVE-2023-44487) opens and resets streams without waiting, so that the limit on
concurrent streams bounds nothing. What tells it from calls that run into their deadlines is time: a
client that waits before it gives up has at most `max_concurrent_streams` calls in each such period,
and a client that lets the response begin has paid as much as for a whole call.
"""

from __future__ import annotations

from collections import OrderedDict

_MAX_RECENT = 256
_COST_WITH_DEADLINE = 0.1
"""Tokens of a reset that comes early on a stream with a deadline. If this side was late to read,
the request and the reset at its deadline arrive together and look like an attack; so cheap a reset
allows 2,000 a second by default, each of which is dropped before its handler starts."""


class ResetStreams:
    """Remembers which streams were reset, by either side.

    The last ones are remembered one by one. All before those are taken for reset, so that a peer
    that is late by very many streams is not failed for it.
    """

    def __init__(self) -> None:
        self._recently_reset: OrderedDict[int, bool] = OrderedDict()
        """By stream id, whether the next late frame is to be answered."""
        self._forgotten_up_to = 0

    def add(self, stream_id: int, *, reply_due: bool = False) -> None:
        """Note a reset.

        Args:
            answer: The first frame that comes late is to be answered with STREAM_CLOSED.
        """
        self._recently_reset[stream_id] = reply_due
        if len(self._recently_reset) > _MAX_RECENT:
            oldest, _ = self._recently_reset.popitem(last=False)
            self._forgotten_up_to = max(self._forgotten_up_to, oldest)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._recently_reset or stream_id <= self._forgotten_up_to

    def pop_reply_due(self, stream_id: int) -> bool:
        """Whether a late frame is to be answered: true once for each stream at most."""
        if not self._recently_reset.get(stream_id):
            return False
        self._recently_reset[stream_id] = False
        return True
