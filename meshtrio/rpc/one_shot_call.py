"""One unary call over a connection of its own, without a task: cheap enough to be asked often.

For health checks, of which a mesh with many plugins makes many; all else goes through a channel.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import purerpc
import trio
from google.protobuf.message import DecodeError

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.grpc.connection import GrpcConnection as Engine
from meshtrio.grpc.framing import MessageReader, MessageTooLargeError, frame_message
from meshtrio.grpc.header_builder import build_request_headers
from meshtrio.grpc.headers import Trailers
from meshtrio.http2 import events
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode, error_code_name
from meshtrio.http2.limits import Limits
from meshtrio.rpc.errors import error_for_call, error_for_reset, error_for_response
from meshtrio.rpc.method import Message, Method
from meshtrio.transport.transport import Buffer, Transport
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
    """A method and a request, to be asked of anybody: `reply = await question.ask(sock)`.

    The same bytes on a new connection mean the same each time, so answers are remembered by them:
    most of what asking costs is to take a header block apart, and all plugins say the same.
    """

    def __init__(self, method: Method, message: Message, authority: str = "localhost") -> None:
        self._reply_type = method.response_type
        self._request_body = frame_message(message.SerializeToString())
        self._request_headers = build_request_headers(
            method.path.encode(), b"http", authority.encode(), accept_encoding=()
        ).data
        self._cached_responses: dict[bytes, _ResponseReader] = {}
        self._opening_bytes = self._interpret(b"").bytes_sent

    async def call(self, transport: Transport) -> Any:
        """Give the reply, or raise purerpc's exception for a status other than OK.

        `transport` is closed when this ends, however it does. Raises ConnectionLostError where the
        peer does not speak gRPC to the end. When cancelled, the peer finds the connection closed.
        """
        heard, answer = b"", _ResponseReader(bytes_sent=self._opening_bytes)
        with closing(transport):
            await _handshake(transport)
            await _send(transport, self._opening_bytes)
            while not answer.is_complete:
                data = await _receive(transport)
                if not data:
                    raise answer.make_close_error()
                heard += data
                if len(heard) > _MAX_RESPONSE_SIZE:
                    raise ConnectionLostError(
                        f"the peer's answer is over {_MAX_RESPONSE_SIZE} bytes"
                    )
                said = len(answer.bytes_sent)
                answer = self._cached_responses.get(heard) or self._interpret_or_raise(heard)
                if not answer.is_complete and len(answer.bytes_sent) > said:
                    await _send(transport, answer.bytes_sent[said:])
        return answer.parse_reply(self._reply_type)

    def _interpret_or_raise(self, received: bytes) -> _ResponseReader:
        """As `_understand`, with one kind of error for whatever the peer has said."""
        try:
            return self._interpret(received)
        except purerpc.RpcFailedError:
            raise
        except Exception as exc:
            text = f"the peer's answer cannot be understood: {type(exc).__name__}: {exc!s:.200}"
            raise ConnectionLostError(text) from exc

    def _interpret(self, received: bytes) -> _ResponseReader:
        """What it means that a peer has said this since the connection began."""
        engine, answer = Engine(Role.CLIENT, _LIMITS), _ResponseReader()
        engine.send_data(
            engine.open_stream(self._request_headers), self._request_body, end_stream=True
        )
        for event in engine.receive_data(received, trio.current_time()) if received else ():
            answer.on_event(event)
        answer.bytes_sent = engine.data_to_send()
        if len(received) <= _MAX_CACHED_LENGTH:
            if len(self._cached_responses) >= _MAX_CACHED_RESPONSES:
                self._cached_responses.clear()
            self._cached_responses[received] = answer
        return answer


async def _handshake(transport: Transport) -> None:
    try:
        await transport.handshake()
    except OSError as exc:
        raise ConnectionLostError(f"TLS failed: {exc.strerror or exc}") from None


async def _send(transport: Transport, data: bytes) -> None:
    rest: Buffer = data
    try:
        while rest or transport.has_pending_data:
            rest = rest[transport.try_send([rest] if rest else []) :]
            if rest or transport.has_pending_data:
                await transport.wait_writable()
    except OSError:
        return  # what the peer had to say comes first; then reading tells the same


async def _receive(transport: Transport) -> bytes:
    try:
        return await transport.receive(_READ_SIZE)
    except OSError:
        return b""  # closed with something of ours unread


class _ResponseReader:
    """What has come back so far. `take` raises what ends the call other than a status."""

    def __init__(self, bytes_sent: bytes = b"") -> None:
        self.is_complete = False
        self.goaway_text = ""
        self._is_overloaded = self._has_received = False
        self.bytes_sent = bytes_sent
        """All that this side has had to say until then."""
        self._reader = MessageReader(_LIMITS.max_message_size)
        self._messages: list[bytes] = []
        self._trailers: Trailers | None = None

    def make_close_error(self) -> ConnectionLostError:
        """What it means that the peer closes the connection now."""
        if self._is_overloaded:
            return PeerOverloadedError(self.goaway_text)
        if not self._has_received:
            return ClosedWithoutResponseError(_CLOSED_TEXT)
        return ConnectionLostError(self.goaway_text or _CLOSED_TEXT)

    def on_event(self, event: events.Http2Event) -> None:
        self._has_received = True
        if self.is_complete:
            return  # A server may reset a stream that it has answered (RFC 9113 §8.1).
        match event:
            case events.ResponseReceived(headers=head, end_stream=end_stream):
                self._trailers, self.is_complete = head.trailers, end_stream
                failure = None if end_stream and head.trailers else error_for_response(head)
                if failure is not None:
                    raise failure
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
                broke = f"the peer broke HTTP/2 ({error_code_name(code)}: {reason})"
                raise ConnectionLostError(broke)
            case events.GoAwayReceived(error_code=code, debug_data=debug) if code:
                self._is_overloaded = code == ErrorCode.ENHANCE_YOUR_CALM
                why = escape_unprintable(debug[:_MAX_DEBUG_LENGTH].decode("utf-8", "replace"))
                self.goaway_text = (
                    f"{_CLOSED_TEXT} ({error_code_name(code)}{': ' if why else ''}{why})"
                )

    def _on_data(self, data: bytes) -> None:
        try:
            self._messages += [message for _, message in self._reader.feed(data)]
        except MessageTooLargeError as exc:
            raise purerpc.ResourceExhaustedError(str(exc)) from None

    def parse_reply(self, reply_type: Any) -> Any:
        try:
            return reply_type.FromString(self._single_message())
        except (DecodeError, UnicodeDecodeError) as exc:
            raise purerpc.InternalError(f"the reply cannot be parsed: {exc}") from exc

    def _single_message(self) -> bytes:
        if self._trailers is None or self._trailers.code:
            raise error_for_call(None, self._trailers)
        if len(self._messages) != 1:
            count = len(self._messages)
            # UNIMPLEMENTED by statuscodes.md, which here would be taken for a server's own answer.
            raise purerpc.InternalError(f"the call succeeded with {count} replies instead of one")
        return self._messages[0]
