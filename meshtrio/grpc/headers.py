"""Parses request headers, response headers and trailers; `header_builder` builds them.

A header list that RFC 9113 §8.2 and §8.3 call malformed raises MalformedHeadersError. A well-formed
request that is not gRPC's is parsed, for the caller to answer.

gRPC is more lenient than HTTP/2 in one point: white space at the ends of a value is stripped
instead of rejected (PROTOCOL-HTTP2, "ASCII-Value"), since grpcio, grpc-java and others send it.
That of a status message is kept.

Source: RFC 9113 §8, and gRPC's doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from meshtrio.grpc import header_values
from meshtrio.grpc.metadata import (
    CONNECTION_SPECIFIC_FIELDS,
    Metadata,
    decode_binary,
    parse_metadata,
)
from meshtrio.http2.errors import MalformedHeadersError
from meshtrio.http2.hpack.decoder import HeaderList
from meshtrio.util.record import Record

# Without regular expressions: they take no less time, and compiling them delays the start of every
# process.
_FIELD_NAME_OCTETS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_WHITESPACE = b" \t"
_PER_CALL_FIELDS = frozenset({b"grpc-timeout", b"traceparent"})


def is_grpc_content_type(content_type: str) -> bool:
    """Return whether a content-type is `application/grpc`, with any suffix or parameters."""
    return content_type.lower().startswith("application/grpc")


class RequestHeaders(Record):
    """Parsed request headers; not to be changed, since parsed headers are cached."""

    __slots__ = (
        "accept_encoding",
        "authority",
        "common",
        "content_length",
        "content_type",
        "derived",
        "encoding",
        "error_message",
        "is_grpc",
        "metadata",
        "method",
        "path",
        "scheme",
        "timeout",
        "user_agent",
    )

    def __init__(
        self,
        method: str,
        scheme: str,
        path: str,
        authority: str,
        content_type: str,
        timeout: float | None,
        encoding: str,
        accept_encoding: tuple[str, ...],
        user_agent: str,
        metadata: Metadata,
        content_length: int | None = None,
        error_message: str = "",
        common: RequestHeaders | None = None,
    ) -> None:
        self.method = method
        """Value of :method."""
        self.scheme = scheme
        """Value of :scheme."""
        self.path = path
        """Value of :path: "/", service name, "/", method name."""
        self.authority = authority
        """Value of :authority, or of host; empty without both."""
        self.content_type = content_type
        """Value of content-type; empty if absent."""
        self.timeout = timeout
        """Value of grpc-timeout in seconds, from the arrival of the request; None if absent."""
        self.encoding = encoding
        """Encoding of compressed messages."""
        self.accept_encoding = accept_encoding
        """Encodings that the client accepts in the response."""
        self.user_agent = user_agent
        """Value of user-agent; empty if absent."""
        self.metadata = metadata
        """Custom metadata."""
        self.content_length = content_length
        """Value of content-length; None if absent."""
        self.error_message = error_message
        """Why gRPC cannot serve the call, as a status message; empty if it can. The headers are
        valid HTTP/2, so the call fails with a status rather than a reset."""
        self.common = common
        """The headers without the fields that differ from call to call (the timeout and
        `traceparent`, whose metadata comes last): often the same object for many calls. None if
        there are none."""
        # Once, as equal header blocks of a connection have the same parsed object.
        self.is_grpc = method == "POST" and is_grpc_content_type(content_type)
        """Whether this is a gRPC call, rather than another HTTP request."""
        self.derived: object = None
        """What the receiver has made of the headers, to be used again with the same object."""

    def _items(self) -> list[tuple[str, object]]:
        others = "common", "derived", "is_grpc"
        return [item for item in super()._items() if item[0] not in others]


class Trailers(Record):
    """Parsed trailers of a response; not to be changed, since parsed headers are cached."""

    __slots__ = ("code", "derived", "details", "encoded_message", "message", "metadata")

    def __init__(
        self,
        code: int,
        message: str,
        metadata: Metadata,
        details: bytes = b"",
        encoded_message: bytes = b"",
    ) -> None:
        self.code = code
        """Status code; peers may send codes that gRPC does not define."""
        self.message = message
        """Status message."""
        self.metadata = metadata
        """Trailing metadata."""
        self.details = details
        """Value of grpc-status-details-bin: a serialized google.rpc.Status; empty if absent."""
        self.encoded_message = encoded_message
        """Value of grpc-message as it was received, except that white space at its ends is escaped;
        to be forwarded. Encoding `message` again could make it many times as long, because invalid
        bytes are replaced there."""
        self.derived: object = None
        """What the receiver has made of the trailers, to be used again with the same object."""

    def _items(self) -> list[tuple[str, object]]:
        # `encoded_message` says the same as `message`.
        others = "derived", "encoded_message"
        return [item for item in super()._items() if item[0] not in others]


class ResponseHeaders(Record):
    """Parsed response headers; not to be changed, since parsed headers are cached."""

    __slots__ = (
        "content_length",
        "content_type",
        "derived",
        "encoding",
        "http_status",
        "is_grpc",
        "metadata",
        "trailers",
    )

    def __init__(
        self,
        http_status: int,
        content_type: str,
        encoding: str,
        metadata: Metadata,
        trailers: Trailers | None,
        content_length: int | None = None,
    ) -> None:
        self.http_status = http_status
        """Value of :status."""
        self.content_type = content_type
        """Value of content-type; empty if absent."""
        self.encoding = encoding
        """Encoding of compressed messages."""
        self.metadata = metadata
        """Initial metadata; trailing metadata if `trailers` is set."""
        self.trailers = trailers
        """The status, if these headers are the whole response (Trailers-Only); else None."""
        self.content_length = content_length
        """Value of content-length; None if absent."""
        self.is_grpc = http_status == 200 and is_grpc_content_type(content_type)
        """Whether this is a response of gRPC with HTTP status 200."""
        self.derived: object = None
        """What the receiver has made of the headers, to be used again with the same object."""

    def _items(self) -> list[tuple[str, object]]:
        return [item for item in super()._items() if item[0] not in ("derived", "is_grpc")]


def parse_request_headers(fields: HeaderList) -> RequestHeaders:
    """Parse request headers. Raises MalformedHeadersError.

    Fields that differ from call to call are parsed separately, so that the result for the others
    can be cached.
    """
    per_call = [field for field in fields if field[0] in _PER_CALL_FIELDS]
    if not per_call:
        return _parse_all_request_headers(fields)
    rest = fields[fields.index(per_call[0]) :]
    if any(name.startswith(b":") or _has_forbidden_octet(value) for name, value in rest):
        # The list is malformed, or not worth caching.
        return _parse_all_request_headers(fields)
    common = _parse_request_headers_cached(tuple(f for f in fields if f[0] not in _PER_CALL_FIELDS))
    per_call = [(name, value.strip(_WHITESPACE)) for name, value in per_call]
    timeout, timeout_error = _parse_timeout(dict(per_call))
    return RequestHeaders(
        common.method,
        common.scheme,
        common.path,
        common.authority,
        common.content_type,
        timeout,
        common.encoding,
        common.accept_encoding,
        common.user_agent,
        (*common.metadata, *parse_metadata(per_call)[0]),
        common.content_length,
        common.error_message or timeout_error,
        common,
    )


def _parse_all_request_headers(fields: HeaderList) -> RequestHeaders:
    pseudo, regular = _split_pseudo_headers(
        fields, allowed=frozenset({":method", ":scheme", ":path", ":authority"})
    )
    for name in (":method", ":scheme", ":path"):
        if not pseudo.get(name):
            raise MalformedHeadersError(f"{name} is missing or empty")
    if not pseudo[":path"].startswith("/"):
        raise MalformedHeadersError(":path does not begin with a slash")
    values = dict(regular)
    if any(name == b"te" and value != b"trailers" for name, value in regular):
        raise MalformedHeadersError("te may only be 'trailers'")
    timeout, timeout_error = _parse_timeout(values)
    metadata, metadata_error = parse_metadata(regular)
    accept = values.get(b"grpc-accept-encoding", b"")
    return RequestHeaders(
        method=pseudo[":method"],
        scheme=pseudo[":scheme"],
        path=pseudo[":path"],
        authority=pseudo.get(":authority") or _get_text(values, b"host"),
        content_type=_get_text(values, b"content-type"),
        timeout=timeout,
        encoding=_get_text(values, b"grpc-encoding") or "identity",
        accept_encoding=tuple(e.strip() for e in accept.decode("latin-1").split(",") if e.strip()),
        user_agent=_get_text(values, b"user-agent"),
        metadata=metadata,
        content_length=_parse_content_length(regular),
        error_message=metadata_error or timeout_error,
    )


_parse_request_headers_cached = lru_cache(128)(_parse_all_request_headers)


def parse_response_headers(fields: HeaderList) -> ResponseHeaders:
    """Parse response headers, informational ones (1xx) included. Raises MalformedHeadersError.

    Binary metadata that cannot be decoded is dropped, here and in trailers, because it must not
    hide the status.
    """
    pseudo, regular = _split_pseudo_headers(fields, allowed=frozenset({":status"}))
    status = pseudo.get(":status", "")
    if not re.fullmatch("[1-9][0-9]{2}", status):
        raise MalformedHeadersError(f":status is {status!r}")
    values = dict(regular)
    metadata, _ = parse_metadata(regular)
    return ResponseHeaders(
        http_status=int(status),
        content_type=_get_text(values, b"content-type"),
        encoding=_get_text(values, b"grpc-encoding") or "identity",
        metadata=metadata,
        trailers=_trailers_from_fields(values, metadata) if b"grpc-status" in values else None,
        content_length=_parse_content_length(regular),
    )


def parse_trailers(fields: HeaderList) -> Trailers | None:
    """Parse trailers; None if they have no `grpc-status`. Raises MalformedHeadersError."""
    _, regular = _split_pseudo_headers(fields, allowed=frozenset())
    values = dict(regular)
    if b"grpc-status" not in values:
        return None
    return _trailers_from_fields(values, parse_metadata(regular)[0])


def _trailers_from_fields(values: dict[bytes, bytes], metadata: Metadata) -> Trailers:
    status = values[b"grpc-status"]
    # gRPC takes a status that is not a number for UNKNOWN (2).
    code = int(status) if status.isdigit() and len(status) < 10 else 2
    encoded = header_values.escape_outer_whitespace(values.get(b"grpc-message", b""))
    try:
        details = decode_binary(values.get(b"grpc-status-details-bin", b""))[0]
    except MalformedHeadersError:
        details = b""
    message = header_values.decode_status_message(encoded)
    return Trailers(code, message, metadata, details, encoded)


def _split_pseudo_headers(
    fields: HeaderList, *, allowed: frozenset[str]
) -> tuple[dict[str, str], list[tuple[bytes, bytes]]]:
    """Split pseudo-header fields from the others, and validate both (RFC 9113 §8.2 and §8.3)."""
    pseudo: dict[str, str] = {}
    regular: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if not _is_field_name(name) or _has_forbidden_octet(value):
            text = f"field {name[:40]!r} has a name or value that HTTP/2 forbids"
            raise MalformedHeadersError(text)
        if name.startswith(b":"):
            if value != value.strip(_WHITESPACE):
                raise MalformedHeadersError(f"field {name[:40]!r} has white space around its value")
            key = name.decode("latin-1")
            if key not in allowed or key in pseudo or regular:
                raise MalformedHeadersError(f"{key} is unknown, repeated or misplaced")
            pseudo[key] = value.decode("latin-1")
        elif name in CONNECTION_SPECIFIC_FIELDS:
            raise MalformedHeadersError(f"{name.decode()} is not allowed in HTTP/2")
        else:
            # Other gRPC clients keep the white space of a message, too.
            if name != b"grpc-message":
                value = value.strip(_WHITESPACE)
            regular.append((name, value))
    return pseudo, regular


def _is_field_name(name: bytes) -> bool:
    """Return whether HTTP/2 allows the name of a field or pseudo-header field."""
    others = name.translate(None, _FIELD_NAME_OCTETS)
    return len(others) < len(name) and (not others or (others == b":" and name.startswith(b":")))


def _has_forbidden_octet(value: bytes) -> bool:
    return b"\n" in value or b"\r" in value or b"\0" in value


def _parse_timeout(values: dict[bytes, bytes]) -> tuple[float | None, str]:
    """Parse grpc-timeout: in seconds, None if absent; and an error message, empty for none."""
    value = values.get(b"grpc-timeout")
    if value is None:
        return None, ""
    try:
        return header_values.decode_timeout(value), ""
    except MalformedHeadersError as exc:
        return None, str(exc)


def _get_text(values: dict[bytes, bytes], name: bytes) -> str:
    return values.get(name, b"").decode("latin-1")


def _parse_content_length(regular: Iterable[tuple[bytes, bytes]]) -> int | None:
    values = {value for name, value in regular if name == b"content-length"}
    if not values:
        return None
    value = values.pop()
    if values or not value.isdigit() or len(value) > 18:
        raise MalformedHeadersError(f"content-length is {value[:40]!r}, or more than one")
    return int(value)
