"""Cutting a byte stream into frames, with header blocks made whole (RFC 9113 §4, §6.2, §6.10)."""

from __future__ import annotations

from collections.abc import Iterator

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode, RemoteProtocolError
from meshtrio.http2.frames import FrameType

Frame = tuple[int, int, int, bytes]
"""(type, flags, stream id, payload); a HEADERS frame's payload is its whole header block."""

# As plain integers: an IntEnum's member is looked up on its class each time.
_HEADERS = int(FrameType.HEADERS)
_CONTINUATION = int(FrameType.CONTINUATION)
_HEADER_BLOCK_TYPES = (_HEADERS, _CONTINUATION)
_MIN_FRAGMENT_COST = 512
"""Bytes that a fragment of a header block counts for at least against the block's limit, so that
one block takes 2,048 of them at most, which are some 3 ms of work."""
_UNPADDED_END_HEADERS_MASK = frames.END_HEADERS | frames.PADDED


class FrameReader:
    """Holds at most one incomplete frame and one incomplete header block."""

    def __init__(self, *, expect_preface: bool, max_frame_size: int, max_block_size: int) -> None:
        """Sizes are bytes; `expect_preface` is for a server."""
        self._max_frame_size = max_frame_size
        self._max_block_size = max_block_size
        self._remaining_preface = frames.PREFACE if expect_preface else b""
        self._buffer: list[bytes] = []
        """Pieces of a frame that has not come whole."""
        self._buffer_size = 0
        self._missing_size = 0
        """Bytes until it, or its header, has."""
        self._settings_received = False
        self._must_check_order = True
        """Only some frame may come next: SETTINGS, or more of a header block."""
        self._block_fragments: list[bytes] = []
        self._block_size = 0
        self._block_stream_id = 0
        self._block_flags = 0

    @property
    def buffered_size(self) -> int:
        """Bytes that are kept of a frame and a header block that have not come whole."""
        return self._buffer_size + (self._block_size if self._block_stream_id else 0)

    @property
    def has_incomplete_frame(self) -> bool:
        """True while a frame or a header block was begun and not finished."""
        return bool(self._buffer or self._block_stream_id)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes, give the frames they complete. Raises PeerViolation while iterating."""
        if self._buffer or self._remaining_preface:
            data = self._resume(data)
        position, end = 0, len(data)
        while end - position >= frames.FRAME_HEADER_SIZE:
            high, low, type_, flags, stream_id = frames.unpack_frame_header(data, position)
            length = high << 8 | low
            if length > self._max_frame_size:
                raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes")
            following = position + frames.FRAME_HEADER_SIZE + length
            if following > end:
                self._buffer_incomplete(data, position, following)
                return
            payload = data[position + frames.FRAME_HEADER_SIZE : following]
            position = following
            stream_id &= 0x7FFFFFFF
            if self._must_check_order or type_ == _CONTINUATION:
                self._check_frame_order(type_, flags, stream_id)
            if (
                type_ == _HEADERS
                and flags & _UNPADDED_END_HEADERS_MASK == frames.END_HEADERS
                and stream_id
                and length <= self._max_block_size
            ):
                yield _HEADERS, flags, stream_id, payload
            elif type_ in _HEADER_BLOCK_TYPES:
                block = self._add_block_fragment(type_, flags, stream_id, payload)
                if block is not None:
                    yield _HEADERS, self._block_flags, stream_id, block
            else:
                yield type_, flags, stream_id, payload
        if position < end:
            self._buffer_incomplete(data, position, position + frames.FRAME_HEADER_SIZE)

    def _resume(self, data: bytes) -> bytes:
        """Go on where the last bytes left off; gives what is to be cut now, b"" for nothing yet."""
        if self._remaining_preface:
            return self._check_preface(data)
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
        """Keep what has come of data[begin:end], in pieces: joining them for every read would cost
        a peer that sends a byte at a time next to nothing, and this side the frame's size each.
        """
        self._buffer.append(data[begin:])
        self._buffer_size = len(data) - begin
        self._missing_size = end - len(data)

    def _check_preface(self, data: bytes) -> bytes:
        """Check off the preface, give what comes after it."""
        got = data[: len(self._remaining_preface)]
        if not self._remaining_preface.startswith(got):
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL_ERROR, "the client did not send HTTP/2's preface"
            )
        self._remaining_preface = self._remaining_preface[len(got) :]
        return data[len(got) :]

    def _check_frame_order(self, type_: int, flags: int, stream_id: int) -> None:
        if self._block_stream_id:
            if type_ != FrameType.CONTINUATION or stream_id != self._block_stream_id:
                raise RemoteProtocolError(
                    ErrorCode.PROTOCOL_ERROR, "a header block was interrupted by another frame"
                )
        elif type_ == FrameType.CONTINUATION:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        elif not self._settings_received:
            if type_ != FrameType.SETTINGS or flags & frames.ACK:
                raise RemoteProtocolError(
                    ErrorCode.PROTOCOL_ERROR, "the first frame was not SETTINGS"
                )
            self._settings_received = True
            self._must_check_order = False

    def _add_block_fragment(
        self, type_: int, flags: int, stream_id: int, payload: bytes
    ) -> bytes | None:
        if type_ == FrameType.HEADERS:
            if not stream_id:
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
            self._block_flags = flags
            if flags & frames.PADDED:
                payload = strip_padding(payload)
            if flags & frames.END_HEADERS and len(payload) <= self._max_block_size:
                return payload
            self._block_stream_id, self._block_size = stream_id, 0
            self._must_check_order = True
        # Each fragment costs a turn of the loop, however little it holds.
        self._block_size += max(len(payload), _MIN_FRAGMENT_COST)
        if self._block_size > self._max_block_size:
            raise RemoteProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "header block without end")
        self._block_fragments.append(payload)
        if not flags & frames.END_HEADERS:
            return None
        block, self._block_fragments, self._block_stream_id = b"".join(self._block_fragments), [], 0
        self._must_check_order = False
        return block


def strip_padding(payload: bytes) -> bytes:
    """Strip padding (§6.1). Raises PeerViolation."""
    padding = payload[0] if payload else 0
    if padding + 1 > len(payload):
        raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - padding]
