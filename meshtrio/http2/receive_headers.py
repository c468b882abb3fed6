"""Received header blocks: requests, responses and trailers (RFC 9113 §8.1)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import attrs

from meshtrio.http2 import frames
from meshtrio.http2.abuse_limits import AbuseLimits
from meshtrio.http2.errors import (
    ErrorCode,
    HeaderListTooLargeError,
    MalformedHeadersError,
    RemoteProtocolError,
    StreamError,
)
from meshtrio.http2.events import (
    Events,
    RequestHeadersTooLarge,
    RequestReceived,
    ResponseReceived,
    TrailersReceived,
)
from meshtrio.http2.flow_control import consume_content_length
from meshtrio.http2.hpack.decoder import HeaderDecoder, HeaderList
from meshtrio.http2.limits import Limits
from meshtrio.http2.stream import H2Stream, StreamInput, StreamState
from meshtrio.http2.streams import StreamTable

_REFUSED_STREAM = int(ErrorCode.REFUSED_STREAM)
_HALF_CLOSED_REMOTE = StreamState.HALF_CLOSED_REMOTE
_RECEIVE, _RECEIVE_END = StreamInput.RECEIVE, StreamInput.RECEIVE_END


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


@attrs.frozen
class HeaderParsers:
    """Functions that parse the header lists of one application protocol.

    Each raises MalformedHeadersError for a list that is malformed (RFC 9113 §8.1.1).
    """

    parse_request: Callable[[HeaderList], ParsedRequest]
    """Parses request headers."""
    parse_response: Callable[[HeaderList], ParsedResponse]
    """Parses response headers, informational ones (1xx) included."""
    parse_trailers: Callable[[HeaderList], Any]
    """Parses trailers."""


@attrs.define(eq=False)
class HeadersReceiver:
    """Decodes the header blocks of a connection, opens and ends its streams, and makes events.

    Every block is decoded, even if nothing is done with it, to keep the dynamic table in step with
    the peer's.
    """

    _parsers: HeaderParsers
    _limits: Limits
    _streams: StreamTable
    _abuse: AbuseLimits
    _outgoing: list[bytes | memoryview]
    """Frames to send, to which this appends."""
    _is_client: bool
    _decoder: HeaderDecoder = attrs.field(init=False)

    @_decoder.default
    def _make_decoder(self) -> HeaderDecoder:
        limits = self._limits
        return HeaderDecoder(limits.max_header_list_size, limits.absolute_max_header_list_size)

    def on_headers(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        """Process a HEADERS frame whose payload is the whole header block, without padding.

        Raises StreamError and RemoteProtocolError.
        """
        if flags & frames.HAS_PRIORITY:
            payload = strip_priority(stream_id, payload)
        end_stream = bool(flags & frames.END_STREAM)
        stream = self._streams.by_id.get(stream_id)
        try:
            if stream is None and self._is_client:
                self._on_late_headers(stream_id, payload)
            elif stream is None:
                self._on_request(stream_id, payload, end_stream, events)
            elif stream.headers_received:
                self._on_trailers(stream, payload, end_stream, events)
            else:
                self._on_response(stream, payload, end_stream, events)
        except MalformedHeadersError as exc:
            raise StreamError(stream_id, str(exc)) from None
        except HeaderListTooLargeError as exc:
            if stream is not None and end_stream and not stream.headers_received:
                stream.process_input(_RECEIVE_END)
            raise StreamError(stream_id, str(exc), ErrorCode.ENHANCE_YOUR_CALM) from None

    def _on_late_headers(self, stream_id: int, block: bytes) -> None:
        self._decode_and_discard(block)
        if self._streams.check_late_frame(stream_id, "HEADERS"):
            self._outgoing.append(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))

    def _decode_and_discard(self, block: bytes) -> None:
        with suppress(HeaderListTooLargeError):
            self._decoder.decode(block, tuple)

    def _on_request(self, stream_id: int, block: bytes, ends: bool, events: Events) -> None:
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
            self._on_request_too_large(stream_id, exc, ends, events)
            return
        if headers.content_length and ends:
            raise MalformedHeadersError(
                "the stream ended without the DATA that content-length declares"
            )
        stream = self._accept(stream_id)
        if stream is not None:
            stream.has_deadline = headers.timeout is not None
            self._apply(stream, headers.content_length, ends)
            events.append(RequestReceived(stream_id, headers, ends))

    def _on_request_too_large(
        self, stream_id: int, exc: HeaderListTooLargeError, ends: bool, events: Events
    ) -> None:
        # Decoding it has cost as much as several lists of the allowed size.
        self._abuse.charge_reset(exc.size / exc.limit)
        stream = self._accept(stream_id)
        if stream is not None:
            self._apply(stream, None, ends)
            events.append(RequestHeadersTooLarge(stream_id, exc.content_type, ends, str(exc)))

    def _accept(self, stream_id: int) -> H2Stream | None:
        stream = self._streams.accept(stream_id, self._limits.max_concurrent_streams)
        if stream is None:
            self._outgoing.append(frames.rst_stream(stream_id, _REFUSED_STREAM))
        return stream

    def _on_response(self, stream: H2Stream, block: bytes, ends: bool, events: Events) -> None:
        headers = self._decoder.decode(block, self._parsers.parse_response)
        if headers.http_status < 200:
            if ends:
                raise MalformedHeadersError("an informational response may not end the stream")
            return
        stream.headers_received = True
        self._apply(stream, headers.content_length, ends)
        events.append(ResponseReceived(stream.id, headers, ends))

    def _apply(self, stream: H2Stream, content_length: int | None, ends: bool) -> None:
        stream.remaining_content_length = content_length
        if content_length and ends:
            consume_content_length(stream, 0, end_stream=True)
        stream.process_input(_RECEIVE_END if ends else _RECEIVE)
        if ends:
            self._streams.remove_if_closed(stream)

    def _on_trailers(self, stream: H2Stream, block: bytes, ends: bool, events: Events) -> None:
        if stream.state is _HALF_CLOSED_REMOTE:
            self._decode_and_discard(block)
        stream.process_input(_RECEIVE_END)
        trailers = self._decoder.decode(block, self._parsers.parse_trailers)
        if not ends:
            raise MalformedHeadersError("trailers did not end the stream")
        if stream.remaining_content_length:
            consume_content_length(stream, 0, end_stream=True)
        self._streams.remove_if_closed(stream)
        events.append(TrailersReceived(stream.id, trailers))


def strip_priority(stream_id: int, payload: bytes) -> bytes:
    """Remove the deprecated priority fields (RFC 9113 §5.3.2). Raises RemoteProtocolError."""
    if len(payload) < 5:
        raise RemoteProtocolError("HEADERS too short for priority", ErrorCode.FRAME_SIZE_ERROR)
    if frames.read_u32(payload)[0] & 0x7FFFFFFF == stream_id:
        raise RemoteProtocolError("a stream cannot depend on itself")
    return payload[5:]
