"""Serving one call: a handler runs in a scope that the caller's cancellation and deadline end."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import attrs
import purerpc
import trio

from meshtrio.errors import unwrap_exception_group
from meshtrio.grpc.compression import ENCODINGS, IDENTITY
from meshtrio.grpc.header_builder import (
    ACCEPT_ENCODING,
    DEFAULT_RESPONSE_HEADERS,
    OK_TRAILERS,
    build_http_response,
    build_response_headers,
    build_trailers,
)
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.metadata import encode_metadata
from meshtrio.grpc.status import STATUS_OK, CallStatus, header_list_too_large_message
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.hpack.codec import HeaderBlock
from meshtrio.rpc.context import ServerContext, current_context
from meshtrio.rpc.method import Handler
from meshtrio.rpc.stream import SERVER_STOPPED_MESSAGE, Stream
from meshtrio.rpc.tracer import ServerCallTracer, ServerTracer
from meshtrio.rpc.tracer_dispatch import log_tracer_error
from meshtrio.util.concurrency import find_exit_exception, split_cancelled

if TYPE_CHECKING:
    from meshtrio.rpc.connection import Connection
    from meshtrio.rpc.server import ServerConnection

_log = logging.getLogger("meshtrio.rpc")

_NON_GRPC_HEADERS = build_http_response(415, b"text/plain").data
_TOO_LARGE_HEADERS = build_http_response(431).data
_NON_GRPC_TIMEOUT = 5.0
"""Seconds that a request which is not gRPC has to end before it is answered all the same."""
_NON_GRPC_BODY = b"This server speaks gRPC: POST with content-type application/grpc.\n"

_MAX_STATUS_MESSAGE_SIZE = 4096
"""Bytes of an encoded status message, which is cut beyond that: peers limit their header lists, by
default to 8 KiB (grpc-java) or 16 KiB (gRPC's C core)."""

_LARGE_REPLY_SIZE = 64 * 1024
"""Bytes of a reply from which on calls of its method are taken to need as much."""

_OK = purerpc.StatusCode.OK
_PurerpcStatus = tuple[purerpc.StatusCode, str]
_SERVER_STOPPED = (purerpc.StatusCode.UNAVAILABLE, SERVER_STOPPED_MESSAGE)


def encode_server_status(connection: Connection, code: purerpc.StatusCode, message: str) -> bytes:
    """The trailers of a call that the server ends by itself, for its own list or behind a head."""
    room = (
        connection.engine.max_send_header_list_size
        - DEFAULT_RESPONSE_HEADERS.list_size
        - ACCEPT_ENCODING.list_size
    )
    return build_trailers(
        code.value, message, max_size=room, max_message_size=_MAX_STATUS_MESSAGE_SIZE
    ).data


@attrs.frozen
class UnavailableService:
    """What is found in place of a handler if the servicer could not be made this time."""

    reason: str


def reject_if_unservable(
    connection: ServerConnection,
    stream_id: int,
    headers: RequestHeaders,
    handler: Handler | UnavailableService | None,
) -> CallStatus | None:
    """Answer a call that no handler can take; None where there is nothing against it."""
    unimplemented = purerpc.StatusCode.UNIMPLEMENTED
    if handler is None:
        return send_trailers_only(
            connection, stream_id, unimplemented, f"{headers.path} is unknown"
        )
    if isinstance(handler, UnavailableService):
        unavailable = purerpc.StatusCode.UNAVAILABLE
        return send_trailers_only(connection, stream_id, unavailable, handler.reason)
    if headers.encoding not in ENCODINGS:
        message = f"messages in encoding {headers.encoding!r} are not understood"
        return send_trailers_only(
            connection, stream_id, unimplemented, message, ACCEPT_ENCODING.data
        )
    return None


def send_trailers_only(
    connection: ServerConnection,
    stream_id: int,
    code: purerpc.StatusCode,
    message: str,
    extra_headers: bytes = b"",
) -> CallStatus:
    """Give a status before anything of the call is looked at; `more` goes with its head."""
    # One read may have brought the request and its end.
    if connection.engine.is_send_open(stream_id):
        block = (
            DEFAULT_RESPONSE_HEADERS.data
            + extra_headers
            + encode_server_status(connection, code, message)
        )
        connection.engine.send_headers(stream_id, block, end_stream=True)
        connection.finish_stream(stream_id)
    connection.counters.failed += 1
    return code.value, message


def respond_header_list_too_large(connection: ServerConnection, stream_id: int) -> None:
    """Answer a request that is not gRPC and whose header list is over the limit (RFC 6585 §5)."""
    if connection.engine.is_send_open(stream_id):
        connection.engine.send_headers(stream_id, _TOO_LARGE_HEADERS, end_stream=True)
        connection.finish_stream(stream_id)


async def respond_non_grpc(stream: Stream) -> None:
    """Tell whoever sent something other than gRPC what this is: a browser, curl, a test tool."""
    try:
        with contextlib.suppress(purerpc.RpcFailedError):
            with trio.move_on_after(_NON_GRPC_TIMEOUT):
                await stream.receive()
            await stream.send_data(_NON_GRPC_BODY, headers=_NON_GRPC_HEADERS, end_stream=True)
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
        return _parse_request(self._parse, data)


class ServerCall:
    """One call on a server, from its head to its status."""

    __slots__ = (
        "_connection",
        "_context",
        "_handler",
        "_headers",
        "_started_at",
        "_stream",
        "_tracer",
    )

    def __init__(
        self,
        connection: ServerConnection,
        stream: Stream,
        handler: Handler,
        headers: RequestHeaders,
        tracer: ServerTracer | None = None,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._handler = handler
        self._headers = headers
        self._context = ServerContext(stream, headers)
        self._started_at = connection.load_recorder.start_call() if handler.is_counted else 0.0
        self._tracer: ServerCallTracer | None = None
        if tracer is not None:
            try:
                self._tracer = tracer.start_call(self._context, handler.method, stream)
            except BaseException as exc:
                self._on_tracer_error(exc)

    async def run(self) -> None:
        """Run the handler to its end and send the status. Raises nothing but cancellation.

        The handler is cancelled when the caller resets the stream or is lost, when the caller's
        deadline passes, and when the server is stopped; the last two are told to the caller.
        Whatever else it raises, `BaseException` included, fails this call alone; SystemExit and
        KeyboardInterrupt make the server drain and raise them from `Server.serve`.
        """
        status: _PurerpcStatus | None = _SERVER_STOPPED
        current_context.set(self._context)
        if self._tracer is not None:
            self._notify_tracer(self._tracer.before_handler)
        try:
            with self._make_cancel_scope() as scope:
                try:
                    if self._connection.interceptors:
                        reply = await self._run_with_interceptors()
                    else:
                        reply = await self._run_handler()
                    if not self._handler.method.server_streams:
                        await self._send_reply(reply, is_last=True)
                        status = None  # It went out with the reply.
                    elif (status := self._send_status(_OK, ""))[0] is _OK:
                        status = None
                except Exception as exc:
                    status = self._status_for_exception(unwrap_exception_group(exc))
            if scope.cancelled_caught:
                status = self._status_when_cancelled()
        except BaseException as exc:
            # Cancelled from outside, or what is no Exception (asyncio.CancelledError, say), or a
            # clean-up that failed while it was cancelled.
            cancelled, error = split_cancelled(exc)
            if error is not None:
                status = self._status_for_exception(error)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._complete(status)

    def _complete(self, status: _PurerpcStatus | None) -> None:
        """Tell everybody how it ended; `status` is None where it was OK, and has gone out."""
        self._stream.cancel_on_error = None
        if status is None:
            self._connection.counters.succeeded += 1
        else:
            if status is _SERVER_STOPPED and self._connection.server.is_exiting:
                self._connection.abandon_stream(self._stream)
            else:
                status = self._send_status(*status)
            self._connection.counters.failed += 1
        self._stream.reset(ErrorCode.NO_ERROR)
        if self._handler.is_counted:
            self._connection.load_recorder.end_call(self._started_at, failed=status is not None)
        self._connection.release_handler_slot()
        if self._tracer is not None:
            outcome = STATUS_OK if status is None else (status[0].value, status[1])
            self._notify_tracer(self._tracer.call_ended, outcome)

    def _notify_tracer(self, method: Callable[..., None], *args: object) -> None:
        """Call a tracer, which must not raise; if it does, that fails no call."""
        try:
            method(*args)
        except BaseException as exc:
            self._on_tracer_error(exc)

    def _on_tracer_error(self, exc: BaseException) -> None:
        log_tracer_error(self._headers.path, exc)
        exit_error = find_exit_exception(exc)
        if exit_error is not None:
            self._connection.server.request_exit(exit_error)

    def _make_cancel_scope(self) -> trio.CancelScope:
        """What the handler runs in: ended by the caller's deadline, and with the stream."""
        timeout = self._headers.timeout
        deadline = math.inf if timeout is None else trio.current_time() + timeout
        scope = self._stream.cancel_on_error = trio.CancelScope(deadline=deadline)
        return scope

    def _status_when_cancelled(self) -> _PurerpcStatus:
        failure = self._stream.error
        if failure is not None:
            return failure.status.status_code, failure.status.status_message
        return purerpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed in the handler"

    async def _run_with_interceptors(self) -> Any:
        """The same as `_handle`, within the server's interceptors; what they add goes out too."""
        async with contextlib.AsyncExitStack() as stack:
            for interceptor in self._connection.interceptors:
                await stack.enter_async_context(interceptor(self._context))
            return await self._run_handler()

    async def _run_handler(self) -> Any:
        """Run the handler; gives the reply of one that has but one."""
        if self._stream.error is not None:
            raise self._stream.error
        method = self._handler.method
        ledger = self._stream.account
        if ledger is not None and ledger.peer_account.working and self._handler.is_counted:
            await ledger.wait_for_work_budget()
        if self._connection.server.reply_sizes:
            self._charge_expected_reply(method.path)
        if method.client_streams:
            argument: Any = RequestMessages(self._stream, method.request_type)
        else:
            argument = await self._receive_single_request()
        result = self._handler.function(argument, request=self._context)
        if inspect.iscoroutine(result):
            # For a streamed reply too: such a method as protoc-gen-purerpc leaves it is one.
            result = await result
        elif not method.server_streams:
            raise TypeError("the handler is not an async function")
        if method.server_streams:
            await self._send_replies(result)
        return result

    def _charge_expected_reply(self, path: str) -> None:
        """Count what a reply of the method is likely to need; less and less while none is large."""
        sizes = self._connection.server.reply_sizes
        size = sizes.pop(path, 0)
        if size > _LARGE_REPLY_SIZE:
            sizes[path] = size - (size >> 5)
            self._stream.charge_sending(size)

    async def _receive_single_request(self) -> Any:
        data = await self._stream.receive_single_request()
        return _parse_request(self._handler.method.request_type.FromString, data)

    async def _send_replies(self, replies: Any) -> None:
        if not hasattr(replies, "__aiter__"):
            raise TypeError("the handler of a streaming reply is not an async generator")
        if hasattr(replies, "aclose"):
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    await self._send_reply(reply)
        else:
            async for reply in replies:
                await self._send_reply(reply)

    async def _send_reply(self, reply: Any, *, is_last: bool = False) -> None:
        method = self._handler.method
        if not isinstance(reply, method.response_type):
            expected = method.response_type.__name__
            raise TypeError(f"the handler gave {type(reply).__name__} instead of {expected}")
        data = reply.SerializeToString()
        if len(data) > _LARGE_REPLY_SIZE:
            sizes = self._connection.server.reply_sizes
            sizes[method.path] = max(len(data), sizes.get(method.path, 0))
        request = self._context
        head = trailers = b""
        if not self._stream.headers_sent:
            block = self._encode_headers()
            head = (
                DEFAULT_RESPONSE_HEADERS.data
                if block is DEFAULT_RESPONSE_HEADERS
                else self._ensure_fits_peer(block)
            )
        if is_last and not request.trailing_metadata:
            trailers = OK_TRAILERS.data
        elif is_last:
            trailers = self._ensure_fits_peer(self._encode_trailers(_OK, ""))
        compressed = request.compress and self._negotiated_encoding() != IDENTITY
        await self._stream.send(data, compressed=compressed, headers=head, trailers=trailers)

    def _negotiated_encoding(self) -> str:
        """What the handler asked for, if the caller accepts it."""
        asked = self._context.compression
        if asked not in ENCODINGS:
            raise ValueError(f"compression {asked!r} is none of {', '.join(ENCODINGS)}")
        return asked if asked in self._headers.accept_encoding else IDENTITY

    def _ensure_fits_peer(self, block: HeaderBlock) -> bytes:
        """Give the bytes of a block that the client accepts. Raises ResourceExhaustedError."""
        limit = self._connection.engine.max_send_header_list_size
        if block.list_size > limit:
            text = header_list_too_large_message("response", block.list_size, limit)
            raise purerpc.ResourceExhaustedError(text)
        return block.data

    def _encode_trailers(
        self, code: purerpc.StatusCode, message: str, headers_size: int = 0
    ) -> HeaderBlock:
        """The trailers, with a message that leaves room for a head of so many bytes."""
        request = self._context
        metadata = encode_metadata(tuple(request.trailing_metadata))
        if code is _OK:
            return build_trailers(0, metadata=metadata) if metadata else OK_TRAILERS
        room = self._connection.engine.max_send_header_list_size - headers_size
        return build_trailers(
            code.value,
            message,
            request.status_details,
            metadata,
            max_size=room,
            max_message_size=_MAX_STATUS_MESSAGE_SIZE,
        )

    def _encode_headers(self) -> HeaderBlock:
        request = self._context
        if not request.initial_metadata and request.compression == IDENTITY:
            return DEFAULT_RESPONSE_HEADERS
        return build_response_headers(
            encoding=self._negotiated_encoding(),
            metadata=encode_metadata(tuple(request.initial_metadata)),
        )

    def _status_for_exception(self, exc: BaseException) -> _PurerpcStatus:
        """The caller learns a status the handler chose; what else went wrong stays in our log."""
        path = self._headers.path
        if isinstance(exc, purerpc.RpcFailedError) and exc.status.status_code is not _OK:
            return exc.status.status_code, exc.status.status_message
        if isinstance(exc, NotImplementedError):
            return purerpc.StatusCode.UNIMPLEMENTED, f"{path} is not implemented"
        exit_error = find_exit_exception(exc)
        if exit_error is not None:
            _log.warning("%s: the handler raised %r; draining, then exiting", path, exit_error)
            self._connection.server.request_exit(exit_error)
            return _SERVER_STOPPED
        _log.error("%s: the handler raised", path, exc_info=exc)
        return purerpc.StatusCode.UNKNOWN, f"{path}: the handler failed; the plugin's log says why"

    def _send_status(self, code: purerpc.StatusCode, message: str) -> _PurerpcStatus:
        """Send the status, unless the stream is over already. Never blocks.

        Gives the one that goes out: what cannot be sent has the call fail.
        """
        connection, stream = self._connection, self._stream
        if not connection.engine.is_send_open(stream.id):
            return code, message
        try:
            blocks = self._encode_status(code, message)
        except Exception as exc:
            code, message = self._drop_metadata(exc)
            blocks = self._encode_status(code, message)
        for block in blocks[:-1]:
            connection.engine.send_headers(stream.id, block)
        connection.engine.send_headers(stream.id, blocks[-1], end_stream=True)
        connection.flush()
        return code, message

    def _drop_metadata(self, exc: Exception) -> _PurerpcStatus:
        """Leave out the handler's metadata, which cannot be sent; give the status instead."""
        _log.error("%s: the handler's metadata cannot be sent: %s", self._headers.path, exc)
        request = self._context
        request.initial_metadata = request.trailing_metadata = ()
        request.status_details = b""
        request.compression = IDENTITY
        if isinstance(exc, purerpc.ResourceExhaustedError):
            return exc.status.status_code, exc.status.status_message
        return purerpc.StatusCode.UNKNOWN, "the handler's metadata cannot be sent"

    def _encode_status(self, code: purerpc.StatusCode, message: str) -> list[bytes]:
        """Trailers; where no reply went before, with the head in one block (Trailers-Only), or in
        two if there is initial metadata, which one block could not tell apart."""
        if self._stream.headers_sent:
            return [self._ensure_fits_peer(self._encode_trailers(code, message))]
        head = self._encode_headers()
        if self._context.initial_metadata:
            return [
                self._ensure_fits_peer(head),
                self._ensure_fits_peer(self._encode_trailers(code, message)),
            ]
        return [self._ensure_fits_peer(head + self._encode_trailers(code, message, head.list_size))]


def _parse_request(parse: Any, data: bytes) -> Any:
    try:
        return parse(data)
    except Exception:
        message = "a request message cannot be parsed as its protobuf type"
        raise purerpc.InternalError(message) from None
