"""What the engine has to know of the application protocol: how its header lists are parsed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs

from meshtrio.http2.hpack.decoder import HeaderList


class ParsedRequest(Protocol):
    """What the engine reads of parsed request headers."""

    @property
    def content_length(self) -> int | None:
        """Value of content-length; None if absent."""

    @property
    def timeout(self) -> float | None:
        """Seconds after which the client abandons the request; None if unlimited."""


class ParsedResponse(Protocol):
    """What the engine reads of parsed response headers."""

    @property
    def http_status(self) -> int:
        """Value of :status."""

    @property
    def content_length(self) -> int | None:
        """Value of content-length; None if absent."""


@attrs.frozen
class HeaderParsers:
    """Functions that parse the header lists of one application protocol.

    Each raises MalformedHeadersError for a list that is malformed (RFC 9113 §8.1.1).
    """

    parse_request: Callable[[HeaderList], ParsedRequest]
    """Parses request headers."""
    parse_response: Callable[[HeaderList], ParsedResponse]
    """Parses response headers, informational ones (1xx) included."""
    parse_trailers: Callable[[HeaderList], Any]
    """Parses trailers."""
