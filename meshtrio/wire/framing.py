"""Cutting a byte stream into frames, with header blocks made whole (RFC 9113 §4, §6.2, §6.10)."""

from __future__ import annotations

from collections.abc import Iterator

from meshtrio.wire import frames
from meshtrio.wire.errors import ErrorCode, PeerViolation
from meshtrio.wire.frames import FrameType

Frame = tuple[int, int, int, bytes]
"""(type, flags, stream id, payload); a HEADERS frame's payload is its whole header block."""

# As plain integers: an IntEnum's member is looked up on its class each time.
_HEADERS = int(FrameType.HEADERS)
_CONTINUATION = int(FrameType.CONTINUATION)
_HEADER_BLOCK = (_HEADERS, _CONTINUATION)
_MIN_FRAGMENT_COST = 512
"""Bytes that a fragment of a header block counts for at least against the block's limit, so that
one block takes 2,048 of them at most, which are some 3 ms of work."""
_WHOLE = frames.END_HEADERS | frames.PADDED


class FrameReader:
    """Holds at most one incomplete frame and one incomplete header block."""

    def __init__(self, *, expect_preface: bool, max_frame_size: int, max_block_size: int) -> None:
        """Sizes are bytes; `expect_preface` is for a server."""
        self._max_frame_size = max_frame_size
        self._max_block_size = max_block_size
        self._preface_left = frames.PREFACE if expect_preface else b""
        self._held: list[bytes] = []
        """Pieces of a frame that has not come whole."""
        self._held_size = 0
        self._missing = 0
        """Bytes until it, or its header, has."""
        self._settings_seen = False
        self._order_matters = True
        """Only some frame may come next: SETTINGS, or more of a header block."""
        self._block: list[bytes] = []
        self._block_size = 0
        self._block_stream = 0
        self._block_flags = 0

    @property
    def held_size(self) -> int:
        """Bytes that are kept of a frame and a header block that have not come whole."""
        return self._held_size + (self._block_size if self._block_stream else 0)

    @property
    def incomplete(self) -> bool:
        """True while a frame or a header block was begun and not finished."""
        return bool(self._held or self._block_stream)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes, give the frames they complete. Raises PeerViolation while iterating."""
        if self._held or self._preface_left:
            data = self._resume(data)
        position, end = 0, len(data)
        while end - position >= frames.HEADER_SIZE:
            high, low, type_, flags, stream_id = frames.parse_header(data, position)
            length = high << 8 | low
            if length > self._max_frame_size:
                raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes")
            following = position + frames.HEADER_SIZE + length
            if following > end:
                self._hold(data, position, following)
                return
            payload = data[position + frames.HEADER_SIZE : following]
            position = following
            stream_id &= 0x7FFFFFFF
            if self._order_matters or type_ == _CONTINUATION:
                self._check_order(type_, flags, stream_id)
            if (
                type_ == _HEADERS
                and flags & _WHOLE == frames.END_HEADERS
                and stream_id
                and length <= self._max_block_size
            ):
                yield _HEADERS, flags, stream_id, payload
            elif type_ in _HEADER_BLOCK:
                block = self._add_to_block(type_, flags, stream_id, payload)
                if block is not None:
                    yield _HEADERS, self._block_flags, stream_id, block
            else:
                yield type_, flags, stream_id, payload
        if position < end:
            self._hold(data, position, position + frames.HEADER_SIZE)

    def _resume(self, data: bytes) -> bytes:
        """Go on where the last bytes left off; gives what is to be cut now, b"" for nothing yet."""
        if self._preface_left:
            return self._take_preface(data)
        self._held.append(data)
        self._held_size += len(data)
        self._missing -= len(data)
        if self._missing > 0:
            return b""
        data = b"".join(self._held)
        self._held.clear()
        self._held_size = 0
        return data

    def _hold(self, data: bytes, begin: int, end: int) -> None:
        """Keep what has come of data[begin:end], in pieces: joining them for every read would cost
        a peer that sends a byte at a time next to nothing, and this side the frame's size each.
        """
        self._held.append(data[begin:])
        self._held_size = len(data) - begin
        self._missing = end - len(data)

    def _take_preface(self, data: bytes) -> bytes:
        """Check off the preface, give what comes after it."""
        got = data[: len(self._preface_left)]
        if not self._preface_left.startswith(got):
            raise PeerViolation(
                ErrorCode.PROTOCOL_ERROR, "the client did not send HTTP/2's preface"
            )
        self._preface_left = self._preface_left[len(got) :]
        return data[len(got) :]

    def _check_order(self, type_: int, flags: int, stream_id: int) -> None:
        if self._block_stream:
            if type_ != FrameType.CONTINUATION or stream_id != self._block_stream:
                raise PeerViolation(
                    ErrorCode.PROTOCOL_ERROR, "a header block was interrupted by another frame"
                )
        elif type_ == FrameType.CONTINUATION:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        elif not self._settings_seen:
            if type_ != FrameType.SETTINGS or flags & frames.ACK:
                raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "the first frame was not SETTINGS")
            self._settings_seen = True
            self._order_matters = False

    def _add_to_block(self, type_: int, flags: int, stream_id: int, payload: bytes) -> bytes | None:
        if type_ == FrameType.HEADERS:
            if not stream_id:
                raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
            self._block_flags = flags
            if flags & frames.PADDED:
                payload = unpad(payload)
            if flags & frames.END_HEADERS and len(payload) <= self._max_block_size:
                return payload
            self._block_stream, self._block_size = stream_id, 0
            self._order_matters = True
        # Each fragment costs a turn of the loop, however little it holds.
        self._block_size += max(len(payload), _MIN_FRAGMENT_COST)
        if self._block_size > self._max_block_size:
            raise PeerViolation(ErrorCode.ENHANCE_YOUR_CALM, "header block without end")
        self._block.append(payload)
        if not flags & frames.END_HEADERS:
            return None
        block, self._block, self._block_stream = b"".join(self._block), [], 0
        self._order_matters = False
        return block


def unpad(payload: bytes) -> bytes:
    """Strip padding (§6.1). Raises PeerViolation."""
    padding = payload[0] if payload else 0
    if padding + 1 > len(payload):
        raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - padding]
