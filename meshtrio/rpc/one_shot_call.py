"""One unary call on a connection of its own, without a task: cheap enough for frequent probes.

It is for health checks, of which a mesh makes many; all other calls use a channel.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

import purerpc
import trio
from google.protobuf.message import DecodeError

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.grpc.connection import GrpcConnection
from meshtrio.grpc.framing import (
    MessageData,
    MessageReader,
    MessageTooLargeError,
    frame_message,
)
from meshtrio.grpc.header_builder import PSEUDO_HEADERS, build_request_headers
from meshtrio.grpc.headers import Trailers
from meshtrio.http2 import events
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode, error_code_name
from meshtrio.http2.hpack.encoder import HeaderBlock
from meshtrio.http2.limits import Limits
from meshtrio.rpc.errors import error_for_call, error_for_reset, error_for_response
from meshtrio.rpc.method import Message, Method
from meshtrio.rpc.write_buffer import WriteBuffer
from meshtrio.transport.transport import Transport
from meshtrio.util.caches import BoundedCache
from meshtrio.util.text import escape_unprintable

_READ_SIZE = 16 * 1024
_LIMITS = Limits()
_MAX_RESPONSE_SIZE = 64 * 1024
_MAX_CACHED_LENGTH, _MAX_CACHED_RESPONSES = 1024, 64
_MAX_DEBUG_LENGTH = 200
_CLOSED_TEXT = "the peer closed the connection"


class ClosedWithoutResponseError(ConnectionLostError):
    """The peer closed the connection without sending anything."""


class PeerOverloadedError(ConnectionLostError):
    """The peer rejected the connection or the call since it has too many (ENHANCE_YOUR_CALM)."""


class OneShotCall:
    """A method and a request that are sent to many servers: `reply = await probe.call(transport)`.

    The same bytes on a new connection always mean the same, so interpreted responses are cached by
    their bytes: parsing header blocks is most of the cost, and all plugins send the same ones.
    """

    def __init__(self, method: Method, message: Message, authority: str = "localhost") -> None:
        self._reply_type = method.response_type
        self._request_body = frame_message(message.SerializeToString())
        self._request_headers = build_request_headers(
            method.path.encode(), authority.encode(), accept_encoding=()
        )
        self._cached_responses = BoundedCache[bytes, _ResponseReader](_MAX_CACHED_RESPONSES)
        self._opening_bytes = [self._interpret(b"", each).bytes_sent for each in PSEUDO_HEADERS]

    async def call(self, transport: Transport) -> Any:
        """Make the call on a new connection, which is closed when this returns or raises.

        Returns:
            The reply.

        Raises:
            RpcFailedError: The call ended with a status other than OK.
            ConnectionLostError: The peer does not speak gRPC, or closed the connection early.

        Cancellation: the connection is closed.
        """
        opening_bytes = self._opening_bytes[transport.ssl_object is not None]
        received, response = b"", _ResponseReader(bytes_sent=opening_bytes)
        with closing(transport):
            try:
                await transport.handshake()
            except OSError as exc:
                raise ConnectionLostError(f"TLS failed: {exc.strerror or exc}") from None
            write_buffer = WriteBuffer(transport)
            # After an error reading returns what the peer has sent first, and then fails likewise.
            if write_buffer.write([opening_bytes]):
                await write_buffer.drain()
            while not response.is_complete:
                data = b""
                with suppress(OSError):  # The peer closed without reading everything.
                    data = await transport.receive(_READ_SIZE)
                if not data:
                    raise response.close_error(response.close_text)
                received += data
                if len(received) > _MAX_RESPONSE_SIZE:
                    text = f"the peer's response is over {_MAX_RESPONSE_SIZE} bytes"
                    raise ConnectionLostError(text)
                sent_size = len(response.bytes_sent)
                response = self._cached_responses.get(received) or self._interpret(received)
                answer = response.bytes_sent[sent_size:]
                if answer and not response.is_complete and write_buffer.write([answer]):
                    await write_buffer.drain()
        return response.parse_reply(self._reply_type)

    def _interpret(
        self, received: bytes, pseudo_headers: HeaderBlock = PSEUDO_HEADERS[0]
    ) -> _ResponseReader:
        """Interpret all bytes that a peer has sent since the connection was opened."""
        engine, response = GrpcConnection(Role.CLIENT, _LIMITS), _ResponseReader()
        stream_id = engine.open_stream((pseudo_headers + self._request_headers).data)
        engine.send_data(stream_id, self._request_body, end_stream=True)
        try:
            new_events = engine.receive_data(received, trio.current_time()) if received else ()
            if new_events:
                response.close_error = ConnectionLostError
            for event in new_events:
                response.on_event(event)
        except purerpc.RpcFailedError:
            raise
        except Exception as exc:
            text = f"the peer's response cannot be understood: {type(exc).__name__}: {exc!s:.200}"
            raise ConnectionLostError(text) from exc
        response.bytes_sent = engine.data_to_send()
        if len(received) <= _MAX_CACHED_LENGTH:
            self._cached_responses[received] = response
        return response


class _ResponseReader:
    """Interprets what a peer sends; `on_event` raises the error that ends the call early."""

    def __init__(self, bytes_sent: bytes = b"") -> None:
        self.is_complete = False
        self.close_error: type[ConnectionLostError] = ClosedWithoutResponseError
        """The error of the call if the peer closes the connection now."""
        self.close_text = _CLOSED_TEXT
        self.bytes_sent = bytes_sent
        """All bytes that this side has sent until then."""
        self._reader = MessageReader(_LIMITS.max_message_size)
        self._messages: list[MessageData] = []
        self._trailers: Trailers | None = None

    def on_event(self, event: events.Http2Event) -> None:
        """Handle an event of the engine."""
        if self.is_complete:
            return  # A server may reset a stream after its response (RFC 9113 §8.1).
        match event:
            case events.ResponseReceived(headers=headers, end_stream=end_stream):
                self._trailers, self.is_complete = headers.trailers, end_stream
                error = None if end_stream and headers.trailers else error_for_response(headers)
                if error is not None:
                    raise error
            case events.DataReceived(data=data, end_stream=end_stream):
                self._on_data(data)
                self.is_complete = self.is_complete or end_stream
            case events.TrailersReceived(trailers=trailers):
                self._trailers, self.is_complete = trailers, True
            case events.StreamReset(error_code=ErrorCode.REFUSED_STREAM):
                raise CallRefusedError("the peer refused the call before processing it")
            case events.StreamReset(error_code=code, reason=reason):
                raise error_for_reset(code, reason)
            case events.ConnectionFailed(error_code=code, reason=reason):
                broke = f"the peer violated HTTP/2 ({error_code_name(code)}: {reason})"
                raise ConnectionLostError(broke)
            case events.GoAwayReceived(error_code=code, debug_data=debug) if code:
                is_overloaded = code == ErrorCode.ENHANCE_YOUR_CALM
                self.close_error = PeerOverloadedError if is_overloaded else ConnectionLostError
                why = escape_unprintable(debug[:_MAX_DEBUG_LENGTH].decode("utf-8", "replace"))
                name, colon = error_code_name(code), ": " if why else ""
                self.close_text = f"{_CLOSED_TEXT} ({name}{colon}{why})"

    def _on_data(self, data: bytes) -> None:
        try:
            self._messages += [message for _, message in self._reader.feed(data)]
        except MessageTooLargeError as exc:
            raise purerpc.ResourceExhaustedError(str(exc)) from None

    def parse_reply(self, reply_type: Any) -> Any:
        """Return the reply. Raises the error of the call's status."""
        if self._trailers is None or self._trailers.code:
            raise error_for_call(None, self._trailers)
        if len(self._messages) != 1:
            count = len(self._messages)
            # UNIMPLEMENTED by statuscodes.md, which here would be taken for a server's own answer.
            raise purerpc.InternalError(f"the call succeeded with {count} replies instead of one")
        try:
            return reply_type.FromString(bytes(self._messages[0]))
        except (DecodeError, UnicodeDecodeError) as exc:
            raise purerpc.InternalError(f"the reply cannot be parsed: {exc}") from exc
