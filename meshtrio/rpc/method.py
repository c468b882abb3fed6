"""A gRPC method, its handler, and what both need of messages and metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from meshtrio.util.record import Record

MetadataLike = Iterable[tuple[str, str | bytes]]
"""Metadata as callers and handlers give it: pairs of a key and a value.

The value is bytes for a key that ends in `-bin`, and text for any other key.
"""


class Message(Protocol):
    """The part of a protobuf message's interface that sending it needs."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name

    def ByteSize(self) -> int: ...  # noqa: N802 - protobuf's name


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

    # In the order of its text.
    __slots__ = (  # noqa: RUF023
        "service",
        "name",
        "request_type",
        "response_type",
        "client_streams",
        "server_streams",
        "path",
    )

    def __init__(
        self,
        service: str,
        name: str,
        request_type: Any,
        response_type: Any,
        client_streams: bool,
        server_streams: bool,
    ) -> None:
        self.service: Final = service
        self.name: Final = name
        self.request_type: Final = request_type
        self.response_type: Final = response_type
        self.client_streams: Final = client_streams
        self.server_streams: Final = server_streams
        self.path: Final = f"/{service}/{name}"
        """The `:path` of a call, `/package.Service/Method`."""

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
