"""A gRPC method, its handler, and what both need of messages and metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import attrs

from meshtrio.util.record import Record

MetadataLike = Iterable[tuple[str, str | bytes]]
"""Metadata as callers and handlers give it: pairs of a key and a value.

The value is bytes for a key that ends in `-bin`, and text for any other key.
"""


class Message(Protocol):
    """The part of a protobuf message's interface that sending it needs."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name

    def ByteSize(self) -> int: ...  # noqa: N802 - protobuf's name


@attrs.frozen(eq=False, repr=False)
class Method(Record):
    """A gRPC method: its name, its message types and which sides stream.

    Args:
        service: Full name of the service, `package.Service`.
        name: Name of the method within the service.
        request_type: Protobuf class of the requests.
        response_type: Protobuf class of the replies.
        client_streams: Whether a call has any number of requests instead of one.
        server_streams: Whether a call has any number of replies instead of one.
    """

    service: str
    name: str
    request_type: Any
    response_type: Any
    client_streams: bool
    server_streams: bool
    path: str = attrs.field(init=False)
    """The `:path` of a call, `/package.Service/Method`."""

    @path.default
    def _path(self) -> str:
        return f"/{self.service}/{self.name}"

    @classmethod
    def from_path(cls, path: str, types: tuple[Any, Any], *streams: bool) -> Method:
        """Return the method of a `:path`; `types` and `streams` are those of both sides."""
        _, service, name = path.split("/")
        return cls(service, name, types[0], types[1], *streams)


class Handler:
    """The function that serves a method on a server."""

    __slots__ = ("function", "is_counted", "method")

    def __init__(
        self, method: Method, function: Callable[..., Any], is_counted: bool = True
    ) -> None:
        self.method = method
        """The method that the function serves."""
        self.function = function
        """The servicer's method, called as `function(message or iterator,
        request=ServerContext)`."""
        self.is_counted = is_counted
        """Whether calls of the method count as load of the server, see `LoadRecorder`."""
