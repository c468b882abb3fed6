"""The HTTP/2 engine: one connection's state, fed bytes, giving events (RFC 9113).

    engine = Connection(Role.SERVER)
    for event in engine.receive_data(data): ...
    sock.send(engine.data_to_send())

Violations by the peer never raise here: a stream's ends that stream with RST_STREAM and a
`StreamReset` event, a connection's ends the connection with GOAWAY and `ConnectionFailed`.
What raises `LocalMisuse` is a bug of the layer above.

Over 600 lines, because each rule here reads or changes the one state of a connection; what can be
judged without it is in `frames`, `framing`, `hpack`, `heads`, `stream`, `resets` and `budget`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from enum import Enum

from meshtrio.wire import frames
from meshtrio.wire.budget import Budget
from meshtrio.wire.errors import (
    ErrorCode,
    HeaderListTooLarge,
    LocalMisuse,
    MalformedHead,
    PeerAbuse,
    PeerViolation,
    StreamViolation,
    error_name,
)
from meshtrio.wire.events import (
    ConnectionFailed,
    DataReceived,
    Event,
    GoAwayReceived,
    PingAcknowledged,
    RequestReceived,
    RequestTooLarge,
    ResponseReceived,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
    WindowOpened,
)
from meshtrio.wire.frames import FrameType, Setting
from meshtrio.wire.framing import Frame, FrameReader, unpad
from meshtrio.wire.heads import parse_request, parse_response, parse_trailers
from meshtrio.wire.hpack import SHRINK_TABLE, HeaderDecoder
from meshtrio.wire.limits import Limits
from meshtrio.wire.resets import ResetStreams, reset_cost
from meshtrio.wire.stream import Input, Stream, StreamState

_STREAMS_BEFORE_SETTINGS = 100
_KNOWN_TYPES = 9
"""Frame types below it have handlers."""
_CONTROL_HOARD = 1_000_000
"""Frames without content that much DATA may earn a peer: WINDOW_UPDATEs for a gigabyte."""

# A member that is looked up on its class costs more than all else a frame does with it.
_CLOSED = StreamState.CLOSED
_HALF_CLOSED_LOCAL = StreamState.HALF_CLOSED_LOCAL
_HALF_CLOSED_REMOTE = StreamState.HALF_CLOSED_REMOTE
_DATA, _HEADERS = FrameType.DATA, FrameType.HEADERS
_SEND, _SEND_END = Input.SEND, Input.SEND_END
_RECEIVE, _RECEIVE_END = Input.RECEIVE, Input.RECEIVE_END


class Role(Enum):
    CLIENT = "client"
    SERVER = "server"


class Connection:
    """One side of an HTTP/2 connection.

    Flow control: the connection's window is given back as bytes arrive, so that one stream left
    unread cannot stop the others; a stream's is given back by `allow`, so that it does stop
    that stream's sender.
    """

    def __init__(self, role: Role, limits: Limits | None = None) -> None:
        self.role = role
        self.limits = limits or Limits()
        self.closed = False
        """True once this side has failed the connection; it neither reads nor sends any more."""
        self.peer_last_stream_id: int | None = None
        """From the peer's GOAWAY: no stream can be opened any more."""
        self._is_client = role is Role.CLIENT
        self.streams_failed = 0
        """Streams that the server did not end: they were reset, or lost with the connection."""
        self._streams: dict[int, Stream] = {}
        self._reset_streams = ResetStreams()
        self._peer_resets = 0
        """RST_STREAM frames received."""
        self._streams_received = 0
        """Server: streams that the client has opened."""
        self._next_stream_id = 1
        self._highest_peer_stream = 0
        self._refuse_above = frames.MAX_STREAM_ID
        absolute_max = max(
            self.limits.absolute_max_header_list_size, self.limits.max_header_list_size
        )
        self._reader = FrameReader(
            expect_preface=not self._is_client,
            max_frame_size=self.limits.max_frame_size,
            max_block_size=absolute_max,
        )
        self.unread: Iterator[Frame] | None = None
        """Frames received last that have not been processed; None for none."""
        self._out: list[bytes | memoryview] = []
        self._settings_seen = False
        self._decoder = HeaderDecoder(self.limits.max_header_list_size, absolute_max)
        self._table_update = b""
        self._peer_window = frames.DEFAULT_WINDOW
        self._peer_frame_size = frames.DEFAULT_MAX_FRAME_SIZE
        self._peer_max_streams = _STREAMS_BEFORE_SETTINGS
        self.max_sent_header_list = self.limits.max_send_header_list_size
        """Bytes of the largest header list that may be sent: the peer's limit, if it has set one
        (RFC 9113 §6.5.2), or this side's own, whichever is less."""
        self._control = Budget(
            self.limits.control_burst, self.limits.control_rate, most=_CONTROL_HOARD
        )
        self._resets = Budget(self.limits.reset_burst, self.limits.reset_rate)
        self._now = 0.0
        self.stalled_since: float | None = None
        """When the frame or header block was begun that the peer has not finished yet."""
        self._send_window = frames.DEFAULT_WINDOW
        self._receive_window = self.limits.connection_window
        self._send_preface()

    def share_budgets(self, resets: Budget, control: Budget) -> None:
        """Server: count abuse for the client with all its connections.

        Args:
            resets: Used instead of this connection's own.
            control: Has to pay as well for frames without content.
        """
        self._resets = resets
        self._control.parent = control

    def charge_lost_streams(self, now: float) -> bool:
        """Server: count the streams that a client leaves behind when it closes the connection, as
        if it reset them; false if it may not have as many."""
        cost = sum(
            reset_cost(
                now - stream.opened_at,
                grace=self.limits.reset_grace,
                has_deadline=stream.has_deadline,
                answered=stream.answered,
            )
            for stream in self._streams.values()
        )
        return not cost or self._resets.take(now, cost)

    # -- what goes out -----------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """Take what is to be written to the peer, in order; empty when there is nothing."""
        return b"".join(self.buffers_to_send())

    def buffers_to_send(self) -> list[bytes | memoryview]:
        """The same as `data_to_send`, in pieces, which saves copying large ones."""
        buffers, self._out = self._out, []
        return buffers

    def _send_preface(self) -> None:
        limits = self.limits
        values: dict[int, int] = {
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.max_frame_size,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_size,
        }
        if self._is_client:
            self._out.append(frames.PREFACE)
            values[Setting.ENABLE_PUSH] = 0
        else:
            values[Setting.MAX_CONCURRENT_STREAMS] = limits.max_concurrent_streams
        self._out.append(frames.settings(values))
        extra = limits.connection_window - frames.DEFAULT_WINDOW
        if extra > 0:
            self._out.append(frames.window_update(0, extra))

    @property
    def partial_size(self) -> int:
        """Bytes that are kept of a frame and a header block which the peer has not finished."""
        return self._reader.held_size

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def streams_opened(self) -> int:
        """Client: how many streams this connection has had."""
        return self._next_stream_id // 2

    def can_send(self, stream_id: int) -> bool:
        """Whether anything can still be sent on a stream: neither side has closed it for that."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.state is not _HALF_CLOSED_LOCAL

    def awaits_end(self, stream_id: int) -> bool:
        """Whether this side has ended a stream that the peer has not ended."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.state is _HALF_CLOSED_LOCAL

    @property
    def windows(self) -> tuple[int, int]:
        """The connection's: bytes that may be sent now, and that the peer may send."""
        return self._send_window, self._receive_window

    def window_is_open(self, stream_id: int) -> bool:
        """Whether the peer may send on a stream now: both windows have room."""
        stream = self._streams.get(stream_id)
        return stream is not None and min(stream.receive_window, self._receive_window) > 0

    @property
    def established(self) -> bool:
        """Whether the peer has sent its SETTINGS."""
        return self._settings_seen

    @property
    def can_open_stream(self) -> bool:
        """Whether `open_stream` may be called now; false for good once the peer is going away."""
        return (
            not self.closed
            and self.peer_last_stream_id is None
            and len(self._streams) < self._peer_max_streams
            and self._next_stream_id <= frames.MAX_STREAM_ID
        )

    @property
    def exhausted(self) -> bool:
        """True when the connection will never open another stream."""
        return (
            self.closed
            or self.peer_last_stream_id is not None
            or self._next_stream_id > frames.MAX_STREAM_ID
        )

    def open_stream(self, block: bytes, *, end_stream: bool = False) -> int:
        """Client: send a request's head, give the new stream's id. Raises LocalMisuse."""
        if not self._is_client or not self.can_open_stream:
            raise LocalMisuse("no stream can be opened on this connection now")
        stream_id = self._next_stream_id
        self._next_stream_id += 2
        stream = self._new_stream(stream_id)
        self._send_block(stream, block, end_stream=end_stream)
        return stream_id

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool = False) -> None:
        """Send a response's head or trailers. Raises LocalMisuse for a stream that is not open."""
        stream = self._stream(stream_id)
        stream.answered = True
        self._send_block(stream, block, end_stream=end_stream)

    def _send_block(self, stream: Stream, block: bytes, *, end_stream: bool) -> None:
        stream.advance(_SEND_END if end_stream else _SEND)
        if self._table_update:
            block, self._table_update = self._table_update + block, b""
        self._out.append(
            frames.header_frames(
                stream.id, block, end_stream=end_stream, max_size=self._peer_frame_size
            )
        )
        self._forget_if_closed(stream)

    def send_data(
        self, stream_id: int, data: bytes | memoryview, *, end_stream: bool = False
    ) -> int:
        """Send as much of `data` as the peer's windows allow; give the number of bytes taken.

        `end_stream` takes effect with the last byte, so the caller comes again with the rest
        after `WindowOpened`. Raises LocalMisuse for a stream that is not open.
        """
        stream = self._stream(stream_id)
        length = len(data)
        if length <= stream.send_window and length <= self._send_window:
            taken = length
        else:
            taken = max(min(stream.send_window, self._send_window), 0)
        finishes = end_stream and taken == length
        if not taken and not finishes:
            return 0
        stream.advance(_SEND_END if finishes else _SEND)
        stream.send_window -= taken
        self._send_window -= taken
        # For the WINDOW_UPDATE frames that give it back, the stream's and the connection's: some
        # peers send both for every 4 KiB.
        self._control.earned += 2 + (taken >> 10)
        flags = frames.END_STREAM if finishes else 0
        if taken <= self._peer_frame_size:
            payload = data if taken == length else data[:taken]
            self._out += (frames.frame_header(taken, _DATA, flags, stream_id), payload)
        else:
            self._send_chunks(stream_id, data[:taken], flags)
        if stream.state is _CLOSED:
            self._streams.pop(stream_id, None)
            self._resets.earned += 1
        return taken

    def _send_chunks(self, stream_id: int, data: bytes | memoryview, flags: int) -> None:
        size, out, view = self._peer_frame_size, self._out, memoryview(data)
        last = (len(view) - 1) // size * size
        for start in range(0, len(view), size):
            chunk = view[start : start + size]
            chunk_flags = flags if start == last else 0
            out.append(frames.frame_header(len(chunk), _DATA, chunk_flags, stream_id))
            out.append(chunk)

    def reset_stream(self, stream_id: int, code: ErrorCode) -> bool:
        """Send RST_STREAM and forget the stream; False where it is over already."""
        stream = self._streams.get(stream_id)
        if stream is None or self.closed:
            return False
        self._note_reset(stream)
        stream.advance(Input.RESET)
        self._streams.pop(stream_id)
        self._out.append(frames.rst_stream(stream_id, code))
        self._reset_streams.add(stream_id)
        return True

    def allow(self, stream_id: int, size: int) -> bool:
        """Let the peer send `size` more bytes on a stream, in all; what it was allowed is not taken
        back. True when there was something worth telling it: at least half a window.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is _HALF_CLOSED_REMOTE:
            return False
        size = min(size, frames.MAX_WINDOW)
        increment = size - stream.receive_window
        if increment * 2 < self.limits.stream_window:
            return False
        self._out.append(frames.window_update(stream_id, increment))
        stream.receive_window = size
        return True

    def ping(self, payload: bytes) -> None:
        """Send PING with eight bytes of the caller's; answered by `PingAcknowledged`."""
        self._out.append(frames.ping(payload, ack=False))

    def announce_shutdown(self) -> None:
        """Server: tell the client to open no new streams, and still take those on their way."""
        self._out.append(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))

    def refuse_new_streams(self, first: int | None = None) -> None:
        """Server: from here on a new stream is refused unprocessed, which is safe to retry.

        `first`: it and all streams above are not processed either, for the caller to reset.
        """
        last = self._highest_peer_stream if first is None else max(first - 2, 0)
        self._refuse_above = min(last, self._refuse_above)
        self._out.append(frames.goaway(self._refuse_above, ErrorCode.NO_ERROR))

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Send GOAWAY and stop; streams that are open are the layer above's to fail."""
        if self.closed:
            return
        self.closed = True
        debug = reason.encode("utf-8", "replace")[:200]
        # What was refused before stays unprocessed: the id may not rise (§6.8).
        last = min(self._highest_peer_stream, self._refuse_above)
        self._out.append(frames.goaway(last, code, debug))
        for stream in self._streams.values():
            self._note_reset(stream)
        self._streams.clear()

    # -- what comes in -----------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float = 0.0, max_cost: int = 0) -> list[Event]:
        """Take bytes from the peer and return the events they complete.

        Args:
            data: What was received. While there are `unread` frames it is empty, and their
                events are returned.
            now: Seconds, monotonic.
            max_cost: Process frames until they have cost so much: each costs 1, and 1 more for
                each KiB of it, or 16 bytes of a header block. The others are left `unread`. 0 for
                all.
        """
        events: list[Event] = []
        if self.closed:
            self.unread = None
            return events
        self._now = now
        handlers = self._HANDLERS
        progress = False
        try:
            received = self._begin_part(data, max_cost) if max_cost else self._reader.feed(data)
            for type_, flags, stream_id, payload in received:
                progress = True
                try:
                    if type_ < _KNOWN_TYPES:
                        handlers[type_](self, flags, stream_id, payload, events)
                    else:
                        self._spend("frames of unknown types")
                except StreamViolation as exc:
                    self._end_violated(exc, events)
        except PeerViolation as exc:
            self.unread = None
            self.close(exc.code, exc.reason)
            events.append(ConnectionFailed(exc.code, exc.reason, isinstance(exc, PeerAbuse)))
        if self._reader.incomplete or self.stalled_since is not None:
            self._note_stall(progress)
        return events

    def _begin_part(self, data: bytes, max_cost: int) -> Iterator[Frame]:
        if self.unread is None:
            self.unread = self._reader.feed(data)
        elif data:
            raise LocalMisuse("there are frames that have not been processed")
        return self._part(self.unread, max_cost)

    def _part(self, unread: Iterator[Frame], max_cost: int) -> Iterator[Frame]:
        for frame in unread:
            yield frame
            # A byte of a header block may be a field, and take as long as a KiB of DATA.
            max_cost -= 1 + (len(frame[3]) >> (4 if frame[0] == _HEADERS else 10))
            if max_cost <= 0:
                return
        self.unread = None

    def _note_stall(self, progress: bool) -> None:
        """Note since when the peer has not finished a frame, of which a part has come."""
        if not self._reader.incomplete or self.unread is not None:
            self.stalled_since = None
        elif progress or self.stalled_since is None:
            self.stalled_since = self._now

    def _spend(self, what: str) -> None:
        """Count a frame that carries nothing against the peer."""
        if not self._control.take(self._now):
            raise PeerAbuse(f"too many {what}")

    def _spend_reset(self, cost: float = 1.0) -> None:
        """Count a stream that was opened without use against the client.

        A client opens the streams that its server ends, so it bounds them itself.
        """
        if cost and not self._is_client and not self._resets.take(self._now, cost):
            raise PeerAbuse("too many streams opened and reset")

    def _end_violated(self, exc: StreamViolation, events: list[Event]) -> None:
        self._spend_reset()
        stream = self._streams.pop(exc.stream_id, None)
        if stream is None or stream.state is not _CLOSED:
            self._out.append(frames.rst_stream(exc.stream_id, exc.code))
        self._reset_streams.add(exc.stream_id)
        if stream is not None:
            self._note_reset(stream)
            events.append(StreamReset(exc.stream_id, exc.code, by_peer=False, reason=exc.reason))

    def _on_data(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        size = len(payload)
        end_stream = bool(flags & frames.END_STREAM)
        if size:
            self._consume_connection_window(size)
            self._control.earned += 1
        elif not end_stream:
            self._spend("empty DATA frames")
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_absent(stream_id, "DATA")
            return
        data = unpad(payload) if flags & frames.PADDED else payload
        if self._is_client and not stream.head_received:
            raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR, "DATA before HEADERS")
        stream.advance(_RECEIVE_END if end_stream else _RECEIVE)
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamViolation(
                stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window"
            )
        if stream.body_left is not None:
            self._count_body(stream, len(data), end_stream)
        if stream.state is _CLOSED:
            self._streams.pop(stream.id, None)
            self._resets.earned += 1
        events.append(DataReceived(stream_id, data, end_stream))

    def _consume_connection_window(self, size: int) -> None:
        self._receive_window -= size
        if self._receive_window < 0:
            raise PeerViolation(
                ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window"
            )
        window = self.limits.connection_window
        if self._receive_window * 2 <= window:
            self._out.append(frames.window_update(0, window - self._receive_window))
            self._receive_window = window

    def _count_body(self, stream: Stream, size: int, end_stream: bool) -> None:
        assert stream.body_left is not None
        stream.body_left -= size
        if stream.body_left < 0 or (end_stream and stream.body_left):
            raise StreamViolation(
                stream.id, ErrorCode.PROTOCOL_ERROR, "content-length differs from the DATA sent"
            )

    def _on_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for priority")
            payload = self._strip_priority(stream_id, payload)
        end_stream = bool(flags & frames.END_STREAM)
        stream = self._streams.get(stream_id)
        try:
            if stream is None and self._is_client:
                self._discard_block(payload)
                self._check_absent(stream_id, "HEADERS")
            elif stream is None:
                self._open_for_peer(stream_id, payload, end_stream, events)
            elif stream.head_received:
                self._end_with_trailers(stream, payload, end_stream, events)
            else:
                self._take_response(stream, payload, end_stream, events)
        except MalformedHead as exc:
            raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR, str(exc)) from None
        except HeaderListTooLarge as exc:
            if stream is not None and end_stream and not stream.head_received:
                stream.advance(_RECEIVE_END)
            raise StreamViolation(stream_id, ErrorCode.ENHANCE_YOUR_CALM, str(exc)) from None

    def _discard_block(self, block: bytes) -> None:
        """Decode a block that nothing is done with: the table has to follow the peer's."""
        with suppress(HeaderListTooLarge):
            self._decoder.decode(block, tuple)

    def _open_for_peer(
        self, stream_id: int, block: bytes, end_stream: bool, events: list[Event]
    ) -> None:
        if stream_id % 2 == 0:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, f"a client opened stream {stream_id}")
        if stream_id <= self._highest_peer_stream:
            self._discard_block(block)
            self._check_absent(stream_id, "HEADERS")
            return
        self._highest_peer_stream = stream_id
        self._streams_received += 1
        try:
            head = self._decoder.decode(block, parse_request)
        except HeaderListTooLarge as exc:
            self._open_too_large(stream_id, exc, end_stream, events)
            return
        if head.content_length and end_stream:
            raise MalformedHead("content-length promises DATA, and the stream has ended")
        stream = self._accept_stream(stream_id)
        if stream is not None:
            stream.has_deadline = head.timeout is not None
            self._receive_head(stream, head.content_length, end_stream)
            events.append(RequestReceived(stream_id, head, end_stream))

    def _open_too_large(
        self, stream_id: int, exc: HeaderListTooLarge, end_stream: bool, events: list[Event]
    ) -> None:
        # To decode it cost as much as several lists of the size that is allowed.
        self._spend_reset(exc.size / exc.limit)
        stream = self._accept_stream(stream_id)
        if stream is not None:
            self._receive_head(stream, None, end_stream)
            events.append(RequestTooLarge(stream_id, exc.is_grpc, end_stream, str(exc)))

    def _accept_stream(self, stream_id: int) -> Stream | None:
        """Make the record of a stream that the client opens, unless it has to be refused."""
        full = len(self._streams) >= self.limits.max_concurrent_streams
        if full or stream_id > self._refuse_above:
            self._out.append(frames.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            self._reset_streams.add(stream_id)
            return None
        stream = self._new_stream(stream_id)
        stream.head_received = True
        stream.opened_at = self._now
        return stream

    def _take_response(
        self, stream: Stream, block: bytes, end_stream: bool, events: list[Event]
    ) -> None:
        head = self._decoder.decode(block, parse_response)
        if head.http_status < 200:
            if end_stream:
                raise MalformedHead("an informational response may not end the stream")
            return
        stream.head_received = True
        self._receive_head(stream, head.content_length, end_stream)
        events.append(ResponseReceived(stream.id, head, end_stream))

    def _receive_head(self, stream: Stream, content_length: int | None, end_stream: bool) -> None:
        stream.body_left = content_length
        if content_length and end_stream:
            self._count_body(stream, 0, end_stream)
        stream.advance(_RECEIVE_END if end_stream else _RECEIVE)
        self._forget_if_closed(stream)

    def _end_with_trailers(
        self, stream: Stream, block: bytes, end_stream: bool, events: list[Event]
    ) -> None:
        if stream.state is _HALF_CLOSED_REMOTE:
            self._discard_block(block)
        stream.advance(Input.RECEIVE_END)
        trailers = self._decoder.decode(block, parse_trailers)
        if not end_stream:
            raise MalformedHead("trailers did not end the stream")
        if stream.body_left:
            self._count_body(stream, 0, end_stream)
        if stream.state is _CLOSED:
            self._streams.pop(stream.id, None)
            self._resets.earned += 1
        events.append(TrailersReceived(stream.id, trailers))

    def _on_priority(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if not stream_id:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._spend("PRIORITY frames")
        if len(payload) != 5:
            reason = "PRIORITY is not 5 bytes"
            if self._is_idle(stream_id):
                # A stream that never was cannot be reset.
                raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, reason)
            raise StreamViolation(stream_id, ErrorCode.FRAME_SIZE_ERROR, reason)
        self._strip_priority(stream_id, payload)

    def _strip_priority(self, stream_id: int, payload: bytes) -> bytes:
        """Drop the priority fields, which RFC 9113 §5.3.2 deprecates, but for their one rule."""
        if frames.read_u32(payload)[0] & 0x7FFFFFFF == stream_id:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "a stream cannot depend on itself")
        return payload[5:]

    def _on_rst_stream(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        if not stream_id or self._is_idle(stream_id):
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        if len(payload) != 4:
            raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        self._peer_resets += 1
        if self._peer_resets > (self.streams_opened if self._is_client else self._streams_received):
            # More than one for each stream; a single one may cross the stream's end.
            self._spend("RST_STREAM frames")
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        # A client's late frames are answered, as RFC 9113 §5.1 has it. A server's are not: servers
        # count the resets that they receive, and to them it would be a second one.
        self._reset_streams.add(stream_id, answer=not self._is_client)
        self._note_reset(stream)
        stream.advance(Input.RESET)
        code = frames.read_u32(payload)[0]
        events.append(StreamReset(stream_id, code, by_peer=True, reason=error_name(code)))
        self._spend_reset(
            reset_cost(
                self._now - stream.opened_at,
                grace=self.limits.reset_grace,
                has_deadline=stream.has_deadline,
                answered=stream.answered,
            )
        )

    def _on_settings(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            return
        if len(payload) % 6:
            raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a broken length")
        self._spend("SETTINGS frames")
        if not self._settings_seen:
            self._settings_seen = True
            # RFC 9113 §6.5.2: without the setting there is no limit.
            self._peer_max_streams = frames.MAX_STREAM_ID
        window = self._peer_window
        for key, value in frames.read_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                window = value
                if window > frames.MAX_WINDOW:
                    raise PeerViolation(
                        ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE is {value}"
                    )
            else:
                self._apply_setting(key, value)
        # Only the last counts, and it costs a step for each stream.
        grew = window > self._peer_window and bool(self._streams)
        if window != self._peer_window:
            self._change_initial_window(window)
        self._out.append(frames.SETTINGS_ACK)
        events.append(SettingsReceived(grew))

    def _apply_setting(self, key: int, value: int) -> None:
        if key == Setting.HEADER_TABLE_SIZE:
            if value < 4096:
                self._table_update = SHRINK_TABLE
        elif key == Setting.ENABLE_PUSH:
            if value > 1 or (self._is_client and value):
                raise PeerViolation(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
        elif key == Setting.MAX_CONCURRENT_STREAMS:
            self._peer_max_streams = value
        elif key == Setting.MAX_HEADER_LIST_SIZE:
            self.max_sent_header_list = min(value, self.limits.max_send_header_list_size)
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME_SIZE <= value <= frames.LARGEST_MAX_FRAME_SIZE:
                raise PeerViolation(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE is {value}")
            self._peer_frame_size = value

    def _change_initial_window(self, value: int) -> None:
        """Shift every open stream's window, below zero if need be (§6.9.2)."""
        change, self._peer_window = value - self._peer_window, value
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > frames.MAX_WINDOW:
                raise PeerViolation(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window overflows")

    def _on_push_promise(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, and push is disabled")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        if flags & frames.ACK:
            self._spend("PING answers")
            events.append(PingAcknowledged(payload))
        else:
            # gRPC clients know these words and ask less often then (doc/keepalive.md).
            if not self._control.take(self._now):
                raise PeerAbuse("too_many_pings")
            self._out.append(frames.ping(payload, ack=True))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        self._spend("GOAWAY frames")
        last, code = frames.read_two_u32(payload)
        last &= 0x7FFFFFFF
        if self.peer_last_stream_id is not None:
            last = min(last, self.peer_last_stream_id)
        self.peer_last_stream_id = last
        events.append(GoAwayReceived(last, code, payload[8:]))

    def _on_window_update(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        if len(payload) != 4:
            raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        self._spend("WINDOW_UPDATE frames")
        increment = frames.read_u32(payload)[0] & 0x7FFFFFFF
        if not stream_id:
            self._send_window += increment
            if not increment:
                raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
            if self._send_window > frames.MAX_WINDOW:
                raise PeerViolation(ErrorCode.FLOW_CONTROL_ERROR, "the window overflows")
            events.append(WindowOpened(0))
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        if not increment:
            raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
        stream.send_window += increment
        if stream.send_window > frames.MAX_WINDOW:
            raise StreamViolation(
                stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window overflows"
            )
        events.append(WindowOpened(stream_id))

    _HANDLERS = (
        _on_data,
        _on_headers,
        _on_priority,
        _on_rst_stream,
        _on_settings,
        _on_push_promise,
        _on_ping,
        _on_goaway,
        _on_window_update,
    )
    """By frame type; the reader folds CONTINUATION into HEADERS, unknown types are passed over."""

    # -- streams -----------------------------------------------------------------------------

    def _new_stream(self, stream_id: int) -> Stream:
        stream = Stream(stream_id, self._peer_window, self.limits.stream_window)
        self._streams[stream_id] = stream
        return stream

    def _stream(self, stream_id: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise LocalMisuse(f"stream {stream_id} is not open")
        return stream

    def _forget_if_closed(self, stream: Stream) -> None:
        if stream.state is _CLOSED:
            self._streams.pop(stream.id, None)
            self._resets.earned += 1

    def _note_reset(self, stream: Stream) -> None:
        """Count a stream that ends before its time as failed, unless the server was through."""
        ended = _HALF_CLOSED_REMOTE if self._is_client else _HALF_CLOSED_LOCAL
        if stream.state is not ended:
            self.streams_failed += 1

    def _is_idle(self, stream_id: int) -> bool:
        if stream_id % 2:
            highest = self._next_stream_id - 2 if self._is_client else self._highest_peer_stream
            return stream_id > highest
        return True

    def _check_absent(self, stream_id: int, what: str) -> None:
        """Judge a frame for a stream without a record: late after a reset, or a violation.

        A server that goes on after the end of a stream breaks the protocol as well, but a client
        drops what comes: other calls share the connection, of several callers in the gateway.
        """
        if not stream_id or self._is_idle(stream_id):
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, f"{what} on idle stream {stream_id}")
        if stream_id not in self._reset_streams:
            if not self._is_client:
                raise PeerViolation(ErrorCode.STREAM_CLOSED, f"{what} on closed stream {stream_id}")
            self._spend("frames on closed streams")
        if self._reset_streams.take_answer(stream_id):
            self._out.append(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))
