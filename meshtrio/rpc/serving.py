"""Serving one call: a handler runs in a scope that the caller's cancellation and deadline end."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import purerpc
import trio

from meshtrio.errors import unwrap
from meshtrio.rpc.current import current
from meshtrio.rpc.observe import SUCCESS, Outcome, ServerObserver, ServerWatch
from meshtrio.rpc.seam import Handler, Request
from meshtrio.rpc.status import header_list_too_large
from meshtrio.rpc.stream import STOPPED, Stream
from meshtrio.rpc.tracing import log_failure
from meshtrio.rpc.trailers import status_trailers
from meshtrio.structured import exit_in, without_cancelled
from meshtrio.wire import hpack
from meshtrio.wire.compression import ENCODINGS, IDENTITY
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.grpc import encode_metadata
from meshtrio.wire.heads import RequestHead
from meshtrio.wire.hpack import HeaderBlock

if TYPE_CHECKING:
    from meshtrio.rpc.connection import Connection
    from meshtrio.rpc.server import ServerConnection, ServerInterceptor

_log = logging.getLogger("meshtrio.rpc")

_HEAD = HeaderBlock.of([(b":status", b"200"), (b"content-type", b"application/grpc+proto")])
_TRAILERS_OK = HeaderBlock.of([(b"grpc-status", b"0")])
_ACCEPT = HeaderBlock.of([(b"grpc-accept-encoding", ",".join(ENCODINGS).encode())])
_NOT_GRPC = hpack.encode([(b":status", b"415"), (b"content-type", b"text/plain")])
_TOO_LARGE = hpack.encode([(b":status", b"431")])
_NOT_GRPC_WAIT = 5.0
"""Seconds that a request which is not gRPC has to end before it is answered all the same."""
_NOT_GRPC_BODY = b"This server speaks gRPC: POST with content-type application/grpc.\n"

_MAX_MESSAGE_SIZE = 4096
"""Bytes of an encoded status message, which is cut beyond that: peers limit their header lists, by
default to 8 KiB (grpc-java) or 16 KiB (gRPC's C core)."""

_LARGE_REPLY = 64 * 1024
"""Bytes of a reply from which on calls of its method are taken to need as much."""

_OK = purerpc.StatusCode.OK
_StatusPair = tuple[purerpc.StatusCode, str]
_STOPPED = (purerpc.StatusCode.UNAVAILABLE, STOPPED)


def own_status(connection: Connection, code: purerpc.StatusCode, message: str) -> bytes:
    """The trailers of a call that the server ends by itself, for its own list or behind a head."""
    room = connection.engine.max_sent_header_list - _HEAD.size - _ACCEPT.size
    return status_trailers(
        code.value, message, b"", [], room=room, max_message_size=_MAX_MESSAGE_SIZE
    ).data


@attrs.frozen
class UnavailableService:
    """What is found in place of a handler if the servicer could not be made this time."""

    reason: str


def refuse(
    connection: ServerConnection,
    stream_id: int,
    head: RequestHead,
    handler: Handler | UnavailableService | None,
) -> Outcome | None:
    """Answer a call that no handler can take; None where there is nothing against it."""
    unimplemented = purerpc.StatusCode.UNIMPLEMENTED
    if handler is None:
        return answer_at_once(connection, stream_id, unimplemented, f"{head.path} is unknown")
    if isinstance(handler, UnavailableService):
        unavailable = purerpc.StatusCode.UNAVAILABLE
        return answer_at_once(connection, stream_id, unavailable, handler.reason)
    if head.encoding not in ENCODINGS:
        message = f"messages in encoding {head.encoding!r} are not understood"
        return answer_at_once(connection, stream_id, unimplemented, message, _ACCEPT.data)
    return None


def answer_at_once(
    connection: ServerConnection,
    stream_id: int,
    code: purerpc.StatusCode,
    message: str,
    more: bytes = b"",
) -> Outcome:
    """Give a status before anything of the call is looked at; `more` goes with its head."""
    # One read may have brought the request and its end.
    if connection.engine.can_send(stream_id):
        block = _HEAD.data + more + own_status(connection, code, message)
        connection.engine.send_headers(stream_id, block, end_stream=True)
        connection.end_answered(stream_id)
    connection.tally.failed += 1
    return code.value, message


def answer_too_large(connection: ServerConnection, stream_id: int) -> None:
    """Answer a request that is not gRPC and whose header list is over the limit (RFC 6585 §5)."""
    if connection.engine.can_send(stream_id):
        connection.engine.send_headers(stream_id, _TOO_LARGE, end_stream=True)
        connection.end_answered(stream_id)


async def answer_not_grpc(stream: Stream) -> None:
    """Tell whoever sent something other than gRPC what this is: a browser, curl, a test tool."""
    try:
        with contextlib.suppress(purerpc.RpcFailedError):
            with trio.move_on_after(_NOT_GRPC_WAIT):
                await stream.receive()
            await stream.send_bytes(_NOT_GRPC_BODY, head=_NOT_GRPC, end_stream=True)
    finally:
        stream.reset(ErrorCode.NO_ERROR)


class RequestMessages(AsyncIterator[Any]):
    """The messages a client streams, as the handler iterates them."""

    def __init__(self, stream: Stream, request_type: Any) -> None:
        self._stream = stream
        self._parse = request_type.FromString

    async def __anext__(self) -> Any:
        data = await self._stream.receive()
        if data is None:
            raise StopAsyncIteration
        return _parsed(self._parse, data)


class ServerCall:
    """One call on a server, from its head to its status."""

    __slots__ = ("_began", "_connection", "_handler", "_head", "_request", "_stream", "_watch")

    def __init__(
        self,
        connection: ServerConnection,
        stream: Stream,
        handler: Handler,
        head: RequestHead,
        observer: ServerObserver | None = None,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._handler = handler
        self._head = head
        self._request = Request(stream, head)
        self._began = connection.meter.begin() if handler.counted else 0.0
        self._watch: ServerWatch | None = None
        if observer is not None:
            try:
                self._watch = observer.begin(self._request, handler.method, stream)
            except BaseException as exc:
                self._note_tracer_failure(exc)

    async def run(self) -> None:
        """Run the handler to its end and send the status. Raises nothing but cancellation.

        The handler is cancelled when the caller resets the stream or is lost, when the caller's
        deadline passes, and when the server is stopped; the last two are told to the caller.
        Whatever else it raises, `BaseException` included, fails this call alone; SystemExit and
        KeyboardInterrupt make the server drain and raise them from `Server.serve`.
        """
        status: _StatusPair | None = _STOPPED
        current.set(self._request)
        if self._watch is not None:
            self._notify(self._watch.enter)
        try:
            with self._scope() as scope:
                try:
                    interceptors = self._connection.interceptors
                    reply = await (
                        self._intercepted(interceptors) if interceptors else self._handle()
                    )
                    if not self._handler.method.server_streams:
                        await self._send(reply, last=True)
                        status = None  # It went out with the reply.
                    elif (status := self._finish(_OK, ""))[0] is _OK:
                        status = None
                except Exception as exc:
                    status = self._status_of(unwrap(exc))
            if scope.cancelled_caught:
                status = self._status_when_cancelled()
        except BaseException as exc:
            # Cancelled from outside, or what is no Exception (asyncio.CancelledError, say), or a
            # clean-up that failed while it was cancelled.
            cancelled, error = without_cancelled(exc)
            if error is not None:
                status = self._status_of(error)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._conclude(status)

    def _conclude(self, status: _StatusPair | None) -> None:
        """Tell everybody how it ended; `status` is None where it was OK, and has gone out."""
        self._stream.on_failure = None
        if status is None:
            self._connection.tally.succeeded += 1
        else:
            if status is _STOPPED and self._connection.server.exiting:
                self._connection.abandon(self._stream)
            else:
                status = self._finish(*status)
            self._connection.tally.failed += 1
        self._stream.reset(ErrorCode.NO_ERROR)
        if self._handler.counted:
            self._connection.meter.end(self._began, failed=status is not None)
        self._connection.call_ended()
        if self._watch is not None:
            outcome = SUCCESS if status is None else (status[0].value, status[1])
            self._notify(self._watch.ended, outcome)

    def _notify(self, method: Callable[..., None], *args: object) -> None:
        """Call a tracer, which must not raise; if it does, that fails no call."""
        try:
            method(*args)
        except BaseException as exc:
            self._note_tracer_failure(exc)

    def _note_tracer_failure(self, exc: BaseException) -> None:
        log_failure(self._head.path, exc)
        exit_error = exit_in(exc)
        if exit_error is not None:
            self._connection.server.request_exit(exit_error)

    def _scope(self) -> trio.CancelScope:
        """What the handler runs in: ended by the caller's deadline, and with the stream."""
        timeout = self._head.timeout
        deadline = math.inf if timeout is None else trio.current_time() + timeout
        scope = self._stream.on_failure = trio.CancelScope(deadline=deadline)
        return scope

    def _status_when_cancelled(self) -> _StatusPair:
        failure = self._stream.failure
        if failure is not None:
            return failure.status.status_code, failure.status.status_message
        return purerpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed in the handler"

    async def _intercepted(self, interceptors: Sequence[ServerInterceptor]) -> Any:
        """The same as `_handle`, within interceptors; what they add goes out too.

        By recursion, since an AsyncExitStack takes 2 KB for each open call.
        """
        if not interceptors:
            return await self._handle()
        async with interceptors[0](self._request):
            return await self._intercepted(interceptors[1:])

    async def _handle(self) -> Any:
        """Run the handler; gives the reply of one that has but one."""
        if self._stream.failure is not None:
            raise self._stream.failure
        method = self._handler.method
        ledger = self._stream.ledger
        if ledger is not None and ledger.account.working and self._handler.counted:
            await ledger.wait_to_work()
        if self._connection.server.reply_sizes:
            self._expect_reply(method.path)
        if method.client_streams:
            argument: Any = RequestMessages(self._stream, method.request_type)
        else:
            argument = await self._single_request()
        result = self._handler.function(argument, request=self._request)
        if inspect.iscoroutine(result):
            # For a streamed reply too: such a method as protoc-gen-purerpc leaves it is one.
            result = await result
        elif not method.server_streams:
            raise TypeError("the handler is not an async function")
        if method.server_streams:
            await self._send_all(result)
        return result

    def _expect_reply(self, path: str) -> None:
        """Count what a reply of the method is likely to need; less and less while none is large."""
        sizes = self._connection.server.reply_sizes
        size = sizes.pop(path, 0)
        if size > _LARGE_REPLY:
            sizes[path] = size - (size >> 5)
            self._stream.expect_to_send(size)

    async def _single_request(self) -> Any:
        data = await self._stream.receive_request()
        return _parsed(self._handler.method.request_type.FromString, data)

    async def _send_all(self, replies: Any) -> None:
        if not hasattr(replies, "__aiter__"):
            raise TypeError("the handler of a streaming reply is not an async generator")
        if hasattr(replies, "aclose"):
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    await self._send(reply)
        else:
            async for reply in replies:
                await self._send(reply)

    async def _send(self, reply: Any, *, last: bool = False) -> None:
        method = self._handler.method
        if not isinstance(reply, method.response_type):
            expected = method.response_type.__name__
            raise TypeError(f"the handler gave {type(reply).__name__} instead of {expected}")
        data = reply.SerializeToString()
        if len(data) > _LARGE_REPLY:
            sizes = self._connection.server.reply_sizes
            sizes[method.path] = max(len(data), sizes.get(method.path, 0))
        request = self._request
        head = trailers = b""
        if not self._stream.head_sent:
            block = self._head_block()
            head = _HEAD.data if block is _HEAD else self._checked(block)
        if last and not request.trailing_metadata:
            trailers = _TRAILERS_OK.data
        elif last:
            trailers = self._checked(self._trailers_block(_OK, ""))
        compressed = request.compress and self._compression() != IDENTITY
        await self._stream.send(data, compressed=compressed, head=head, trailers=trailers)

    def _compression(self) -> str:
        """What the handler asked for, if the caller accepts it."""
        asked = self._request.compression
        if asked not in ENCODINGS:
            raise ValueError(f"compression {asked!r} is none of {', '.join(ENCODINGS)}")
        return asked if asked in self._head.accept_encoding else IDENTITY

    def _checked(self, block: HeaderBlock) -> bytes:
        """Give the bytes of a block that the client accepts. Raises ResourceExhaustedError."""
        limit = self._connection.engine.max_sent_header_list
        if block.size > limit:
            text = header_list_too_large("response", block.size, limit)
            raise purerpc.ResourceExhaustedError(text)
        return block.data

    def _trailers_block(self, code: purerpc.StatusCode, message: str, head: int = 0) -> HeaderBlock:
        """The trailers, with a message that leaves room for a head of so many bytes."""
        request = self._request
        metadata = encode_metadata(tuple(request.trailing_metadata))
        if code is _OK:
            return HeaderBlock.of([(b"grpc-status", b"0"), *metadata]) if metadata else _TRAILERS_OK
        room = self._connection.engine.max_sent_header_list - head
        return status_trailers(
            code.value,
            message,
            request.status_details,
            metadata,
            room=room,
            max_message_size=_MAX_MESSAGE_SIZE,
        )

    def _head_block(self) -> HeaderBlock:
        request = self._request
        if not request.initial_metadata and request.compression == IDENTITY:
            return _HEAD
        fields = encode_metadata(tuple(request.initial_metadata))
        if self._compression() != IDENTITY:
            fields.append((b"grpc-encoding", self._compression().encode()))
        return _HEAD + HeaderBlock.of(fields)

    def _status_of(self, exc: BaseException) -> _StatusPair:
        """The caller learns a status the handler chose; what else went wrong stays in our log."""
        path = self._head.path
        if isinstance(exc, purerpc.RpcFailedError) and exc.status.status_code is not _OK:
            return exc.status.status_code, exc.status.status_message
        if isinstance(exc, NotImplementedError):
            return purerpc.StatusCode.UNIMPLEMENTED, f"{path} is not implemented"
        exit_error = exit_in(exc)
        if exit_error is not None:
            _log.warning("%s: the handler raised %r; draining, then exiting", path, exit_error)
            self._connection.server.request_exit(exit_error)
            return _STOPPED
        _log.error("%s: the handler raised", path, exc_info=exc)
        return purerpc.StatusCode.UNKNOWN, f"{path}: the handler failed; the plugin's log says why"

    def _finish(self, code: purerpc.StatusCode, message: str) -> _StatusPair:
        """Send the status, unless the stream is over already. Never blocks.

        Gives the one that goes out: what cannot be sent has the call fail.
        """
        connection, stream = self._connection, self._stream
        if not connection.engine.can_send(stream.id):
            return code, message
        try:
            blocks = self._status_blocks(code, message)
        except Exception as exc:
            code, message = self._without_metadata(exc)
            blocks = self._status_blocks(code, message)
        for block in blocks[:-1]:
            connection.engine.send_headers(stream.id, block)
        connection.engine.send_headers(stream.id, blocks[-1], end_stream=True)
        connection.flush()
        return code, message

    def _without_metadata(self, exc: Exception) -> _StatusPair:
        """Leave out the handler's metadata, which cannot be sent; give the status instead."""
        _log.error("%s: the handler's metadata cannot be sent: %s", self._head.path, exc)
        request = self._request
        request.initial_metadata = request.trailing_metadata = ()
        request.status_details = b""
        request.compression = IDENTITY
        if isinstance(exc, purerpc.ResourceExhaustedError):
            return exc.status.status_code, exc.status.status_message
        return purerpc.StatusCode.UNKNOWN, "the handler's metadata cannot be sent"

    def _status_blocks(self, code: purerpc.StatusCode, message: str) -> list[bytes]:
        """Trailers; where no reply went before, with the head in one block (Trailers-Only), or in
        two if there is initial metadata, which one block could not tell apart."""
        if self._stream.head_sent:
            return [self._checked(self._trailers_block(code, message))]
        head = self._head_block()
        if self._request.initial_metadata:
            return [self._checked(head), self._checked(self._trailers_block(code, message))]
        return [self._checked(head + self._trailers_block(code, message, head.size))]


def _parsed(parse: Any, data: bytes) -> Any:
    try:
        return parse(data)
    except Exception:
        message = "a request message cannot be parsed as its protobuf type"
        raise purerpc.InternalError(message) from None
