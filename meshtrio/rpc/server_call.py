"""Serving one call: the handler runs in a scope that the caller's deadline and reset cancel."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import CoroutineType
from typing import Any, Protocol

import purerpc
import trio

from meshtrio.grpc import header_builder
from meshtrio.grpc.framing import ENCODINGS, IDENTITY, MessageData
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.metadata import encode_metadata
from meshtrio.grpc.status import STATUS_OK, CallStatus, StatusCode, header_list_too_large_message
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.hpack.encoder import HeaderBlock
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.context import ServerContext, current_context
from meshtrio.rpc.errors import status_of_error
from meshtrio.rpc.method import Handler
from meshtrio.rpc.rejection import MAX_STATUS_MESSAGE_SIZE
from meshtrio.rpc.stats import LoadRecorder
from meshtrio.rpc.stream import SERVER_STOPPED_MESSAGE, Stream
from meshtrio.rpc.tracer import ServerCallTracer, ServerTracer
from meshtrio.rpc.tracer_dispatch import log_tracer_error
from meshtrio.rpc.write_buffer import MessageBatch
from meshtrio.util.concurrency import call_before_waiting, find_exit_exception, split_cancelled
from meshtrio.util.errors import unwrap_exception_group
from meshtrio.util.message_buffers import MESSAGE_BUFFERS
from meshtrio.util.no_public_constructor import create

_log = logging.getLogger("meshtrio.rpc")

_LARGE_REPLY_SIZE = 64 * 1024
"""Size of a reply, in bytes, from which on calls of its method are expected to need as much."""

_NO_ERROR = ErrorCode.NO_ERROR
_SERVER_STOPPED = (StatusCode.UNAVAILABLE, SERVER_STOPPED_MESSAGE)
_DEADLINE_EXCEEDED = (StatusCode.DEADLINE_EXCEEDED, "the deadline passed in the handler")


ServerInterceptor = Callable[[ServerContext], AbstractAsyncContextManager[Any]]
"""Returns an async context manager that is entered around the handler of a call."""


class CallServer(Protocol):
    """The part of a server that its calls use."""

    interceptors: tuple[ServerInterceptor, ...]
    load_recorder: LoadRecorder
    reply_sizes: dict[str, int]
    tracer: ServerTracer | None

    def request_exit(self, error: BaseException) -> None: ...


class CallOwner(Connection):
    """The part of a server's connection that its calls use."""

    server: CallServer
    running_handlers = 0
    """Number of handlers that have not ended, including those whose stream is closed."""

    def abandon_if_exiting(self, stream: Stream) -> bool:
        """Drop a call without a response if a handler has requested the end of the process.

        Its caller then sees the exit of the process. Returns whether that is so.
        """
        raise NotImplementedError


class RequestMessages(AsyncIterator[Any]):
    """Iterates over the messages that a client streams."""

    def __init__(self, stream: Stream, request_type: Any) -> None:
        self._stream = stream
        self._parse = request_type.FromString

    async def __anext__(self) -> Any:
        data = await self._stream.receive()
        if data is None:
            raise StopAsyncIteration
        return _parse_request(self._parse, data)


