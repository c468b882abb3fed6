"""A small HTTP/1.1 server on trio, for the metrics and the dashboard (h11, of their extras).

`HttpServer.serve` accepts connections and passes each request to a handler, one at a time for each
connection. h11 parses; everything that a client may keep the server waiting for has a time limit,
and everything that it may send has a size limit. If all connections are in use, the one that has
waited longest for a request makes room for a new one, so that idle clients cannot lock others out.

Invariant: no client and no bug of a handler ends the server. An exception is logged, is answered
with status 500 if nothing was sent yet, and ends its connection.
"""

from __future__ import annotations

import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import attrs
import h11
import trio

from meshtrio.transport.acceptor import Acceptor
from meshtrio.util.concurrency import open_collapsing_nursery

_READ_SIZE = 16 * 1024
"""Size in bytes of a read, and maximum size of a request's head."""
_CHUNK_SIZE = 64 * 1024
_LINGER_TIMEOUT = 1.0
"""Seconds for which requests are read that are not answered."""
_MAX_LINGER_READS = 64

TEXT_HEADERS: HttpHeaders = (("content-type", "text/plain; charset=utf-8"),)

HttpHeaders = Sequence[tuple[str, str]]
SendChunk = Callable[[bytes], Awaitable[None]]
"""Sends a part of a body. Raises BrokenResourceError or TooSlowError if the client is gone."""


@attrs.frozen
class HttpLimits:
    """Limits of a server. Times are in seconds."""

    max_connections: int
    idle_timeout: float
    """To receive a request, and to send each chunk of its response."""
    send_timeout: float
    """To send a whole response, unless it is a stream."""
    stream_timeout: float = math.inf
    """To send each chunk of a stream."""
    keep_alive: bool = False
    """Whether a connection may serve more than one request."""


@attrs.frozen
class HttpResponse:
    """The response to a request."""

    status: int
    headers: HttpHeaders = ()
    """Without those of the framing."""
    body: bytes = b""
    stream: Callable[[SendChunk], Awaitable[None]] | None = None
    """Sends the body bit by bit instead, until it returns; cancelled if the client goes away."""


