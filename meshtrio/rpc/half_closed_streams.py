"""Streams that a server has answered and the client has still to end."""

from __future__ import annotations

from meshtrio.http2.connection import H2Connection
from meshtrio.http2.errors import ErrorCode

_NO_ERROR = ErrorCode.NO_ERROR
_MAX_HALF_CLOSED_STREAMS = 256


class HalfClosedStreams:
    """Gives clients time to end the streams that a server has answered.

    Clients fail a call that is reset right behind its response while they have not sent their
    END_STREAM yet, although RFC 9113 §8.1 allows the reset. So the streams stay open for a while;
    the oldest are reset if there are too many. They hold no handler and no memory of messages.
    """

    def __init__(self, engine: H2Connection, max_concurrent_streams: int) -> None:
        self._engine = engine
        self._max_streams = min(_MAX_HALF_CLOSED_STREAMS, max_concurrent_streams // 2)
        self._answered_at: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._answered_at)

    def add(self, stream_id: int, now: float) -> bool:
        """Keep a stream open; return whether others were reset, so that a flush is due."""
        self._answered_at[stream_id] = now
        return len(self._answered_at) > self._max_streams and self._trim()

    def _trim(self) -> bool:
        """Drop the streams that the client has ended, and reset the oldest of too many others."""
        is_open = self._engine.is_half_closed_local
        waiting = [item for item in self._answered_at.items() if is_open(item[0])]
        surplus = max(len(waiting) - self._max_streams, 0)
        for stream_id, _ in waiting[:surplus]:
            self._engine.reset_stream(stream_id, _NO_ERROR)
        self._answered_at = dict(waiting[surplus:])
        return surplus > 0

    def reset_older_than(self, time: float) -> None:
        """Reset the streams that were answered at a time or before it."""
        for stream_id, answered_at in list(self._answered_at.items()):
            if answered_at <= time:
                del self._answered_at[stream_id]
                self._engine.reset_stream(stream_id, _NO_ERROR)