class ServerCall:
    """One call on a server, from its request headers to its status."""

    __slots__ = (
        "_connection",
        "_context",
        "_handler",
        "_headers",
        "_is_complete",
        "_started_at",
        "_stream",
        "_tracer",
        "path",
        "timeout",
    )

    def __init__(
        self, connection: CallOwner, stream: Stream, handler: Handler, headers: RequestHeaders
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._handler = handler
        self._headers = headers
        self._context = create(ServerContext, stream, headers)
        self.path = headers.path
        """The `:path` of the call."""
        self.timeout = headers.timeout
        """Seconds until the caller's deadline; None if it has none."""
        self._is_complete = False
        server = connection.server
        recorder = server.load_recorder
        self._started_at = recorder.start_call(headers.path) if handler.is_counted else 0.0
        self._tracer: ServerCallTracer | None = None
        if (tracer := server.tracer) is not None:
            try:
                self._tracer = tracer.start_call(self._context, handler.method, stream)
            except BaseException as exc:
                self._on_tracer_error(exc)

    async def run(self, scope: trio.CancelScope) -> bool:
        """Run the handler to its end and send the status. Raises nothing but BaseException.

        The handler is cancelled if the caller resets the stream or is lost, if the caller's
        deadline passes, and if the server is stopped; in the last two cases the caller gets a
        status. An exception of the handler, `BaseException` included, fails this call only;
        SystemExit and KeyboardInterrupt make the server drain and are raised by `Server.serve`.

        Args:
            scope: The scope that this runs in; it is cancelled with the call.

        Returns:
            Whether the scope was not cancelled, so that it may serve another call.
        """
        status: CallStatus | None
        current_context.set(self._context)
        if self._tracer is not None:
            self._notify_tracer(self._tracer.before_handler)
        stream = self._stream
        stream.cancel_on_error = scope
        try:
            if self.timeout is not None:
                await trio.lowlevel.checkpoint_if_cancelled()
            interceptors = self._connection.server.interceptors
            reply = await (
                self._run_with_interceptors(interceptors) if interceptors else self._run_handler()
            )
            if not self._handler.method.server_streams:
                await self._send_reply(reply, is_last=True)
                status = None  # It was sent with the reply.
            elif not (status := self._send_status(*STATUS_OK))[0]:
                status = None
        except Exception as exc:
            status = self._status_for_exception(unwrap_exception_group(exc))
        self._complete(status)
        return stream.error is None and (self.timeout is None or not scope.cancel_called)

    def end_after(self, exc: BaseException | None) -> None:
        """End the call if `run` has raised; see `HandledCall.end_after`."""
        if exc is None:
            if not self._is_complete:
                error = self._stream.error
                self._complete(_DEADLINE_EXCEEDED if error is None else status_of_error(error))
            return
        # Cancelled from outside, or a BaseException (asyncio.CancelledError, say), or a clean-up
        # that failed while it was cancelled.
        cancelled, other = split_cancelled(exc)
        status = _SERVER_STOPPED if other is None else self._status_for_exception(other)
        if not self._is_complete:
            self._complete(status)
        if cancelled is not None:
            raise cancelled from None

    def _complete(self, status: CallStatus | None) -> None:
        """Report how the call ended; `status` is None if it is OK and was sent."""
        self._is_complete = True
        self._stream.cancel_on_error = None
        if status is None:
            self._connection.counters.succeeded += 1
        else:
            is_stopped = status is _SERVER_STOPPED
            if not (is_stopped and self._connection.abandon_if_exiting(self._stream)):
                status = self._send_status(*status)
            self._connection.counters.failed += 1
        self._stream.reset(_NO_ERROR)
        if self._handler.is_counted:
            recorder = self._connection.server.load_recorder
            recorder.end_call(self._started_at, self.path, status)
        self._connection.running_handlers -= 1
        if self._tracer is not None:
            self._notify_tracer(self._tracer.call_ended, status or STATUS_OK)

    def _notify_tracer(self, method: Callable[..., None], *args: object) -> None:
        """Call a tracer; if it raises, that is logged and does not fail the call."""
        try:
            method(*args)
        except BaseException as exc:
            self._on_tracer_error(exc)

    def _on_tracer_error(self, exc: BaseException) -> None:
        log_tracer_error(self._headers.path, exc)
        exit_error = find_exit_exception(exc)
        if exit_error is not None:
            self._connection.server.request_exit(exit_error)

    async def _run_with_interceptors(self, interceptors: Sequence[ServerInterceptor]) -> Any:
        """Run the handler within interceptors, which may add metadata.

        By recursion, since an AsyncExitStack takes 2 KiB for each open call.
        """
        if not interceptors:
            return await self._run_handler()
        async with interceptors[0](self._context):
            return await self._run_with_interceptors(interceptors[1:])

    async def _run_handler(self) -> Any:
        """Run the handler; return the reply of a method with a single reply."""
        if self._stream.error is not None:
            raise self._stream.error
        method = self._handler.method
        account = self._stream.account
        if account is not None and account.peer_account.working and self._handler.is_counted:
            await account.wait_for_work_budget()
        if self._connection.server.reply_sizes:
            self._charge_expected_reply(method.path)
        if method.client_streams:
            argument: Any = RequestMessages(self._stream, method.request_type)
        else:
            stream = self._stream
            data = stream.try_receive_single_request()
            if data is None:
                data = await stream.receive_single_request()
            argument = _parse_request(method.request_type.FromString, data)
        result = self._handler.function(argument, request=self._context)
        if isinstance(result, CoroutineType):
            # protoc-gen-purerpc's placeholder of a streaming method is a coroutine function, too.
            result = await result
        elif not method.server_streams:
            raise TypeError("the handler is not an async function")
        if method.server_streams:
            await self._send_replies(result)
        return result

    def _charge_expected_reply(self, path: str) -> None:
        """Charge the expected size of the reply, which decays while no reply is large."""
        sizes = self._connection.server.reply_sizes
        size = sizes.pop(path, 0)
        if size > _LARGE_REPLY_SIZE:
            sizes[path] = size - (size >> 5)
            self._stream.charge_sending(size)

    async def _send_replies(self, replies: Any) -> None:
        if not hasattr(replies, "__aiter__"):
            raise TypeError("the handler of a streaming reply is not an async generator")
        can_close, context, stream = hasattr(replies, "aclose"), self._context, self._stream
        batch, iterator = MessageBatch(self._connection.flush), aiter(replies)
        async with contextlib.aclosing(replies) if can_close else contextlib.nullcontext():
            while True:
                try:
                    reply = await call_before_waiting(anext(iterator), batch.flush)
                except StopAsyncIteration:
                    return
                if context.compression != IDENTITY or not stream.headers_sent:
                    await self._send_reply(reply)
                elif not stream.try_send(data := self._serialize(reply), batch=batch):
                    await stream.send(data)

    def _serialize(self, reply: Any) -> bytes:
        """Serialize a reply, and remember the size of a large one."""
        method = self._handler.method
        if not isinstance(reply, method.response_type):
            expected = method.response_type.__name__
            raise TypeError(f"the handler returned {type(reply).__name__} instead of {expected}")
        data: bytes = reply.SerializeToString()
        if len(data) > _LARGE_REPLY_SIZE:
            sizes = self._connection.server.reply_sizes
            sizes[method.path] = max(len(data), sizes.get(method.path, 0))
        return data

    async def _send_reply(self, reply: Any, *, is_last: bool = False) -> None:
        data, context = self._serialize(reply), self._context
        headers = trailers = b""
        if not self._stream.headers_sent:
            block = self._encode_headers()
            is_default = block is header_builder.DEFAULT_RESPONSE_HEADERS
            headers = block.data if is_default else self._ensure_fits_peer(block)
        if is_last and not context.trailing_metadata:
            trailers = header_builder.OK_TRAILERS.data
        elif is_last:
            trailers = self._ensure_fits_peer(self._encode_trailers(*STATUS_OK))
        may_compress = context.compress and context.compression != IDENTITY
        compressed = may_compress and self._negotiated_encoding() != IDENTITY
        stream = self._stream
        if compressed or not stream.try_send(data, headers, trailers):
            await stream.send(data, compressed=compressed, headers=headers, trailers=trailers)

    def _negotiated_encoding(self) -> str:
        """Return the encoding that the handler has set, if the caller accepts it."""
        encoding = self._context.compression
        if encoding not in ENCODINGS:
            choices = ", ".join(ENCODINGS)
            raise ValueError(f"unknown compression {encoding!r}; choose from {choices}")
        return encoding if encoding in self._headers.accept_encoding else IDENTITY

    def _ensure_fits_peer(self, block: HeaderBlock) -> bytes:
        """Return the bytes of a block. Raises ResourceExhaustedError if it is too large."""
        limit = self._connection.peer_settings.max_header_list_size
        if block.list_size > limit:
            text = header_list_too_large_message("response", block.list_size, limit)
            raise purerpc.ResourceExhaustedError(text)
        return block.data

    def _encode_trailers(self, code: int, message: str, headers_size: int = 0) -> HeaderBlock:
        """Encode trailers that fit together with response headers of a size, in bytes."""
        context = self._context
        metadata = encode_metadata(tuple(context.trailing_metadata))
        if not code:
            without = header_builder.OK_TRAILERS
            return header_builder.build_trailers(0, metadata=metadata) if metadata else without
        room = self._connection.peer_settings.max_header_list_size - headers_size
        return header_builder.build_trailers(
            code,
            message,
            context.status_details,
            metadata,
            max_size=room,
            max_message_size=MAX_STATUS_MESSAGE_SIZE,
        )

    def _encode_headers(self) -> HeaderBlock:
        context = self._context
        if not context.initial_metadata and context.compression == IDENTITY:
            return header_builder.DEFAULT_RESPONSE_HEADERS
        return header_builder.build_response_headers(
            encoding=self._negotiated_encoding(),
            metadata=encode_metadata(tuple(context.initial_metadata)),
        )

    def _status_for_exception(self, exc: BaseException) -> CallStatus:
        """Return the status that the handler chose, or UNKNOWN and log any other exception."""
        path = self._headers.path
        if isinstance(exc, purerpc.RpcFailedError) and (status := status_of_error(exc))[0]:
            return status
        if isinstance(exc, NotImplementedError):
            return StatusCode.UNIMPLEMENTED, f"{path} is not implemented"
        exit_error = find_exit_exception(exc)
        if exit_error is not None:
            _log.warning("%s: the handler raised %r; draining, then exiting", path, exit_error)
            self._connection.server.request_exit(exit_error)
            return _SERVER_STOPPED
        _log.error("%s: the handler raised", path, exc_info=exc)
        return StatusCode.UNKNOWN, f"{path}: the handler failed; see the plugin's log"

    def _send_status(self, code: int, message: str) -> CallStatus:
        """Send the status unless the stream is closed. Never blocks.

        Returns the status that was sent: another one if the handler's metadata cannot be sent.
        """
        connection, stream = self._connection, self._stream
        if not connection.is_send_open(stream.id):
            return code, message
        try:
            blocks = self._encode_status(code, message)
        except Exception as exc:
            code, message = self._drop_metadata(exc)
            blocks = self._encode_status(code, message)
        for block in blocks[:-1]:
            connection.send_headers(stream.id, block)
        connection.send_headers(stream.id, blocks[-1], end_stream=True)
        connection.flush()
        return code, message

    def _drop_metadata(self, exc: Exception) -> CallStatus:
        """Drop the handler's metadata, which cannot be sent, and return the status that says so."""
        _log.error("%s: the handler's metadata cannot be sent: %s", self._headers.path, exc)
        context = self._context
        context.initial_metadata = context.trailing_metadata = ()
        context.status_details = b""
        context.compression = IDENTITY
        if isinstance(exc, purerpc.ResourceExhaustedError):
            return status_of_error(exc)
        return StatusCode.UNKNOWN, "the handler's metadata cannot be sent"

    def _encode_status(self, code: int, message: str) -> list[bytes]:
        """Encode the trailers, preceded by the response headers if those were not sent.

        Both are one block (Trailers-Only) without initial metadata, which a single block could not
        tell from trailing metadata, and two blocks with it.
        """
        if self._stream.headers_sent:
            return [self._ensure_fits_peer(self._encode_trailers(code, message))]
        headers = self._encode_headers()
        if self._context.initial_metadata:
            blocks = [headers, self._encode_trailers(code, message)]
        else:
            blocks = [headers + self._encode_trailers(code, message, headers.list_size)]
        return [self._ensure_fits_peer(block) for block in blocks]


def _parse_request(parse: Any, data: MessageData) -> Any:
    try:
        return MESSAGE_BUFFERS.parse(parse, data) if type(data) is bytearray else parse(data)
    except Exception:
        message = "a request message cannot be parsed as its protobuf type"
        raise purerpc.InternalError(message) from None