class HttpError(Exception):
    """A request that is answered with a status and a line of text. The connection is closed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class HttpRequest:
    """A request; its body is read on demand."""

    def __init__(self, connection: _Connection, head: h11.Request) -> None:
        self._connection = connection
        self.method = head.method.decode("ascii")
        path, _, query = head.target.decode("latin-1").partition("?")
        self.path = path
        """As it was sent, not decoded."""
        self.query = query
        """What follows the `?`, not decoded."""
        self.headers: dict[str, str] = {}
        """By name, in lower case; values of a field that was sent repeatedly are joined."""
        for name, value in head.headers:
            key, text = name.decode("ascii"), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    @property
    def peer(self) -> tuple[str, int]:
        """Host and port of the client."""
        return self._connection.peer

    @property
    def local(self) -> tuple[str, int]:
        """Host and port that the client has connected to."""
        return self._connection.local

    async def read_body(self, max_size: int) -> bytes:
        """Read the body. Raises HttpError if it is larger."""
        return await self._connection.read_body(max_size)


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


class HttpServer:
    """Serves HTTP on one listening socket."""

    def __init__(
        self,
        handle: Handler,
        limits: HttpLimits,
        log: logging.Logger,
        *,
        headers: HttpHeaders = (),
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Do nothing until `serve`.

        Args:
            handle: Makes the response to a request.
            limits: The limits.
            log: Where exceptions are logged, and at debug level what clients do wrong.
            headers: What each response has, in addition to its own.
            ssl_context: For TLS; None for plaintext.
        """
        self._handle = handle
        self._limits = limits
        self._log = log
        self._headers = headers
        self._ssl_context = ssl_context
        self._connections: dict[_Connection, None] = {}
        """In the order in which they began to wait for a request, those in use last."""

    async def serve(
        self,
        listener: socket.socket,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled. The socket, which is closed, is usable when this has started."""

        def take(accepted: socket.socket, exhausted: bool) -> None:
            if exhausted or not self._make_room():
                accepted.close()  # A response may need more descriptors than this one.
                return
            accepted.setblocking(False)
            nursery.start_soon(self._serve_connection, accepted)

        async with trio.open_nursery() as nursery:
            acceptor = Acceptor(take)
            acceptor.listen(listener)
            task_status.started()
            await acceptor.run()

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest, if all are in use."""
        # Those that are closed already leave the table as soon as their tasks run.
        open_ones = [each for each in self._connections if not each.scope.cancel_called]
        if len(open_ones) < self._limits.max_connections:
            return True
        for each in open_ones:
            if each.is_idle:
                each.scope.cancel()
                return True
        return False

    async def _serve_connection(self, accepted: socket.socket) -> None:
        connection = None
        try:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
            async with stream:
                connection = _Connection(stream, self._limits, accepted)
                self._connections[connection] = None
                with connection.scope:
                    if self._ssl_context is not None:
                        await connection.start_tls(self._ssl_context)
                    await self._serve_requests(connection)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._log.debug("connection aborted: %r", exc)
        except trio.TooSlowError:
            self._log.debug("connection aborted: the client is too slow")
        except Exception:
            self._log.exception("serving a connection failed")
        finally:
            if connection is not None:
                del self._connections[connection]

    async def _serve_requests(self, connection: _Connection) -> None:
        while True:
            connection.is_idle = True
            self._connections[connection] = self._connections.pop(connection)
            try:
                request = await connection.read_request()
                if request is None:
                    return
                connection.is_idle = False
                response = await self._make_response(request)
            except h11.RemoteProtocolError as exc:
                self._log.debug("malformed request: %s", exc)
                response = _make_error(exc.error_status_hint, "Expected an HTTP/1.1 request.")
            headers = [*response.headers, *self._headers]
            await connection.send_response(attrs.evolve(response, headers=headers))
            if not connection.start_next_cycle():
                await connection.close()
                return

    async def _make_response(self, request: HttpRequest) -> HttpResponse:
        try:
            return await self._handle(request)
        except HttpError as exc:
            return _make_error(exc.status, str(exc))
        except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception:
            # A bug: this request fails, the server goes on.
            self._log.exception("answering %s %s failed", request.method, request.path[:200])
            return HttpResponse(500, TEXT_HEADERS, b"An error of the server; see its log.\n")


class _Connection:
    """One connection of a client."""

    def __init__(self, stream: trio.SocketStream, limits: HttpLimits, sock: socket.socket) -> None:
        self.scope = trio.CancelScope()
        self.is_idle = True
        """Whether it waits for a request."""
        self.peer: tuple[str, int] = sock.getpeername()[:2]
        self.local: tuple[str, int] = sock.getsockname()[:2]
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        self._limits = limits
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=_READ_SIZE)
        self._method = b""

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Perform the handshake. Raises BrokenResourceError or TooSlowError."""
        assert isinstance(self._stream, trio.SocketStream)
        self._stream = trio.SSLStream(
            self._stream, context, server_side=True, https_compatible=True
        )
        with trio.fail_after(self._limits.idle_timeout):
            await self._stream.do_handshake()

    # -- requests ----------------------------------------------------------------------------

    async def read_request(self) -> HttpRequest | None:
        """Read the head of a request; None if the client sends none.

        Raises h11.RemoteProtocolError.
        """
        self._method = b""
        with trio.move_on_after(self._limits.idle_timeout):
            event = await self._read_event()
            if not isinstance(event, h11.Request):
                return None
            if not event.http_version.startswith(b"1."):
                raise h11.RemoteProtocolError("not HTTP/1", error_status_hint=505)
            self._method = event.method
            return HttpRequest(self, event)
        return None

    async def read_body(self, max_size: int) -> bytes:
        """Read the rest of a request. Raises HttpError or h11.RemoteProtocolError."""
        body = bytearray()
        with trio.move_on_after(self._limits.idle_timeout):
            if self._protocol.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            while True:
                event = await self._read_event()
                if not isinstance(event, h11.Data):
                    return bytes(body)
                body += event.data
                if len(body) > max_size:
                    raise HttpError(413, f"The body may have {max_size} bytes.")
        raise HttpError(408, "The body did not arrive in time.")

    async def _read_event(self) -> Any:
        while True:
            event: Any = self._protocol.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = await self._stream.receive_some(_READ_SIZE)
            self._protocol.receive_data(bytes(data))

    # -- responses ---------------------------------------------------------------------------

    async def send_response(self, response: HttpResponse) -> None:
        """Send a response. Raises BrokenResourceError or TooSlowError."""
        if response.stream is not None and self._method != b"HEAD":
            await self._send_stream(response, response.stream)
            return
        headers = [*response.headers, ("content-length", str(len(response.body)))]
        if not self._limits.keep_alive:
            headers.append(("connection", "close"))
        head = _make_head(response.status, headers)
        data = self._protocol.send(head) or b""
        if self._method != b"HEAD":
            data += self._protocol.send(h11.Data(data=response.body)) or b""
        self._protocol.send(h11.EndOfMessage())
        with trio.fail_after(self._limits.send_timeout):
            await self._send_all(data)

    async def _send_stream(
        self, response: HttpResponse, stream: Callable[[SendChunk], Awaitable[None]]
    ) -> None:
        """Send a body in chunks until it ends or the client goes away."""
        headers = [*response.headers, ("connection", "close")]
        await self._send(_make_head(response.status, headers))

        async def send_chunk(chunk: bytes) -> None:
            await self._send(h11.Data(data=chunk), self._limits.stream_timeout)

        async with open_collapsing_nursery() as nursery:
            nursery.start_soon(self._wait_for_end, nursery.cancel_scope)
            await stream(send_chunk)
            await self._send(h11.EndOfMessage())
            nursery.cancel_scope.cancel()

    async def _wait_for_end(self, scope: trio.CancelScope) -> None:
        """Cancel a scope when the client goes away; what it still sends is of no interest."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self._stream.receive_some(_READ_SIZE):
                pass
        scope.cancel()

    async def _send(self, event: Any, chunk_timeout: float | None = None) -> None:
        await self._send_all(self._protocol.send(event) or b"", chunk_timeout)

    async def _send_all(self, data: bytes, chunk_timeout: float | None = None) -> None:
        """Send data. Raises TooSlowError if the client takes no chunk of it in time."""
        view = memoryview(data)
        for start in range(0, len(view), _CHUNK_SIZE):
            with trio.fail_after(chunk_timeout or self._limits.idle_timeout):
                await self._stream.send_all(view[start : start + _CHUNK_SIZE])

    def start_next_cycle(self) -> bool:
        """Prepare for another request; False if the connection is to be closed."""
        try:
            if self._protocol.their_state is h11.SEND_BODY:
                self._protocol.next_event()  # The end of a request without a body.
            self._protocol.start_next_cycle()
        except (h11.LocalProtocolError, h11.RemoteProtocolError):
            return False
        return self._limits.keep_alive

    async def close(self) -> None:
        """Announce the end; the caller closes the socket.

        What the client still sends is read for a moment: a socket that is closed with unread data
        resets the connection, and the client may lose the response.
        """
        self.is_idle = True
        with trio.fail_after(self._limits.idle_timeout):
            if not isinstance(self._stream, trio.SocketStream):
                await self._stream.aclose()
                return
            await self._stream.send_eof()
        with trio.move_on_after(_LINGER_TIMEOUT):
            for _ in range(_MAX_LINGER_READS):
                if not await self._stream.receive_some(_READ_SIZE):
                    return


def _make_error(status: int, text: str) -> HttpResponse:
    """Return a response after which the connection is closed."""
    return HttpResponse(status, [*TEXT_HEADERS, ("connection", "close")], f"{text}\n".encode())


def _make_head(status: int, headers: HttpHeaders) -> h11.Response:
    return h11.Response(status_code=status, headers=list(headers), reason=HTTPStatus(status).phrase)
