"""Streams that ended by RST_STREAM, whose late frames have to be ignored.

A peer may have sent frames on a stream before it receives RST_STREAM, or after it has sent it
(grpc-java sends RST_STREAM at a deadline, and then the trailers that were queued). They concern no
other stream, so they are dropped, whichever side sent the reset (RFC 9113 §5.1, "closed").
"""

from __future__ import annotations

from collections import OrderedDict

_MAX_RECENT = 256
"""Number of resets that are remembered one by one."""


class ResetStreams:
    """Remembers which streams were reset, by either side.

    Only the most recent resets are remembered individually. All streams below those count as reset,
    so that a peer is not failed for frames that are late by many streams.
    """

    def __init__(self) -> None:
        self._recently_reset: OrderedDict[int, bool] = OrderedDict()
        """By stream id, whether the next late frame is to be answered."""
        self._forgotten_up_to = 0

    def add(self, stream_id: int, *, reply_due: bool = False) -> None:
        """Remember a reset.

        Args:
            stream_id: The stream that was reset.
            reply_due: Whether the first late frame is to be answered with STREAM_CLOSED.
        """
        self._recently_reset[stream_id] = reply_due
        if len(self._recently_reset) > _MAX_RECENT:
            oldest, _ = self._recently_reset.popitem(last=False)
            self._forgotten_up_to = max(self._forgotten_up_to, oldest)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._recently_reset or stream_id <= self._forgotten_up_to

    def pop_reply_due(self, stream_id: int) -> bool:
        """Return whether a late frame is to be answered: at most once for each stream."""
        if not self._recently_reset.get(stream_id):
            return False
        self._recently_reset[stream_id] = False
        return True
