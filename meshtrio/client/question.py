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
from meshtrio.rpc.seam import Message, Method
from meshtrio.rpc.status import error_for_reset, error_for_response, error_for_status
from meshtrio.rpc.transport import Buffer, Transport
from meshtrio.texts import visible
from meshtrio.wire import events, hpack
from meshtrio.wire.connection import Connection as Engine
from meshtrio.wire.connection import Role
from meshtrio.wire.errors import ErrorCode, MessageTooLarge, error_name
from meshtrio.wire.grpc import MessageReader, frame_message
from meshtrio.wire.heads import Trailers
from meshtrio.wire.limits import Limits

_READ_SIZE = 16 * 1024
_LIMITS = Limits()
_MOST_HEARD = 64 * 1024
_LONGEST_KNOWN, _MOST_KNOWN = 1024, 64
_MAX_DEBUG = 200
_CLOSED = "the peer closed the connection"


class ClosedUnansweredError(ConnectionLostError):
    """The peer closed the connection without sending anything."""


class TooBusyError(ConnectionLostError):
    """The peer rejected the connection or the call since it has too many (ENHANCE_YOUR_CALM)."""


class Question:
    """A method and a request, to be asked of anybody: `reply = await question.ask(sock)`.

    The same bytes on a new connection mean the same each time, so answers are remembered by them:
    most of what asking costs is to take a header block apart, and all plugins say the same.
    """

    def __init__(self, method: Method, message: Message, authority: str = "localhost") -> None:
        self._reply_type = method.response_type
        self._body = frame_message(message.SerializeToString())
        self._head = hpack.encode(
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", method.path.encode()),
                (b":authority", authority.encode()),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc+proto"),
                (b"user-agent", b"meshtrio"),
            ]
        )
        self._known: dict[bytes, _Answer] = {}
        self._opening = self._understand(b"").sent

    async def ask(self, transport: Transport) -> Any:
        """Give the reply, or raise purerpc's exception for a status other than OK.

        `transport` is closed when this ends, however it does. Raises ConnectionLostError where the
        peer does not speak gRPC to the end. When cancelled, the peer finds the connection closed.
        """
        heard, answer = b"", _Answer(sent=self._opening)
        with closing(transport):
            await _shake_hands(transport)
            await _send(transport, self._opening)
            while not answer.over:
                data = await _receive(transport)
                if not data:
                    raise answer.closed()
                heard += data
                if len(heard) > _MOST_HEARD:
                    raise ConnectionLostError(f"the peer's answer is over {_MOST_HEARD} bytes")
                said = len(answer.sent)
                answer = self._known.get(heard) or self._understood(heard)
                if not answer.over and len(answer.sent) > said:
                    await _send(transport, answer.sent[said:])
        return answer.reply(self._reply_type)

    def _understood(self, heard: bytes) -> _Answer:
        """As `_understand`, with one kind of error for whatever the peer has said."""
        try:
            return self._understand(heard)
        except purerpc.RpcFailedError:
            raise
        except Exception as exc:
            text = f"the peer's answer cannot be understood: {type(exc).__name__}: {exc!s:.200}"
            raise ConnectionLostError(text) from exc

    def _understand(self, heard: bytes) -> _Answer:
        """What it means that a peer has said this since the connection began."""
        engine, answer = Engine(Role.CLIENT, _LIMITS), _Answer()
        engine.send_data(engine.open_stream(self._head), self._body, end_stream=True)
        for event in engine.receive_data(heard, trio.current_time()) if heard else ():
            answer.take(event)
        answer.sent = engine.data_to_send()
        if len(heard) <= _LONGEST_KNOWN:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[heard] = answer
        return answer


async def _shake_hands(transport: Transport) -> None:
    try:
        await transport.handshake()
    except OSError as exc:
        raise ConnectionLostError(f"TLS failed: {exc.strerror or exc}") from None


async def _send(transport: Transport, data: bytes) -> None:
    rest: Buffer = data
    try:
        while rest or transport.pending:
            rest = rest[transport.try_send([rest] if rest else []) :]
            if rest or transport.pending:
                await transport.wait_writable()
    except OSError:
        return  # what the peer had to say comes first; then reading tells the same


async def _receive(transport: Transport) -> bytes:
    try:
        return await transport.receive(_READ_SIZE)
    except OSError:
        return b""  # closed with something of ours unread


class _Answer:
    """What has come back so far. `take` raises what ends the call other than a status."""

    def __init__(self, sent: bytes = b"") -> None:
        self.over = False
        self.goodbye = ""
        self._is_busy = self._heard = False
        self.sent = sent
        """All that this side has had to say until then."""
        self._reader = MessageReader(_LIMITS.max_message_size)
        self._messages: list[bytes] = []
        self._trailers: Trailers | None = None

    def closed(self) -> ConnectionLostError:
        """What it means that the peer closes the connection now."""
        if self._is_busy:
            return TooBusyError(self.goodbye)
        if not self._heard:
            return ClosedUnansweredError(_CLOSED)
        return ConnectionLostError(self.goodbye or _CLOSED)

    def take(self, event: events.Event) -> None:
        self._heard = True
        if self.over:
            return  # A server may reset a stream that it has answered (RFC 9113 §8.1).
        match event:
            case events.ResponseReceived(head=head, end_stream=end_stream):
                self._trailers, self.over = head.trailers, end_stream
                failure = None if end_stream and head.trailers else error_for_response(head)
                if failure is not None:
                    raise failure
            case events.DataReceived(data=data, end_stream=end_stream):
                self._take_data(data)
                self.over = self.over or end_stream
            case events.TrailersReceived(trailers=trailers):
                self._trailers, self.over = trailers, True
            case events.StreamReset(code=ErrorCode.REFUSED_STREAM):
                raise CallRefusedError("the peer refused the call before processing it")
            case events.StreamReset(code=code, reason=reason):
                raise error_for_reset(code, reason)
            case events.ConnectionFailed(code=code, reason=reason):
                broke = f"the peer broke HTTP/2 ({error_name(code)}: {reason})"
                raise ConnectionLostError(broke)
            case events.GoAwayReceived(code=code, debug=debug) if code:
                self._is_busy = code == ErrorCode.ENHANCE_YOUR_CALM
                why = visible(debug[:_MAX_DEBUG].decode("utf-8", "replace"))
                self.goodbye = f"{_CLOSED} ({error_name(code)}{': ' if why else ''}{why})"

    def _take_data(self, data: bytes) -> None:
        try:
            self._messages += [message for _, message in self._reader.feed(data)]
        except MessageTooLarge as exc:
            raise purerpc.ResourceExhaustedError(str(exc)) from None

    def reply(self, reply_type: Any) -> Any:
        try:
            return reply_type.FromString(self._message())
        except (DecodeError, UnicodeDecodeError) as exc:
            raise purerpc.InternalError(f"the reply cannot be parsed: {exc}") from exc

    def _message(self) -> bytes:
        if self._trailers is None:
            raise purerpc.UnknownError("the peer ended the call without a status")
        if self._trailers.code:
            raise error_for_status(self._trailers.code, self._trailers.message)
        if len(self._messages) != 1:
            count = len(self._messages)
            # UNIMPLEMENTED by statuscodes.md, which here would be taken for a server's own answer.
            raise purerpc.InternalError(f"the call succeeded with {count} replies instead of one")
        return self._messages[0]
