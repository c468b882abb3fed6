"""HTTP/1.1 connections of browsers, by h11 (extra `dashboard`).

A connection serves one request after the other. It ends if the client sends no request, reads
nothing, or sends something that is not HTTP: none of that affects another connection.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

import h11
import trio

from meshtrio.dashboard.requests import HttpError, Request, Response
from meshtrio.util.concurrency import open_collapsing_nursery

_log = logging.getLogger("meshtrio.dashboard")

_REQUEST_TIMEOUT = 10.0
"""Seconds to receive a request once a connection is open or its previous request was answered."""
_SEND_TIMEOUT = 20.0
"""Seconds in which the client has to take each part of a response."""
_MAX_HEAD_SIZE = 32 * 1024
_MAX_BODY_SIZE = 64 * 1024
_READ_SIZE = 16 * 1024
_PART_SIZE = 64 * 1024
"""Maximum size of what is sent at once."""
_MAX_QUERY_FIELDS = 50

Handler = Callable[[Request], Awaitable[Response]]
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


class HttpConnection:
    """One connection of a browser."""

    def __init__(
        self, stream: trio.abc.Stream, peer: str, local_host: str, headers: tuple[Any, ...]
    ) -> None:
        """Serve on a stream that the caller closes; `headers` are those of all responses."""
        self._stream = stream
        self._peer, self._local_host = peer, local_host
        self._headers = headers
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_SIZE)

    async def serve(self, handle: Handler) -> None:
        """Answer requests until the connection ends, or must not be used further."""
        try:
            while True:
                method = ""
                try:
                    with trio.fail_after(_REQUEST_TIMEOUT):
                        request = await self._receive_request()
                except h11.RemoteProtocolError as exc:
                    status = exc.error_status_hint
                    response = HttpError(status, "INVALID_ARGUMENT", str(exc)).to_response()
                except HttpError as exc:
                    response = exc.to_response()
                else:
                    if request is None:
                        return
                    method = request.method
                    response = await _handle(handle, request)
                await self._send_response(response, is_head=method == "HEAD")
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
        except _LOST as exc:
            _log.debug("connection of %s has ended: %r", self._peer, exc)
        except h11.LocalProtocolError as exc:
            _log.debug("connection of %s cannot be used further: %s", self._peer, exc)

    # -- requests ----------------------------------------------------------------------------

    async def _receive_request(self) -> Request | None:
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > _MAX_BODY_SIZE:
                text = f"a request has at most {_MAX_BODY_SIZE} bytes"
                raise HttpError(413, "INVALID_ARGUMENT", text)
        if isinstance(event, h11.ConnectionClosed):
            return None
        return self._make_request(head, bytes(body))

    async def _next_event(self) -> Any:
        while True:
            event: Any = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                # By the standard a server may leave it out; clients then send all the same.
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(bytes(await self._stream.receive_some(_READ_SIZE)))

    def _make_request(self, head: h11.Request, body: bytes) -> Request:
        headers: dict[str, str] = {}
        for name, value in head.headers:
            key, text = name.decode("ascii"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        target = head.target.decode("ascii", "replace")
        path, _, query = target.partition("?")
        try:
            found = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
        except ValueError as exc:
            raise HttpError(400, "INVALID_ARGUMENT", f"malformed query: {exc}") from None
        return Request(
            method=head.method.decode("ascii"),
            path=unquote(path, errors="replace"),
            query=dict(found),
            headers=headers,
            body=body,
            peer=self._peer,
            local_host=self._local_host,
        )

    # -- responses ---------------------------------------------------------------------------

    async def _send_response(self, response: Response, *, is_head: bool) -> None:
        headers = [*self._headers, *response.headers, ("content-type", response.content_type)]
        if response.stream is None:
            headers.append(("content-length", str(len(response.body))))
        else:
            headers.append(("connection", "close"))
        await self._send(h11.Response(status_code=response.status, headers=headers))
        if response.stream is not None and not is_head:
            await self._send_stream(response.stream)
        elif not is_head:
            for start in range(0, len(response.body), _PART_SIZE):
                await self._send(h11.Data(data=response.body[start : start + _PART_SIZE]))
        await self._send(h11.EndOfMessage())

    async def _send_stream(self, write: Callable[[Any], Awaitable[None]]) -> None:
        """Send a body little by little, until it ends or the client disconnects."""

        async def send_part(data: bytes) -> None:
            await self._send(h11.Data(data=data))

        async def watch_client() -> None:
            # Nothing is expected from the client any more; whatever comes is the end.
            await self._stream.receive_some(_READ_SIZE)
            raise trio.BrokenResourceError("the client has disconnected")

        async with open_collapsing_nursery() as nursery:
            nursery.start_soon(watch_client)
            await write(send_part)
            nursery.cancel_scope.cancel()

    async def _send(self, event: Any) -> None:
        data = self._http.send(event)
        if data:
            with trio.fail_after(_SEND_TIMEOUT):
                await self._stream.send_all(data)


async def _handle(handle: Handler, request: Request) -> Response:
    try:
        return await handle(request)
    except HttpError as exc:
        return exc.to_response()
    except Exception:
        _log.exception("%s %s failed", request.method, request.path[:100])
        text = "the dashboard has failed to answer this; the log of the mesh has the reason"
        return HttpError(500, "INTERNAL", text).to_response()
