"""SETTINGS: what this side announces at the start, and what the peer has announced."""

from __future__ import annotations

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode, RemoteProtocolError
from meshtrio.http2.frames import Setting
from meshtrio.http2.hpack.encoder import TABLE_SIZE_UPDATE_TO_ZERO
from meshtrio.http2.limits import Limits

_INITIAL_MAX_CONCURRENT_STREAMS = 100
"""Number of streams that are opened before the peer has sent its limit, which RFC 9113 §6.5.2
recommends to be no smaller."""


def encode_preface(limits: Limits, *, is_client: bool) -> list[bytes]:
    """Encode the connection preface: SETTINGS, and the enlarged window of the connection."""
    values: dict[int, int] = {
        Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
        Setting.MAX_FRAME_SIZE: limits.max_frame_size,
        Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_size,
    }
    out = []
    if is_client:
        out.append(frames.PREFACE)
        values[Setting.ENABLE_PUSH] = 0
    else:
        values[Setting.MAX_CONCURRENT_STREAMS] = limits.max_concurrent_streams
    out.append(frames.settings(values))
    extra = limits.connection_window - frames.DEFAULT_INITIAL_WINDOW_SIZE
    if extra > 0:
        out.append(frames.window_update(0, extra))
    return out


class PeerSettings:
    """Settings of the peer, which bound what this side sends (RFC 9113 §6.5.2)."""

    __slots__ = (
        "_is_client",
        "_max_send_header_list_size",
        "initial_window_size",
        "is_received",
        "max_concurrent_streams",
        "max_frame_size",
        "max_header_list_size",
        "pending_table_size_update",
    )

    def __init__(self, max_send_header_list_size: int, is_client: bool) -> None:
        self._max_send_header_list_size = max_send_header_list_size
        """Limit of this side on the header lists that it sends."""
        self._is_client = is_client
        self.is_received = False
        """Whether the peer has sent SETTINGS."""
        self.initial_window_size = frames.DEFAULT_INITIAL_WINDOW_SIZE
        """Send window of a new stream, in bytes."""
        self.max_frame_size = frames.DEFAULT_MAX_FRAME_SIZE
        """Maximum payload of a frame, in bytes."""
        self.max_concurrent_streams = _INITIAL_MAX_CONCURRENT_STREAMS
        """Number of streams that may be open at a time."""
        self.max_header_list_size = max_send_header_list_size
        """Maximum size of a header list in bytes: the limit of the peer, if it has one, or that of
        this side, whichever is lower."""
        self.pending_table_size_update = b""
        """Prefix that the next header block needs, as the peer has reduced HEADER_TABLE_SIZE."""

    def apply(self, payload: bytes) -> int:
        """Apply the payload of SETTINGS. Raises RemoteProtocolError.

        Returns the change of the initial window, by which the windows of open streams change.
        """
        if not self.is_received:
            self.is_received = True
            # Without the setting there is no limit.
            self.max_concurrent_streams = frames.MAX_STREAM_ID
        window = self.initial_window_size
        for key, value in frames.iter_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                if value > frames.MAX_WINDOW_SIZE:
                    reason = f"INITIAL_WINDOW_SIZE is {value}"
                    raise RemoteProtocolError(reason, ErrorCode.FLOW_CONTROL_ERROR)
                # Only the last one counts, because a change costs a step for each stream.
                window = value
            else:
                self._apply_setting(key, value)
        change = window - self.initial_window_size
        self.initial_window_size = window
        return change

    def _apply_setting(self, key: int, value: int) -> None:
        if key == Setting.HEADER_TABLE_SIZE:
            if value < 4096:
                self.pending_table_size_update = TABLE_SIZE_UPDATE_TO_ZERO
        elif key == Setting.ENABLE_PUSH:
            if value > 1 or (self._is_client and value):
                raise RemoteProtocolError(f"ENABLE_PUSH is {value}")
        elif key == Setting.MAX_CONCURRENT_STREAMS:
            self.max_concurrent_streams = value
        elif key == Setting.MAX_HEADER_LIST_SIZE:
            self.max_header_list_size = min(value, self._max_send_header_list_size)
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME_SIZE <= value <= frames.MAX_MAX_FRAME_SIZE:
                raise RemoteProtocolError(f"MAX_FRAME_SIZE is {value}")
            self.max_frame_size = value
