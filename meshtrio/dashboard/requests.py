"""HTTP requests and responses, apart from how they are sent."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

HTML, JSON, EVENT_STREAM = "text/html; charset=utf-8", "application/json", "text/event-stream"
Send = Callable[[bytes], Awaitable[None]]
"""Sends a part of a body."""


@attrs.frozen
class Request:
    """A request with its whole body."""

    method: str
    path: str
    """The decoded path, from "/" on."""
    query: Mapping[str, str] = attrs.field(factory=dict)
    """The parameters of the query; the last one of each name."""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    """By their names in lower case; those that are repeated are joined by ", "."""
    body: bytes = b""
    peer: str = ""
    """The address of the client, as host:port."""
    local_host: str = ""
    """The address of this machine that the client has connected to."""
    session: str = ""
    """The id of the viewer's session; set once the request is admitted."""


@attrs.frozen
class Response:
    """A response, whose body may be written little by little."""

    status: int = 200
    content_type: str = JSON
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    stream: Callable[[Send], Awaitable[None]] | None = None
    """Writes the body instead of `body`, until it returns or is cancelled since the client has
    disconnected."""


class HttpError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, text: str) -> None:
        """`code` is the name of a gRPC status code, for scripts; `text` is for people."""
        super().__init__(text)
        self.status, self.code, self.text = status, code, text

    def to_response(self) -> Response:
        """Return the response."""
        return json_response({"code": self.code, "text": self.text}, self.status)


def json_response(value: Any, status: int = 200) -> Response:
    """Return a response with JSON."""
    return Response(status, JSON, encode_json(value))


def encode_json(value: Any) -> bytes:
    """Encode as JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
