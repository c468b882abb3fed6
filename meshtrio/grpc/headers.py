"""What a header list means: request heads, response heads and trailers.

HTTP rules are RFC 9113 §8.2 and §8.3, gRPC's are those of doc/PROTOCOL-HTTP2.md. A list that
HTTP calls malformed raises MalformedHead, which costs the peer the stream; a well-formed head
that is not gRPC's is for the layer above to answer.

gRPC is more lenient than HTTP/2 in one point: white space at the ends of a value is stripped
instead of refused (PROTOCOL-HTTP2, "ASCII-Value"), since grpcio, grpc-java and others send it. That
of a status message is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import attrs

from meshtrio.grpc.metadata import (
    ALLOWED_GRPC_KEYS,
    CONNECTION_SPECIFIC_FIELDS,
    Metadata,
    decode_binary,
    decode_key,
    decode_value,
)
from meshtrio.grpc.status_message import decode_status_message, escape_outer_whitespace
from meshtrio.grpc.timeout import decode_timeout
from meshtrio.http2.errors import MalformedHeadersError
from meshtrio.http2.hpack.decoder import HeaderList

_match_field_name = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_find_forbidden_octet = re.compile(rb"[\x00\r\n]").search
_WHITESPACE = b" \t"
_PER_CALL_FIELDS = frozenset({b"grpc-timeout", b"traceparent"})
_CONNECTION_SPECIFIC_FIELDS = frozenset(name.encode() for name in CONNECTION_SPECIFIC_FIELDS)
_NON_METADATA_FIELDS = frozenset(
    {b"te", b"content-type", b"content-length", b"user-agent", b"host"}
)
_ALLOWED_GRPC_KEYS = frozenset(name.encode() for name in ALLOWED_GRPC_KEYS)


def is_grpc_content_type(content_type: str) -> bool:
    """Tell whether a content-type is `application/grpc`, with any suffix or parameters."""
    return content_type.lower().startswith("application/grpc")


@attrs.frozen
class RequestHeaders:
    """The head of a request; `timeout` in seconds from its arrival, None where none was set."""

    method: str
    scheme: str
    path: str
    authority: str
    content_type: str
    timeout: float | None
    encoding: str
    accept_encoding: tuple[str, ...]
    user_agent: str
    metadata: Metadata
    content_length: int | None = None
    error_message: str = ""
    """Why gRPC cannot serve the call, as a status message; "" if it can. HTTP/2 has no objection,
    so the call fails with a status instead of a reset."""

    @property
    def is_grpc(self) -> bool:
        """Whether this is a gRPC call, rather than another HTTP request."""
        return self.method == "POST" and is_grpc_content_type(self.content_type)


@attrs.frozen
class Trailers:
    """How a call ended: status code, its message and the trailing metadata."""

    code: int
    message: str
    metadata: Metadata
    details: bytes = b""
    """`grpc-status-details-bin`: a serialized google.rpc.Status, where the server sent one."""
    encoded_message: bytes = attrs.field(default=b"", eq=False, repr=False)
    """`grpc-message` as the server sent it, but for escapes in place of white space at its ends; to
    be passed on. What is not valid in it is replaced in `message`, which encoded again could be
    many times as long."""


@attrs.frozen
class ResponseHeaders:
    """The head of a response; `trailers` is set where it is the whole response (Trailers-Only)."""

    http_status: int
    content_type: str
    encoding: str
    metadata: Metadata
    trailers: Trailers | None
    content_length: int | None = None


def parse_request_headers(fields: HeaderList) -> RequestHeaders:
    """Read a request's head. Raises MalformedHead.

    What differs from call to call is read by itself, and the rest is remembered.
    """
    varying = [field for field in fields if field[0] in _PER_CALL_FIELDS]
    if not varying:
        return _parse_all_request_headers(fields)
    behind = fields[fields.index(varying[0]) :]
    if any(name.startswith(b":") or _find_forbidden_octet(value) for name, value in behind):
        return _parse_all_request_headers(fields)
    head = _parse_request_headers_cached(
        tuple(field for field in fields if field[0] not in _PER_CALL_FIELDS)
    )
    varying = [(name, value.strip(_WHITESPACE)) for name, value in varying]
    timeout, problem = _parse_timeout(dict(varying))
    return RequestHeaders(
        head.method,
        head.scheme,
        head.path,
        head.authority,
        head.content_type,
        timeout,
        head.encoding,
        head.accept_encoding,
        head.user_agent,
        (*head.metadata, *_parse_metadata(varying)[0]),
        head.content_length,
        head.error_message or problem,
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
    timeout, problem = _parse_timeout(values)
    metadata, undecodable = _parse_metadata(regular)
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
        error_message=undecodable or problem,
    )


_parse_request_headers_cached = lru_cache(128)(_parse_all_request_headers)


def parse_response_headers(fields: HeaderList) -> ResponseHeaders:
    """Read a response's head, informational ones (1xx) too. Raises MalformedHead.

    Binary metadata that cannot be decoded is left out, here and in trailers: it must not hide the
    status.
    """
    pseudo, regular = _split_pseudo_headers(fields, allowed=frozenset({":status"}))
    status = pseudo.get(":status", "")
    if not re.fullmatch("[1-9][0-9]{2}", status):
        raise MalformedHeadersError(f":status is {status!r}")
    values = dict(regular)
    metadata, _ = _parse_metadata(regular)
    return ResponseHeaders(
        http_status=int(status),
        content_type=_get_text(values, b"content-type"),
        encoding=_get_text(values, b"grpc-encoding") or "identity",
        metadata=metadata,
        trailers=_build_trailers(values, metadata) if b"grpc-status" in values else None,
        content_length=_parse_content_length(regular),
    )


def parse_trailers(fields: HeaderList) -> Trailers | None:
    """Read trailers; None where they carry no `grpc-status`. Raises MalformedHead."""
    _, regular = _split_pseudo_headers(fields, allowed=frozenset())
    values = dict(regular)
    if b"grpc-status" not in values:
        return None
    return _build_trailers(values, _parse_metadata(regular)[0])


def _build_trailers(values: dict[bytes, bytes], metadata: Metadata) -> Trailers:
    status = values[b"grpc-status"]
    # A status that is no number is the peer's fault, and UNKNOWN (2) is what gRPC makes of it.
    code = int(status) if status.isdigit() and len(status) < 10 else 2
    encoded = escape_outer_whitespace(values.get(b"grpc-message", b""))
    try:
        details = decode_binary(values.get(b"grpc-status-details-bin", b""))[0]
    except MalformedHeadersError:
        details = b""
    return Trailers(code, decode_status_message(encoded), metadata, details, encoded)


def _split_pseudo_headers(
    fields: HeaderList, *, allowed: frozenset[str]
) -> tuple[dict[str, str], list[tuple[bytes, bytes]]]:
    """Part pseudo-header fields from the others, holding both to RFC 9113 §8.2 and §8.3."""
    pseudo: dict[str, str] = {}
    regular: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if not _match_field_name(name) or _find_forbidden_octet(value):
            raise MalformedHeadersError(
                f"field {name[:40]!r} has a name or value that HTTP/2 forbids"
            )
        if name.startswith(b":"):
            if value != value.strip(_WHITESPACE):
                raise MalformedHeadersError(f"field {name[:40]!r} has white space around its value")
            key = name.decode("latin-1")
            if key not in allowed or key in pseudo or regular:
                raise MalformedHeadersError(f"{key} is unknown, repeated or out of place")
            pseudo[key] = value.decode("latin-1")
        elif name in _CONNECTION_SPECIFIC_FIELDS:
            raise MalformedHeadersError(f"{name.decode()} has no place in HTTP/2")
        else:
            # A message keeps its white space: other gRPC clients give it to their callers, too.
            kept = value if name == b"grpc-message" else value.strip(_WHITESPACE)
            regular.append((name, kept))
    return pseudo, regular


def _parse_timeout(values: dict[bytes, bytes]) -> tuple[float | None, str]:
    """The `grpc-timeout` in seconds, None if there is none; and why it cannot be decoded."""
    value = values.get(b"grpc-timeout")
    if value is None:
        return None, ""
    try:
        return decode_timeout(value), ""
    except MalformedHeadersError as exc:
        return None, str(exc)


def _parse_metadata(regular: Iterable[tuple[bytes, bytes]]) -> tuple[Metadata, str]:
    """The metadata among fields, and why the first that cannot be decoded cannot, "" for none."""
    out: list[tuple[str, str | bytes]] = []
    problem = ""
    for name, value in regular:
        if name in _NON_METADATA_FIELDS or (
            name.startswith(b"grpc-") and name not in _ALLOWED_GRPC_KEYS
        ):
            continue
        key = decode_key(name)
        if name.endswith(b"-bin"):
            try:
                out.extend((key, part) for part in decode_binary(value))
            except MalformedHeadersError as exc:
                problem = problem or f"metadata key {key!r}: {exc}"
        else:
            out.append((key, decode_value(value)))
    return tuple(out), problem


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
