"""The HTTP/2 engine: one connection's state, fed bytes, giving events (RFC 9113).

    engine = Connection(Role.SERVER)
    for event in engine.receive_data(data): ...
    sock.send(engine.data_to_send())

Violations by the peer never raise here: a stream's ends that stream with RST_STREAM and a
`StreamReset` event, a connection's ends the connection with GOAWAY and `ConnectionFailed`.
What raises `LocalProtocolError` is a bug of the layer above.

Over 600 lines, because each rule here reads or changes the one state of a connection; what can be
judged without it is in `frames`, `framing`, `hpack`, `heads`, `stream`, `resets` and `budget`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from typing import Any, Protocol

import attrs

from meshtrio.http2 import frames
from meshtrio.http2.abuse_limits import reset_cost
from meshtrio.http2.errors import (
    DenialOfServiceError,
    ErrorCode,
    LocalProtocolError,
    MalformedHeadersError,
    RemoteProtocolError,
    StreamError,
    error_code_name,
)
from meshtrio.http2.events import (
    ConnectionFailed,
    DataReceived,
    GoAwayReceived,
    Http2Event,
    PingAckReceived,
    RequestHeadersTooLarge,
    RequestReceived,
    ResponseReceived,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from meshtrio.http2.frame_reader import Frame, FrameReader, strip_padding
from meshtrio.http2.frames import FrameType, Setting
from meshtrio.http2.hpack.codec import TABLE_SIZE_UPDATE_TO_ZERO
from meshtrio.http2.hpack.decoder import HeaderDecoder, HeaderList
from meshtrio.http2.hpack.errors import (
    HeaderListTooLargeError,
    HpackDecodingError,
    OversizedHeaderListError,
)
from meshtrio.http2.limits import Limits
from meshtrio.http2.reset_streams import ResetStreams
from meshtrio.http2.stream import H2Stream, StreamInput, StreamState
from meshtrio.util.token_bucket import TokenBucket

_INITIAL_MAX_CONCURRENT_STREAMS = 100
_FRAME_TYPE_COUNT = 9
"""Frame types below it have handlers."""
_MAX_CONTROL_TOKENS = 1_000_000
"""Frames without content that much DATA may earn a peer: WINDOW_UPDATEs for a gigabyte."""

# A member that is looked up on its class costs more than all else a frame does with it.
_CLOSED = StreamState.CLOSED
_HALF_CLOSED_LOCAL = StreamState.HALF_CLOSED_LOCAL
_HALF_CLOSED_REMOTE = StreamState.HALF_CLOSED_REMOTE
_DATA, _HEADERS = FrameType.DATA, FrameType.HEADERS
_SEND, _SEND_END = StreamInput.SEND, StreamInput.SEND_END
_RECEIVE, _RECEIVE_END = StreamInput.RECEIVE, StreamInput.RECEIVE_END


class Role(Enum):
    CLIENT = "client"
    SERVER = "server"


class RequestHeadersInfo(Protocol):
    """What the engine reads of parsed request headers."""

    @property
    def content_length(self) -> int | None:
        """The value of content-length; None if there is none."""

    @property
    def timeout(self) -> float | None:
        """Seconds that the client gives the request; None if unlimited."""


class ResponseHeadersInfo(Protocol):
    """What the engine reads of parsed response headers."""

    @property
    def http_status(self) -> int:
        """The value of :status."""

    @property
    def content_length(self) -> int | None:
        """The value of content-length; None if there is none."""


@attrs.frozen
class HeaderParsers:
    """Functions that parse the header lists of one application protocol.

    Each raises MalformedHeadersError for a list that is malformed (RFC 9113 §8.1.1).
    """

    parse_request: Callable[[HeaderList], RequestHeadersInfo]
    """Parses request headers."""
    parse_response: Callable[[HeaderList], ResponseHeadersInfo]
    """Parses response headers, informational ones (1xx) included."""
    parse_trailers: Callable[[HeaderList], Any]
    """Parses trailers."""


def _connection_error(exc: HpackDecodingError | OversizedHeaderListError) -> RemoteProtocolError:
    """Return the connection error for a header block after which the table is in doubt."""
    if isinstance(exc, OversizedHeaderListError):
        return RemoteProtocolError(ErrorCode.ENHANCE_YOUR_CALM, str(exc))
    reason = f"header block cannot be decoded: {exc}"
    return RemoteProtocolError(ErrorCode.COMPRESSION_ERROR, reason)


class H2Connection:
    """One side of an HTTP/2 connection.

    Flow control: the connection's window is given back as bytes arrive, so that one stream left
    unread cannot stop the others; a stream's is given back by `allow`, so that it does stop
    that stream's sender.
    """

    def __init__(self, role: Role, parsers: HeaderParsers, limits: Limits | None = None) -> None:
        self.role = role
        self._parsers = parsers
        self.limits = limits or Limits()
        self.closed = False
        """True once this side has failed the connection; it neither reads nor sends any more."""
        self.peer_last_stream_id: int | None = None
        """From the peer's GOAWAY: no stream can be opened any more."""
        self._is_client = role is Role.CLIENT
        self.streams_failed = 0
        """Streams that the server did not end: they were reset, or lost with the connection."""
        self._streams: dict[int, H2Stream] = {}
        self._reset_streams = ResetStreams()
        self._resets_received = 0
        """RST_STREAM frames received."""
        self._streams_received = 0
        """Server: streams that the client has opened."""
        self._next_stream_id = 1
        self._highest_peer_stream_id = 0
        self._max_accepted_stream_id = frames.MAX_STREAM_ID
        absolute_max = max(
            self.limits.absolute_max_header_list_size, self.limits.max_header_list_size
        )
        self._frame_reader = FrameReader(
            expect_preface=not self._is_client,
            max_frame_size=self.limits.max_frame_size,
            max_block_size=absolute_max,
        )
        self.unprocessed_frames: Iterator[Frame] | None = None
        """Frames received last that have not been processed; None for none."""
        self._outgoing: list[bytes | memoryview] = []
        self._settings_received = False
        self._header_decoder = HeaderDecoder(self.limits.max_header_list_size, absolute_max)
        self._pending_table_size_update = b""
        self._peer_initial_window_size = frames.DEFAULT_INITIAL_WINDOW_SIZE
        self._peer_max_frame_size = frames.DEFAULT_MAX_FRAME_SIZE
        self._peer_max_concurrent_streams = _INITIAL_MAX_CONCURRENT_STREAMS
        self.max_send_header_list_size = self.limits.max_send_header_list_size
        """Bytes of the largest header list that may be sent: the peer's limit, if it has set one
        (RFC 9113 §6.5.2), or this side's own, whichever is less."""
        self._control_bucket = TokenBucket(
            self.limits.control_burst, self.limits.control_rate, max_tokens=_MAX_CONTROL_TOKENS
        )
        self._reset_bucket = TokenBucket(self.limits.reset_burst, self.limits.reset_rate)
        self._now = 0.0
        self.incomplete_frame_since: float | None = None
        """When the frame or header block was begun that the peer has not finished yet."""
        self._send_window = frames.DEFAULT_INITIAL_WINDOW_SIZE
        self._receive_window = self.limits.connection_window
        self._send_preface()

    def share_token_buckets(self, reset_bucket: TokenBucket, control_bucket: TokenBucket) -> None:
        """Server: count abuse for the client with all its connections.

        Args:
            resets: Used instead of this connection's own.
            control: Has to pay as well for frames without content.
        """
        self._reset_bucket = reset_bucket
        self._control_bucket.parent = control_bucket

    def charge_abandoned_streams(self, now: float) -> bool:
        """Server: count the streams that a client leaves behind when it closes the connection, as
        if it reset them; false if it may not have as many."""
        cost = sum(
            reset_cost(
                now - stream.opened_at,
                grace=self.limits.reset_grace,
                has_deadline=stream.has_deadline,
                response_started=stream.response_started,
            )
            for stream in self._streams.values()
        )
        return not cost or self._reset_bucket.try_acquire(now, cost)

    # -- what goes out -----------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """Take what is to be written to the peer, in order; empty when there is nothing."""
        return b"".join(self.buffers_to_send())

    def buffers_to_send(self) -> list[bytes | memoryview]:
        """The same as `data_to_send`, in pieces, which saves copying large ones."""
        buffers, self._outgoing = self._outgoing, []
        return buffers

    def _send_preface(self) -> None:
        limits = self.limits
        values: dict[int, int] = {
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.max_frame_size,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_size,
        }
        if self._is_client:
            self._outgoing.append(frames.PREFACE)
            values[Setting.ENABLE_PUSH] = 0
        else:
            values[Setting.MAX_CONCURRENT_STREAMS] = limits.max_concurrent_streams
        self._outgoing.append(frames.settings(values))
        extra = limits.connection_window - frames.DEFAULT_INITIAL_WINDOW_SIZE
        if extra > 0:
            self._outgoing.append(frames.window_update(0, extra))

    @property
    def buffered_size(self) -> int:
        """Bytes that are kept of a frame and a header block which the peer has not finished."""
        return self._frame_reader.buffered_size

    @property
    def open_stream_count(self) -> int:
        return len(self._streams)

    @property
    def streams_opened(self) -> int:
        """Client: how many streams this connection has had."""
        return self._next_stream_id // 2

    def is_send_open(self, stream_id: int) -> bool:
        """Whether anything can still be sent on a stream: neither side has closed it for that."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.state is not _HALF_CLOSED_LOCAL

    def is_half_closed_local(self, stream_id: int) -> bool:
        """Whether this side has ended a stream that the peer has not ended."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.state is _HALF_CLOSED_LOCAL

    @property
    def flow_control_windows(self) -> tuple[int, int]:
        """The connection's: bytes that may be sent now, and that the peer may send."""
        return self._send_window, self._receive_window

    def is_receive_window_open(self, stream_id: int) -> bool:
        """Whether the peer may send on a stream now: both windows have room."""
        stream = self._streams.get(stream_id)
        return stream is not None and min(stream.receive_window, self._receive_window) > 0

    @property
    def is_established(self) -> bool:
        """Whether the peer has sent its SETTINGS."""
        return self._settings_received

    @property
    def can_open_stream(self) -> bool:
        """Whether `send_request` may be called now; false for good once the peer is going away."""
        return (
            not self.closed
            and self.peer_last_stream_id is None
            and len(self._streams) < self._peer_max_concurrent_streams
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
            raise LocalProtocolError("no stream can be opened on this connection now")
        stream_id = self._next_stream_id
        self._next_stream_id += 2
        stream = self._new_stream(stream_id)
        self._send_header_block(stream, block, end_stream=end_stream)
        return stream_id

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool = False) -> None:
        """Send a response's head or trailers. Raises LocalMisuse for a stream that is not open."""
        stream = self._get_open_stream(stream_id)
        stream.response_started = True
        self._send_header_block(stream, block, end_stream=end_stream)

    def _send_header_block(self, stream: H2Stream, block: bytes, *, end_stream: bool) -> None:
        stream.process_input(_SEND_END if end_stream else _SEND)
        if self._pending_table_size_update:
            block, self._pending_table_size_update = self._pending_table_size_update + block, b""
        self._outgoing.append(
            frames.encode_header_block(
                stream.id, block, end_stream=end_stream, max_frame_size=self._peer_max_frame_size
            )
        )
        self._remove_if_closed(stream)

    def send_data(
        self, stream_id: int, data: bytes | memoryview, *, end_stream: bool = False
    ) -> int:
        """Send as much of `data` as the peer's windows allow; give the number of bytes taken.

        `end_stream` takes effect with the last byte, so the caller comes again with the rest
        after `WindowUpdated`. Raises LocalMisuse for a stream that is not open.
        """
        stream = self._get_open_stream(stream_id)
        length = len(data)
        if length <= stream.send_window and length <= self._send_window:
            taken = length
        else:
            taken = max(min(stream.send_window, self._send_window), 0)
        finishes = end_stream and taken == length
        if not taken and not finishes:
            return 0
        stream.process_input(_SEND_END if finishes else _SEND)
        stream.send_window -= taken
        self._send_window -= taken
        # For the WINDOW_UPDATE frames that give it back, the stream's and the connection's: some
        # peers send both for every 4 KiB.
        self._control_bucket.credits += 2 + (taken >> 10)
        flags = frames.END_STREAM if finishes else 0
        if taken <= self._peer_max_frame_size:
            payload = data if taken == length else data[:taken]
            self._outgoing += (frames.encode_frame_header(taken, _DATA, flags, stream_id), payload)
        else:
            self._send_data_frames(stream_id, data[:taken], flags)
        if stream.state is _CLOSED:
            self._streams.pop(stream_id, None)
            self._reset_bucket.credits += 1
        return taken

    def _send_data_frames(self, stream_id: int, data: bytes | memoryview, flags: int) -> None:
        size, out, view = self._peer_max_frame_size, self._outgoing, memoryview(data)
        last = (len(view) - 1) // size * size
        for start in range(0, len(view), size):
            chunk = view[start : start + size]
            chunk_flags = flags if start == last else 0
            out.append(frames.encode_frame_header(len(chunk), _DATA, chunk_flags, stream_id))
            out.append(chunk)

    def reset_stream(self, stream_id: int, error_code: ErrorCode) -> bool:
        """Send RST_STREAM and forget the stream; False where it is over already."""
        stream = self._streams.get(stream_id)
        if stream is None or self.closed:
            return False
        self._count_failed_stream(stream)
        stream.process_input(StreamInput.RESET)
        self._streams.pop(stream_id)
        self._outgoing.append(frames.rst_stream(stream_id, error_code))
        self._reset_streams.add(stream_id)
        return True

    def set_receive_window(self, stream_id: int, size: int) -> bool:
        """Let the peer send `size` more bytes on a stream, in all; what it was allowed is not taken
        back. True when there was something worth telling it: at least half a window.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is _HALF_CLOSED_REMOTE:
            return False
        size = min(size, frames.MAX_WINDOW_SIZE)
        increment = size - stream.receive_window
        if increment * 2 < self.limits.stream_window:
            return False
        self._outgoing.append(frames.window_update(stream_id, increment))
        stream.receive_window = size
        return True

    def ping(self, payload: bytes) -> None:
        """Send PING with eight bytes of the caller's; answered by `PingAckReceived`."""
        self._outgoing.append(frames.ping(payload, ack=False))

    def start_graceful_shutdown(self) -> None:
        """Server: tell the client to open no new streams, and still take those on their way."""
        self._outgoing.append(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))

    def refuse_new_streams(self, first_refused_id: int | None = None) -> None:
        """Server: from here on a new stream is refused unprocessed, which is safe to retry.

        `first`: it and all streams above are not processed either, for the caller to reset.
        """
        last = (
            self._highest_peer_stream_id
            if first_refused_id is None
            else max(first_refused_id - 2, 0)
        )
        self._max_accepted_stream_id = min(last, self._max_accepted_stream_id)
        self._outgoing.append(frames.goaway(self._max_accepted_stream_id, ErrorCode.NO_ERROR))

    def close(self, error_code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Send GOAWAY and stop; streams that are open are the layer above's to fail."""
        if self.closed:
            return
        self.closed = True
        debug = reason.encode("utf-8", "replace")[:200]
        # What was refused before stays unprocessed: the id may not rise (§6.8).
        last = min(self._highest_peer_stream_id, self._max_accepted_stream_id)
        self._outgoing.append(frames.goaway(last, error_code, debug))
        for stream in self._streams.values():
            self._count_failed_stream(stream)
        self._streams.clear()

    # -- what comes in -----------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float = 0.0, max_cost: int = 0) -> list[Http2Event]:
        """Take bytes from the peer and return the events they complete.

        Args:
            data: What was received. While there are `unread` frames it is empty, and their
                events are returned.
            now: Seconds, monotonic.
            max_cost: Process frames until they have cost so much: each costs 1, and 1 more for
                each KiB of it, or 16 bytes of a header block. The others are left `unread`. 0 for
                all.
        """
        events: list[Http2Event] = []
        if self.closed:
            self.unprocessed_frames = None
            return events
        self._now = now
        handlers = self._HANDLERS
        progress = False
        try:
            received = (
                self._resume_frames(data, max_cost) if max_cost else self._frame_reader.feed(data)
            )
            for type_, flags, stream_id, payload in received:
                progress = True
                try:
                    if type_ < _FRAME_TYPE_COUNT:
                        handlers[type_](self, flags, stream_id, payload, events)
                    else:
                        self._charge_control_frame("frames of unknown types")
                except StreamError as exc:
                    self._fail_stream(exc, events)
        except RemoteProtocolError as exc:
            self.unprocessed_frames = None
            self.close(exc.error_code, exc.reason)
            events.append(
                ConnectionFailed(exc.error_code, exc.reason, isinstance(exc, DenialOfServiceError))
            )
        if self._frame_reader.has_incomplete_frame or self.incomplete_frame_since is not None:
            self._update_incomplete_since(progress)
        return events

    def _resume_frames(self, data: bytes, max_cost: int) -> Iterator[Frame]:
        if self.unprocessed_frames is None:
            self.unprocessed_frames = self._frame_reader.feed(data)
        elif data:
            raise LocalProtocolError("there are frames that have not been processed")
        return self._iter_frames_up_to_cost(self.unprocessed_frames, max_cost)

    def _iter_frames_up_to_cost(self, frames: Iterator[Frame], max_cost: int) -> Iterator[Frame]:
        for frame in frames:
            yield frame
            # A byte of a header block may be a field, and take as long as a KiB of DATA.
            max_cost -= 1 + (len(frame[3]) >> (4 if frame[0] == _HEADERS else 10))
            if max_cost <= 0:
                return
        self.unprocessed_frames = None

    def _update_incomplete_since(self, progress: bool) -> None:
        """Note since when the peer has not finished a frame, of which a part has come."""
        if not self._frame_reader.has_incomplete_frame or self.unprocessed_frames is not None:
            self.incomplete_frame_since = None
        elif progress or self.incomplete_frame_since is None:
            self.incomplete_frame_since = self._now

    def _charge_control_frame(self, what: str) -> None:
        """Count a frame that carries nothing against the peer."""
        if not self._control_bucket.try_acquire(self._now):
            raise DenialOfServiceError(f"too many {what}")

    def _charge_reset(self, cost: float = 1.0) -> None:
        """Count a stream that was opened without use against the client.

        A client opens the streams that its server ends, so it bounds them itself.
        """
        if cost and not self._is_client and not self._reset_bucket.try_acquire(self._now, cost):
            raise DenialOfServiceError("too many streams opened and reset")

    def _fail_stream(self, exc: StreamError, events: list[Http2Event]) -> None:
        self._charge_reset()
        stream = self._streams.pop(exc.stream_id, None)
        if stream is None or stream.state is not _CLOSED:
            self._outgoing.append(frames.rst_stream(exc.stream_id, exc.error_code))
        self._reset_streams.add(exc.stream_id)
        if stream is not None:
            self._count_failed_stream(stream)
            events.append(
                StreamReset(exc.stream_id, exc.error_code, remote_reset=False, reason=exc.reason)
            )

    def _on_data(
        self, flags: int, stream_id: int, payload: bytes, events: list[Http2Event]
    ) -> None:
        size = len(payload)
        end_stream = bool(flags & frames.END_STREAM)
        if size:
            self._consume_connection_window(size)
            self._control_bucket.credits += 1
        elif not end_stream:
            self._charge_control_frame("empty DATA frames")
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_missing_stream(stream_id, "DATA")
            return
        data = strip_padding(payload) if flags & frames.PADDED else payload
        if self._is_client and not stream.headers_received:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "DATA before HEADERS")
        stream.process_input(_RECEIVE_END if end_stream else _RECEIVE)
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamError(
                stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window"
            )
        if stream.remaining_content_length is not None:
            self._check_content_length(stream, len(data), end_stream)
        if stream.state is _CLOSED:
            self._streams.pop(stream.id, None)
            self._reset_bucket.credits += 1
        events.append(DataReceived(stream_id, data, end_stream))

    def _consume_connection_window(self, size: int) -> None:
        self._receive_window -= size
        if self._receive_window < 0:
            raise RemoteProtocolError(
                ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window"
            )
        window = self.limits.connection_window
        if self._receive_window * 2 <= window:
            self._outgoing.append(frames.window_update(0, window - self._receive_window))
            self._receive_window = window

    def _check_content_length(self, stream: H2Stream, size: int, end_stream: bool) -> None:
        assert stream.remaining_content_length is not None
        stream.remaining_content_length -= size
        if stream.remaining_content_length < 0 or (end_stream and stream.remaining_content_length):
            raise StreamError(
                stream.id, ErrorCode.PROTOCOL_ERROR, "content-length differs from the DATA sent"
            )

    def _on_headers(
        self, flags: int, stream_id: int, payload: bytes, events: list[Http2Event]
    ) -> None:
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise RemoteProtocolError(
                    ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for priority"
                )
            payload = self._strip_priority(stream_id, payload)
        end_stream = bool(flags & frames.END_STREAM)
        stream = self._streams.get(stream_id)
        try:
            if stream is None and self._is_client:
                self._decode_and_discard(payload)
                self._check_missing_stream(stream_id, "HEADERS")
            elif stream is None:
                self._on_request_headers(stream_id, payload, end_stream, events)
            elif stream.headers_received:
                self._on_trailers(stream, payload, end_stream, events)
            else:
                self._on_response_headers(stream, payload, end_stream, events)
        except MalformedHeadersError as exc:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, str(exc)) from None
        except (HpackDecodingError, OversizedHeaderListError) as exc:
            raise _connection_error(exc) from None
        except HeaderListTooLargeError as exc:
            if stream is not None and end_stream and not stream.headers_received:
                stream.process_input(_RECEIVE_END)
            raise StreamError(stream_id, ErrorCode.ENHANCE_YOUR_CALM, str(exc)) from None

    def _decode_and_discard(self, block: bytes) -> None:
        """Decode a block that nothing is done with: the table has to follow the peer's."""
        with suppress(HeaderListTooLargeError):
            self._header_decoder.decode(block, tuple)

    def _on_request_headers(
        self, stream_id: int, block: bytes, end_stream: bool, events: list[Http2Event]
    ) -> None:
        if stream_id % 2 == 0:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL_ERROR, f"a client opened stream {stream_id}"
            )
        if stream_id <= self._highest_peer_stream_id:
            self._decode_and_discard(block)
            self._check_missing_stream(stream_id, "HEADERS")
            return
        self._highest_peer_stream_id = stream_id
        self._streams_received += 1
        try:
            head = self._header_decoder.decode(block, self._parsers.parse_request)
        except HeaderListTooLargeError as exc:
            self._on_request_headers_too_large(stream_id, exc, end_stream, events)
            return
        if head.content_length and end_stream:
            raise MalformedHeadersError("content-length promises DATA, and the stream has ended")
        stream = self._accept_stream(stream_id)
        if stream is not None:
            stream.has_deadline = head.timeout is not None
            self._apply_headers(stream, head.content_length, end_stream)
            events.append(RequestReceived(stream_id, head, end_stream))

    def _on_request_headers_too_large(
        self,
        stream_id: int,
        exc: HeaderListTooLargeError,
        end_stream: bool,
        events: list[Http2Event],
    ) -> None:
        # To decode it cost as much as several lists of the size that is allowed.
        self._charge_reset(exc.size / exc.limit)
        stream = self._accept_stream(stream_id)
        if stream is not None:
            self._apply_headers(stream, None, end_stream)
            events.append(RequestHeadersTooLarge(stream_id, exc.content_type, end_stream, str(exc)))

    def _accept_stream(self, stream_id: int) -> H2Stream | None:
        """Make the record of a stream that the client opens, unless it has to be refused."""
        full = len(self._streams) >= self.limits.max_concurrent_streams
        if full or stream_id > self._max_accepted_stream_id:
            self._outgoing.append(frames.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            self._reset_streams.add(stream_id)
            return None
        stream = self._new_stream(stream_id)
        stream.headers_received = True
        stream.opened_at = self._now
        return stream

    def _on_response_headers(
        self, stream: H2Stream, block: bytes, end_stream: bool, events: list[Http2Event]
    ) -> None:
        head = self._header_decoder.decode(block, self._parsers.parse_response)
        if head.http_status < 200:
            if end_stream:
                raise MalformedHeadersError("an informational response may not end the stream")
            return
        stream.headers_received = True
        self._apply_headers(stream, head.content_length, end_stream)
        events.append(ResponseReceived(stream.id, head, end_stream))

    def _apply_headers(
        self, stream: H2Stream, content_length: int | None, end_stream: bool
    ) -> None:
        stream.remaining_content_length = content_length
        if content_length and end_stream:
            self._check_content_length(stream, 0, end_stream)
        stream.process_input(_RECEIVE_END if end_stream else _RECEIVE)
        self._remove_if_closed(stream)

    def _on_trailers(
        self, stream: H2Stream, block: bytes, end_stream: bool, events: list[Http2Event]
    ) -> None:
        if stream.state is _HALF_CLOSED_REMOTE:
            self._decode_and_discard(block)
        stream.process_input(StreamInput.RECEIVE_END)
        trailers = self._header_decoder.decode(block, self._parsers.parse_trailers)
        if not end_stream:
            raise MalformedHeadersError("trailers did not end the stream")
        if stream.remaining_content_length:
            self._check_content_length(stream, 0, end_stream)
        if stream.state is _CLOSED:
            self._streams.pop(stream.id, None)
            self._reset_bucket.credits += 1
        events.append(TrailersReceived(stream.id, trailers))

    def _on_priority(
        self, flags: int, stream_id: int, payload: bytes, events: list[Http2Event]
    ) -> None:
        if not stream_id:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._charge_control_frame("PRIORITY frames")
        if len(payload) != 5:
            reason = "PRIORITY is not 5 bytes"
            if self._is_idle(stream_id):
                # A stream that never was cannot be reset.
                raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, reason)
            raise StreamError(stream_id, ErrorCode.FRAME_SIZE_ERROR, reason)
        self._strip_priority(stream_id, payload)

    def _strip_priority(self, stream_id: int, payload: bytes) -> bytes:
        """Drop the priority fields, which RFC 9113 §5.3.2 deprecates, but for their one rule."""
        if frames.read_u32(payload)[0] & 0x7FFFFFFF == stream_id:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream cannot depend on itself")
        return payload[5:]

    def _on_rst_stream(
        self, flags: int, stream_id: int, payload: bytes, events: list[Http2Event]
    ) -> None:
        if not stream_id or self._is_idle(stream_id):
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        if len(payload) != 4:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        self._resets_received += 1
        if self._resets_received > (
            self.streams_opened if self._is_client else self._streams_received
        ):
            # More than one for each stream; a single one may cross the stream's end.
            self._charge_control_frame("RST_STREAM frames")
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        # A client's late frames are answered, as RFC 9113 §5.1 has it. A server's are not: servers
        # count the resets that they receive, and to them it would be a second one.
        self._reset_streams.add(stream_id, reply_due=not self._is_client)
        self._count_failed_stream(stream)
        stream.process_input(StreamInput.RESET)
        code = frames.read_u32(payload)[0]
        events.append(StreamReset(stream_id, code, remote_reset=True, reason=error_code_name(code)))
        self._charge_reset(
            reset_cost(
                self._now - stream.opened_at,
                grace=self.limits.reset_grace,
                has_deadline=stream.has_deadline,
                response_started=stream.response_started,
            )
        )

    def _on_settings(
        self, flags: int, stream_id: int, payload: bytes, events: list[Http2Event]
    ) -> None:
        if stream_id:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            return
        if len(payload) % 6:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a broken length")
        self._charge_control_frame("SETTINGS frames")
        if not self._settings_received:
            self._settings_received = True
            # RFC 9113 §6.5.2: without the setting there is no limit.
            self._peer_max_concurrent_streams = frames.MAX_STREAM_ID
        window = self._peer_initial_window_size
        for key, value in frames.iter_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                window = value
                if window > frames.MAX_WINDOW_SIZE:
                    raise RemoteProtocolError(
                        ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE is {value}"
                    )
            else:
                self._apply_setting(key, value)
        # Only the last counts, and it costs a step for each stream.
        grew = window > self._peer_initial_window_size and bool(self._streams)
        if window != self._peer_initial_window_size:
            self._apply_initial_window_size(window)
        self._outgoing.append(frames.SETTINGS_ACK)
        events.append(SettingsReceived(grew))

    def _apply_setting(self, key: int, value: int) -> None:
        if key == Setting.HEADER_TABLE_SIZE:
            if value < 4096:
                self._pending_table_size_update = TABLE_SIZE_UPDATE_TO_ZERO
        elif key == Setting.ENABLE_PUSH:
            if value > 1 or (self._is_client and value):
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
        elif key == Setting.MAX_CONCURRENT_STREAMS:
            self._peer_max_concurrent_streams = value
        elif key == Setting.MAX_HEADER_LIST_SIZE:
            self.max_send_header_list_size = min(value, self.limits.max_send_header_list_size)
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME_SIZE <= value <= frames.MAX_MAX_FRAME_SIZE:
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE is {value}")
            self._peer_max_frame_size = value

    def _apply_initial_window_size(self, value: int) -> None:
        """Shift every open stream's window, below zero if need be (§6.9.2)."""
        change, self._peer_initial_window_size = value - self._peer_initial_window_size, value
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > frames.MAX_WINDOW_SIZE:
                raise RemoteProtocolError(
                    ErrorCode.FLOW_CONTROL_ERROR, "a stream's window overflows"
                )

    def _on_push_promise(
        self, flags: int, stream_id: int, payload: bytes, events: list[Http2Event]
    ) -> None:
        raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, and push is disabled")

    def _on_ping(
        self, flags: int, stream_id: int, payload: bytes, events: list[Http2Event]
    ) -> None:
        if stream_id:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        if flags & frames.ACK:
            self._charge_control_frame("PING answers")
            events.append(PingAckReceived(payload))
        else:
            # gRPC clients know these words and ask less often then (doc/keepalive.md).
            if not self._control_bucket.try_acquire(self._now):
                raise DenialOfServiceError("too_many_pings")
            self._outgoing.append(frames.ping(payload, ack=True))

    def _on_goaway(
        self, flags: int, stream_id: int, payload: bytes, events: list[Http2Event]
    ) -> None:
        if stream_id:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        self._charge_control_frame("GOAWAY frames")
        last, code = frames.read_two_u32(payload)
        last &= 0x7FFFFFFF
        if self.peer_last_stream_id is not None:
            last = min(last, self.peer_last_stream_id)
        self.peer_last_stream_id = last
        events.append(GoAwayReceived(last, code, payload[8:]))

    def _on_window_update(
        self, flags: int, stream_id: int, payload: bytes, events: list[Http2Event]
    ) -> None:
        if len(payload) != 4:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        self._charge_control_frame("WINDOW_UPDATE frames")
        increment = frames.read_u32(payload)[0] & 0x7FFFFFFF
        if not stream_id:
            self._send_window += increment
            if not increment:
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
            if self._send_window > frames.MAX_WINDOW_SIZE:
                raise RemoteProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the window overflows")
            events.append(WindowUpdated(0))
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise RemoteProtocolError(
                    ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream"
                )
            return
        if not increment:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
        stream.send_window += increment
        if stream.send_window > frames.MAX_WINDOW_SIZE:
            raise StreamError(
                stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window overflows"
            )
        events.append(WindowUpdated(stream_id))

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

    def _new_stream(self, stream_id: int) -> H2Stream:
        stream = H2Stream(stream_id, self._peer_initial_window_size, self.limits.stream_window)
        self._streams[stream_id] = stream
        return stream

    def _get_open_stream(self, stream_id: int) -> H2Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise LocalProtocolError(f"stream {stream_id} is not open")
        return stream

    def _remove_if_closed(self, stream: H2Stream) -> None:
        if stream.state is _CLOSED:
            self._streams.pop(stream.id, None)
            self._reset_bucket.credits += 1

    def _count_failed_stream(self, stream: H2Stream) -> None:
        """Count a stream that ends before its time as failed, unless the server was through."""
        ended = _HALF_CLOSED_REMOTE if self._is_client else _HALF_CLOSED_LOCAL
        if stream.state is not ended:
            self.streams_failed += 1

    def _is_idle(self, stream_id: int) -> bool:
        if stream_id % 2:
            highest = self._next_stream_id - 2 if self._is_client else self._highest_peer_stream_id
            return stream_id > highest
        return True

    def _check_missing_stream(self, stream_id: int, what: str) -> None:
        """Judge a frame for a stream without a record: late after a reset, or a violation.

        A server that goes on after the end of a stream breaks the protocol as well, but a client
        drops what comes: other calls share the connection, of several callers in the gateway.
        """
        if not stream_id or self._is_idle(stream_id):
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL_ERROR, f"{what} on idle stream {stream_id}"
            )
        if stream_id not in self._reset_streams:
            if not self._is_client:
                raise RemoteProtocolError(
                    ErrorCode.STREAM_CLOSED, f"{what} on closed stream {stream_id}"
                )
            self._charge_control_frame("frames on closed streams")
        if self._reset_streams.pop_reply_due(stream_id):
            self._outgoing.append(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))
