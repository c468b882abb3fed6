"""Cuts a byte stream into frames and joins header blocks (RFC 9113 §4, §6.2, §6.10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from meshtrio.http2.frames import (
    CONTINUATION,
    DATA,
    FRAME_HEADER_SIZE,
    HEADERS,
    MAX_STREAM_ID,
    unpack_length_and_type,
)

Frame = tuple[int, int, int, Any]
"""(type, flags, stream id, payload). The payload of HEADERS is the whole header block, that of DATA
may be a part of a large frame, and a memoryview if one was fed."""

_END_HEADERS = frames.END_HEADERS
_MIN_FRAGMENT_COST = 512
"""Minimum number of bytes that a fragment of a header block counts for, so that a block has 2,048
fragments at most, which take about 3 ms."""
_END_HEADERS = frames.END_HEADERS
_UNPADDED_END_HEADERS_MASK = _END_HEADERS | frames.PADDED
_MIN_MISSING_SIZE = 32 * 1024
"""Number of missing bytes from which on a DATA frame is yielded in parts, as they arrive. That
saves a copy, and the parts can be received directly into a message."""


class FrameReader:
    """Cuts received bytes into frames.

    Holds at most one incomplete frame, one incomplete header block, and the rest of one read while
    its frames are not processed. Of an incomplete large DATA frame it holds nothing: that is
    yielded as several DATA frames, of which the last has the frame's flags.
    """

    def __init__(self, *, expect_preface: bool, max_frame_size: int, max_block_size: int) -> None:
        self._max_frame_size = max_frame_size
        self._max_block_size = max_block_size
        self._remaining_preface = frames.PREFACE if expect_preface else b""
        self._buffer: list[bytes] = []
        """Pieces of an incomplete frame."""
        self._buffer_size = 0
        self._missing_size = 0
        """Number of bytes that complete the frame in `_buffer`, or its header."""
        self.missing_data_size = 0
        """Number of bytes that are missing of a DATA frame of which a part was yielded."""
        self.partial_stream_id = 0
        """The stream of that frame."""
        self._partial_flags = 0
        self._has_started_parts = False
        """Whether the last read began a DATA frame that is yielded in parts."""
        self._settings_received = False
        self._must_check_order = True
        """Whether the next frame has to be of a certain type: SETTINGS, or CONTINUATION."""
        self._block_fragments: list[bytes] = []
        self._block_size = 0
        self._block_stream_id = 0
        self._block_flags = 0
        self.unprocessed: Iterator[Frame] | None = None
        """Frames of the last read that were left for later; None if there are none."""
        self.incomplete_since: float | None = None
        """Time at which the peer began a frame or header block that is incomplete; None if none."""

    @property
    def buffered_size(self) -> int:
        """Number of bytes that are held of an incomplete frame and an incomplete header block."""
        return self._buffer_size + (self._block_size if self._block_stream_id else 0)

    @property
    def has_incomplete_frame(self) -> bool:
        """Whether a frame or a header block is incomplete."""
        return bool(self._buffer or self._block_stream_id or self.missing_data_size)

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Take bytes, and yield the frames that they complete. Raises RemoteProtocolError.

        A memoryview must not have more than `missing_data_size` bytes.
        """
        if self.missing_data_size:
            return self._feed_rest(data)
        assert isinstance(data, bytes)
        return self._feed(data)

    def _feed(self, data: bytes) -> Iterator[Frame]:
        if self._buffer or self._remaining_preface:
            data = self._resume(data)
        # `start` is where the payload of the next frame begins.
        start, end, max_size = FRAME_HEADER_SIZE, len(data), self._max_frame_size
        max_block_size, must_check_order = self._max_block_size, self._must_check_order
        while start <= end:
            length, flags, stream_id = unpack_length_and_type(data, start - FRAME_HEADER_SIZE)
            type_ = length & 0xFF
            length >>= 8
            if length > max_size:
                raise RemoteProtocolError(f"frame of {length} bytes", ErrorCode.FRAME_SIZE_ERROR)
            following = start + length
            if following > end:
                yield from self._feed_incomplete(data, start, following, type_, flags, stream_id)
                return
            payload = data[start:following]
            start = following + FRAME_HEADER_SIZE
            if stream_id > MAX_STREAM_ID:
                stream_id &= MAX_STREAM_ID
            if must_check_order or (
                type_ != DATA
                and (
                    type_ != HEADERS
                    or flags & _UNPADDED_END_HEADERS_MASK != _END_HEADERS
                    or not stream_id
                    or length > max_block_size
                )
            ):
                frame = self._process_unusual(type_, flags, stream_id, payload)
                must_check_order = self._must_check_order
                if frame is None:
                    continue
                type_, flags, stream_id, payload = frame
            yield type_, flags, stream_id, payload
        position = start - FRAME_HEADER_SIZE
        if position < end:
            self._buffer_incomplete(data, position, start)

    def _feed_incomplete(
        self, data: bytes, start: int, following: int, type_: int, flags: int, stream_id: int
    ) -> Iterator[Frame]:
        """Yield the first part of a large DATA frame, or buffer what there is of another one.

        `start` is where the payload begins, `following` where it will end.
        """
        missing = following - len(data)
        if (
            missing < _MIN_MISSING_SIZE
            or type_ != DATA
            or flags & frames.PADDED
            or self._must_check_order
            or not 0 < stream_id <= MAX_STREAM_ID
        ):
            self._buffer_incomplete(data, start - FRAME_HEADER_SIZE, following)
            return
        self.missing_data_size, self.partial_stream_id = missing, stream_id
        self._partial_flags, self._has_started_parts = flags, True
        if start < len(data):
            yield DATA, 0, stream_id, data[start:]

    def _feed_rest(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Yield the next part of a DATA frame, and the frames after it."""
        missing, stream_id = self.missing_data_size, self.partial_stream_id
        if len(data) < missing:
            self.missing_data_size = missing - len(data)
            if data:
                yield DATA, 0, stream_id, data
            return
        self.missing_data_size = 0
        part = data if len(data) == missing else data[:missing]
        yield DATA, self._partial_flags, stream_id, part
        if isinstance(data, bytes) and len(data) > missing:
            yield from self._feed(data[missing:])

    def _process_unusual(
        self, type_: int, flags: int, stream_id: int, payload: bytes
    ) -> Frame | None:
        """Check the order of frames and join header blocks; None while a block is incomplete."""
        if self._must_check_order or type_ == CONTINUATION:
            self._check_frame_order(type_, flags, stream_id)
        if type_ not in (HEADERS, CONTINUATION):
            return type_, flags, stream_id, payload
        block = self._add_block_fragment(type_, flags, stream_id, payload)
        return None if block is None else (HEADERS, self._block_flags, stream_id, block)

    def feed_or_continue(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Return what `feed` returns for `data`, or the frames in `unprocessed` if there are any.

        `data` must be empty then. The caller sets `unprocessed` to the iterator if it stops before
        the end.
        """
        unprocessed, self.unprocessed = self.unprocessed, None
        if unprocessed is None:
            return self.feed(data)
        if data:
            raise LocalProtocolError("there are frames that have not been processed")
        return unprocessed

    def update_incomplete_since(self, now: float, *, progress: bool) -> None:
        """Update `incomplete_since` after a read; `progress` is whether it completed a frame."""
        has_started_parts, self._has_started_parts = self._has_started_parts, False
        if not self.has_incomplete_frame or self.unprocessed is not None:
            self.incomplete_since = None
        elif self.incomplete_since is None or (
            # A part of a frame is no progress, unless it is the first one.
            progress if not self.missing_data_size else has_started_parts
        ):
            self.incomplete_since = now

    def _resume(self, data: bytes) -> bytes:
        """Return `data` with what was buffered before it, b"" while a frame is incomplete."""
        if self._remaining_preface:
            got = data[: len(self._remaining_preface)]
            if not self._remaining_preface.startswith(got):
                raise RemoteProtocolError("the client did not send HTTP/2's preface")
            self._remaining_preface = self._remaining_preface[len(got) :]
            return data[len(got) :]
        self._buffer.append(data)
        self._buffer_size += len(data)
        self._missing_size -= len(data)
        if self._missing_size > 0:
            return b""
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._buffer_size = 0
        return data

    def _buffer_incomplete(self, data: bytes, begin: int, end: int) -> None:
        """Buffer what was received of data[begin:end].

        The pieces are joined once the frame is complete. If they were joined for every read, a peer
        that sends single bytes would make this side copy the whole frame for each.
        """
        self._buffer.append(data[begin:])
        self._buffer_size = len(data) - begin
        self._missing_size = end - len(data)

    def _check_frame_order(self, type_: int, flags: int, stream_id: int) -> None:
        if self._block_stream_id:
            if type_ != CONTINUATION or stream_id != self._block_stream_id:
                raise RemoteProtocolError("a header block was interrupted by another frame")
        elif type_ == CONTINUATION:
            raise RemoteProtocolError("CONTINUATION without HEADERS")
        elif not self._settings_received:
            if type_ != frames.FrameType.SETTINGS or flags & frames.ACK:
                raise RemoteProtocolError("the first frame was not SETTINGS")
            self._settings_received = True
            self._must_check_order = False

    def _add_block_fragment(
        self, type_: int, flags: int, stream_id: int, payload: bytes
    ) -> bytes | None:
        if type_ == HEADERS:
            if not stream_id:
                raise RemoteProtocolError("HEADERS on stream 0")
            self._block_flags = flags
            if flags & frames.PADDED:
                payload = strip_padding(payload)
            if flags & frames.END_HEADERS and len(payload) <= self._max_block_size:
                return payload
            self._block_stream_id, self._block_size = stream_id, 0
            self._must_check_order = True
        # Each fragment takes time, however short it is.
        self._block_size += max(len(payload), _MIN_FRAGMENT_COST)
        if self._block_size > self._max_block_size:
            raise RemoteProtocolError("header block without end", ErrorCode.ENHANCE_YOUR_CALM)
        self._block_fragments.append(payload)
        if not flags & frames.END_HEADERS:
            return None
        block, self._block_fragments, self._block_stream_id = b"".join(self._block_fragments), [], 0
        self._must_check_order = False
        return block


def strip_padding(payload: bytes) -> bytes:
    """Remove the padding of a frame (§6.1). Raises RemoteProtocolError."""
    padding = payload[0] if payload else 0
    if padding + 1 > len(payload):
        raise RemoteProtocolError("padding longer than its frame")
    return payload[1 : len(payload) - padding]
