"""Received frames (RFC 9113 §6): what they change, and the events that they cause."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from meshtrio.http2 import events, frames
from meshtrio.http2.abuse_limits import AbuseLimits
from meshtrio.http2.errors import (
    ErrorCode,
    FrameSizeError,
    HeaderListTooLargeError,
    MalformedHeadersError,
    RemoteProtocolError,
    StreamError,
    error_code_name,
)
from meshtrio.http2.frame_reader import strip_padding
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack.decoder import HeaderDecoder, HeaderList
from meshtrio.http2.limits import Limits
from meshtrio.http2.settings import PeerSettings
from meshtrio.http2.stream import TRANSITIONS, H2Stream, StreamInput, StreamState
from meshtrio.http2.streams import ConnectionWindows, StreamTable

# As globals, because looking up a member of an IntEnum costs more than the rest of a frame's work.
_REFUSED_STREAM, _STREAM_CLOSED = int(ErrorCode.REFUSED_STREAM), int(ErrorCode.STREAM_CLOSED)
_CLOSED = StreamState.CLOSED
_RECEIVE, _RECEIVE_END = StreamInput.RECEIVE, StreamInput.RECEIVE_END
_END_STREAM, _PADDED = frames.END_STREAM, frames.PADDED


class ParsedRequest(Protocol):
    """What the engine reads of parsed request headers."""

    @property
    def content_length(self) -> int | None: ...

    @property
    def timeout(self) -> float | None: ...


class ParsedResponse(Protocol):
    """What the engine reads of parsed response headers."""

    @property
    def http_status(self) -> int: ...

    @property
    def content_length(self) -> int | None: ...


class HeaderParsers:
    """Functions that parse the header lists of one application protocol.

    Each raises MalformedHeadersError for a list that is malformed (RFC 9113 §8.1.1).
    """

    __slots__ = ("parse_request", "parse_response", "parse_trailers")

    def __init__(
        self,
        parse_request: Callable[[HeaderList], ParsedRequest],
        parse_response: Callable[[HeaderList], ParsedResponse],
        parse_trailers: Callable[[HeaderList], Any],
    ) -> None:
        self.parse_request = parse_request
        """Parses request headers."""
        self.parse_response = parse_response
        """Parses response headers, informational ones (1xx) included."""
        self.parse_trailers = parse_trailers
        """Parses trailers."""


class FrameReceiver:
    """Applies frames to the settings, windows and streams of a connection, and makes events.

    The handlers raise StreamError and RemoteProtocolError.
    """

    __slots__ = (
        "_abuse",
        "_control_bucket",
        "_decoder",
        "_is_client",
        "_limits",
        "_open_streams",
        "_outgoing",
        "_parsers",
        "_resets_received",
        "_settings",
        "_streams",
        "_windows",
        "new_events",
    )

    def __init__(
        self,
        parsers: HeaderParsers,
        limits: Limits,
        settings: PeerSettings,
        windows: ConnectionWindows,
        streams: StreamTable,
        abuse: AbuseLimits,
        outgoing: list[bytes | memoryview],
        decoder: HeaderDecoder,
        is_client: bool,
    ) -> None:
        self._parsers = parsers
        self._limits = limits
        self._settings = settings
        self._windows = windows
        self._streams = streams
        self._abuse = abuse
        self._outgoing = outgoing
        """Frames to send, to which this appends."""
        self._decoder = decoder
        self._is_client = is_client
        self.new_events: events.Events = []
        """The events of the frames that were received, which the connection takes."""
        self._control_bucket, self._open_streams = abuse.control_bucket, streams.by_id
        self._resets_received = 0

    def on_data(self, flags: int, stream_id: int, payload: bytes | memoryview) -> None:
        """Process DATA, or a part of a large one."""
        size = len(payload)
        end_stream = flags & _END_STREAM != 0
        if size:
            windows = self._windows
            windows.receive -= size
            if windows.receive * 2 <= windows.full_receive:
                self._outgoing.append(frames.window_update(0, windows.restore_receive()))
            self._control_bucket.credits += 1
        elif not end_stream:
            self._abuse.charge_control_frame("empty DATA frames")
        stream = self._open_streams.get(stream_id)
        if stream is None:
            self._on_late_frame(stream_id, "DATA")
            return
        data = strip_padding(bytes(payload)) if flags & _PADDED else payload
        if not stream.headers_received:
            raise StreamError(stream_id, "DATA before HEADERS")
        frame = _RECEIVE_END if end_stream else _RECEIVE
        next_state = TRANSITIONS[stream.state][frame]
        if next_state is None:
            stream.process_input(frame)  # Raises.
        else:
            stream.state = next_state
        stream.receive_window -= size
        if stream.receive_window < 0:
            reason = "more DATA than the stream's window"
            raise StreamError(stream_id, reason, ErrorCode.FLOW_CONTROL_ERROR)
        if stream.remaining_content_length is not None:
            stream.consume_content_length(len(data), end_stream=end_stream)
        if next_state is _CLOSED:
            self._streams.remove_closed(stream)
        self.new_events.append(events.DataReceived(stream_id, data, end_stream))

    def _on_late_frame(self, stream_id: int, what: str) -> None:
        if self._streams.check_late_frame(stream_id, what):
            self._outgoing.append(frames.rst_stream(stream_id, _STREAM_CLOSED))

    # -- header blocks -----------------------------------------------------------------------

    def on_headers(self, flags: int, stream_id: int, block: bytes) -> None:
        """Process HEADERS, whose payload is the whole header block, without padding.

        Every block is decoded, even if nothing is done with it, to keep the dynamic table in step
        with the peer's.
        """
        if flags & frames.HAS_PRIORITY:
            block = _strip_priority(stream_id, block)
        end_stream = flags & _END_STREAM != 0
        stream = self._open_streams.get(stream_id)
        try:
            if stream is None and self._is_client:
                self._on_late_headers(stream_id, block)
            elif stream is None:
                self._on_request(stream_id, block, end_stream)
            elif stream.headers_received:
                self._on_trailers(stream, block, end_stream)
            else:
                self._on_response(stream, block, end_stream)
        except MalformedHeadersError as exc:
            raise StreamError(stream_id, str(exc)) from None
        except HeaderListTooLargeError as exc:
            if stream is not None and end_stream and not stream.headers_received:
                stream.process_input(_RECEIVE_END)
            raise StreamError(stream_id, str(exc), ErrorCode.ENHANCE_YOUR_CALM) from None

    def _on_late_headers(self, stream_id: int, block: bytes) -> None:
        self._decode_and_discard(block)
        self._on_late_frame(stream_id, "HEADERS")

    def _decode_and_discard(self, block: bytes) -> None:
        with suppress(HeaderListTooLargeError):
            self._decoder.decode(block, tuple)

    def _on_request(self, stream_id: int, block: bytes, ends: bool) -> None:
        if stream_id % 2 == 0:
            raise RemoteProtocolError(f"a client opened stream {stream_id}")
        streams = self._streams
        if stream_id <= streams.highest_received_id:
            self._on_late_headers(stream_id, block)
            return
        streams.highest_received_id = stream_id
        streams.received_count += 1
        try:
            headers = self._decoder.decode(block, self._parsers.parse_request)
        except HeaderListTooLargeError as exc:
            # Decoding it has cost as much as several lists of the allowed size.
            self._abuse.charge_reset(exc.size / exc.limit)
            if (stream := self._accept(stream_id)) is not None:
                self._apply(stream, None, ends)
                self.new_events.append(
                    events.RequestHeadersTooLarge(stream_id, exc.content_type, ends, str(exc))
                )
            return
        if headers.content_length and ends:
            raise MalformedHeadersError(
                "the stream ended without the DATA that content-length declares"
            )
        if (stream := self._accept(stream_id)) is not None:
            stream.has_deadline = headers.timeout is not None
            self._apply(stream, headers.content_length, ends)
            self.new_events.append(events.RequestReceived(stream_id, headers, ends))

    def _accept(self, stream_id: int) -> H2Stream | None:
        stream = self._streams.accept(stream_id, self._limits.max_concurrent_streams)
        if stream is None:
            self._outgoing.append(frames.rst_stream(stream_id, _REFUSED_STREAM))
        return stream

    def _on_response(self, stream: H2Stream, block: bytes, ends: bool) -> None:
        headers = self._decoder.decode(block, self._parsers.parse_response)
        if headers.http_status < 200:
            if ends:
                raise MalformedHeadersError("an informational response may not end the stream")
            return
        stream.headers_received = True
        self._apply(stream, headers.content_length, ends)
        self.new_events.append(events.ResponseReceived(stream.id, headers, ends))

    def _apply(self, stream: H2Stream, content_length: int | None, ends: bool) -> None:
        stream.remaining_content_length = content_length
        if content_length and ends:
            stream.consume_content_length(0, end_stream=True)
        frame = _RECEIVE_END if ends else _RECEIVE
        next_state = TRANSITIONS[stream.state][frame]
        if next_state is None:
            stream.process_input(frame)  # Raises.
        else:
            stream.state = next_state
        if next_state is _CLOSED:
            self._streams.remove_closed(stream)

    def _on_trailers(self, stream: H2Stream, block: bytes, ends: bool) -> None:
        next_state = TRANSITIONS[stream.state][_RECEIVE_END]
        if next_state is None:
            self._decode_and_discard(block)
            stream.process_input(_RECEIVE_END)  # Raises.
        else:
            stream.state = next_state
        trailers = self._decoder.decode(block, self._parsers.parse_trailers)
        if not ends:
            raise MalformedHeadersError("trailers did not end the stream")
        if stream.remaining_content_length:
            stream.consume_content_length(0, end_stream=True)
        if next_state is _CLOSED:
            self._streams.remove_closed(stream)
        self.new_events.append(events.TrailersReceived(stream.id, trailers))

    # -- other frames ------------------------------------------------------------------------

    def on_control_frame(self, type_: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Process a frame that is neither DATA nor HEADERS."""
        handler = _HANDLERS.get(type_)
        if handler is None:
            self._abuse.charge_control_frame("frames of unknown types")
            return
        if stream_id and type_ in _CONNECTION_TYPES:
            raise RemoteProtocolError(f"{FrameType(type_).name} on a stream")
        handler(self, flags, stream_id, payload)

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise RemoteProtocolError("PRIORITY on stream 0")
        self._abuse.charge_control_frame("PRIORITY frames")
        if len(payload) != 5:
            reason = "PRIORITY is not 5 bytes"
            if self._streams.is_idle(stream_id):
                # An idle stream cannot be reset.
                raise FrameSizeError(reason)
            raise StreamError(stream_id, reason, ErrorCode.FRAME_SIZE_ERROR)
        _strip_priority(stream_id, payload)

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        streams = self._streams
        if not stream_id or streams.is_idle(stream_id):
            raise RemoteProtocolError("RST_STREAM on an idle stream")
        if len(payload) != 4:
            raise FrameSizeError("RST_STREAM is not 4 bytes")
        self._resets_received += 1
        stream_count = streams.next_id // 2 if self._is_client else streams.received_count
        if self._resets_received > stream_count:
            # More than one per stream; a single one may cross the end of its stream.
            self._abuse.charge_control_frame("RST_STREAM frames")
        stream = streams.by_id.get(stream_id)
        if stream is None:
            return
        # Late frames of a client are answered, as RFC 9113 §5.1 requires. Those of a server are
        # not, because servers count received resets, and this would be a second one.
        streams.reset(stream, reply_due=not self._is_client)
        (code,) = frames.read_u32(payload)
        self.new_events.append(events.StreamReset(stream_id, code, True, error_code_name(code)))
        self._abuse.charge_reset(self._abuse.reset_cost(stream, self._abuse.now))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & frames.ACK:
            if payload:
                raise FrameSizeError("SETTINGS ACK with a payload")
            return
        if len(payload) % 6:
            raise FrameSizeError("SETTINGS length is not a multiple of 6")
        self._abuse.charge_control_frame("SETTINGS frames")
        open_streams = self._streams.by_id.values()
        window_change = self._settings.apply(payload)
        if window_change:
            # Below zero if need be (RFC 9113 §6.9.2).
            for stream in open_streams:
                stream.send_window += window_change
                if stream.send_window > frames.MAX_WINDOW_SIZE:
                    reason = "a stream's window overflows"
                    raise RemoteProtocolError(reason, ErrorCode.FLOW_CONTROL_ERROR)
        self._outgoing.append(frames.SETTINGS_ACK)
        self.new_events.append(events.SettingsReceived(window_change > 0 and bool(open_streams)))

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise RemoteProtocolError("PUSH_PROMISE, and push is disabled")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise FrameSizeError("PING is not 8 bytes")
        if flags & frames.ACK:
            self._abuse.charge_control_frame("PING answers")
            self.new_events.append(events.PingAckReceived(payload))
        else:
            self._abuse.charge_control_frame("PING frames")
            self._outgoing.append(frames.ping(payload, ack=True))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) < 8:
            raise FrameSizeError("GOAWAY is too short")
        self._abuse.charge_control_frame("GOAWAY frames")
        last, code = frames.read_two_u32(payload)
        last &= 0x7FFFFFFF
        if self._streams.peer_last_stream_id is not None:
            last = min(last, self._streams.peer_last_stream_id)
        self._streams.peer_last_stream_id = last
        self.new_events.append(events.GoAwayReceived(last, code, payload[8:]))

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise FrameSizeError("WINDOW_UPDATE is not 4 bytes")
        self._abuse.charge_control_frame("WINDOW_UPDATE frames")
        increment = frames.read_u32(payload)[0] & 0x7FFFFFFF
        if not stream_id:
            self._windows.increase_send(increment)
        elif (stream := self._streams.by_id.get(stream_id)) is not None:
            stream.increase_send_window(increment)
        elif self._streams.is_idle(stream_id):
            raise RemoteProtocolError("WINDOW_UPDATE on an idle stream")
        else:
            return
        self.new_events.append(events.WindowUpdated(stream_id))


_CONNECTION_TYPES = frozenset({FrameType.SETTINGS, FrameType.PING, FrameType.GOAWAY})
"""Types that are about the connection, not about a stream."""
# CONTINUATION is missing, as `FrameReader` joins header blocks.
_HANDLERS = {
    int(FrameType.PRIORITY): FrameReceiver._on_priority,
    int(FrameType.RST_STREAM): FrameReceiver._on_rst_stream,
    int(FrameType.SETTINGS): FrameReceiver._on_settings,
    int(FrameType.PUSH_PROMISE): FrameReceiver._on_push_promise,
    int(FrameType.PING): FrameReceiver._on_ping,
    int(FrameType.GOAWAY): FrameReceiver._on_goaway,
    int(FrameType.WINDOW_UPDATE): FrameReceiver._on_window_update,
}


def _strip_priority(stream_id: int, payload: bytes) -> bytes:
    """Remove the deprecated priority fields (RFC 9113 §5.3.2). Raises RemoteProtocolError."""
    if len(payload) < 5:
        raise FrameSizeError("HEADERS too short for priority")
    if frames.read_u32(payload)[0] & 0x7FFFFFFF == stream_id:
        raise RemoteProtocolError("a stream cannot depend on itself")
    return payload[5:]
