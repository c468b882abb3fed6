"""Builds request headers, response headers and trailers; `meshtrio.grpc.headers` parses them.

Clients, servers and the gateway build theirs here. Metadata comes as encoded fields, since what a
program writes is checked (`encode_metadata`) and what was received is not
(`encode_received_metadata`).

Source: gRPC's doc/PROTOCOL-HTTP2.md, "Requests" and "Responses".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from meshtrio.grpc.framing import ENCODINGS, IDENTITY
from meshtrio.grpc.header_values import encode_status_message, encode_timeout
from meshtrio.grpc.metadata import encode_binary
from meshtrio.http2.hpack.decoder import HeaderField
from meshtrio.http2.hpack.encoder import HeaderBlock, header_list_size
from meshtrio.http2.limits import UNLIMITED

_CONTENT_TYPE = b"application/grpc+proto"
_USER_AGENT = b"meshtrio"
_GRPC_MESSAGE = b"grpc-message"
_STATUS_200 = (b":status", b"200")
_MIN_MESSAGE_SIZE = 32
"""Bytes of an encoded message below which it is left out: an ellipsis and a word or two."""

PSEUDO_HEADERS = tuple(
    HeaderBlock.encode([(b":method", b"POST"), (b":scheme", scheme)])
    for scheme in (b"http", b"https")
)
"""The first fields of all requests on a connection: without and with TLS."""
DEFAULT_RESPONSE_HEADERS = HeaderBlock.encode([_STATUS_200, (b"content-type", _CONTENT_TYPE)])
"""Response headers without metadata, of a response that is not compressed."""
OK_TRAILERS = HeaderBlock.encode([(b"grpc-status", b"0")])
"""Trailers of a successful call without metadata."""
ACCEPT_ENCODING = HeaderBlock.encode([(b"grpc-accept-encoding", ",".join(ENCODINGS).encode())])
"""The field that names the encodings of this side, for a response that rejects another."""
MAX_TIMEOUT_FIELD_SIZE = header_list_size([(b"grpc-timeout", b"99999999H")])
"""Maximum size of the `grpc-timeout` field in a header list."""


def build_request_headers(
    path: bytes,
    authority: bytes,
    *,
    content_type: bytes = _CONTENT_TYPE,
    encoding: str = IDENTITY,
    accept_encoding: Sequence[str] = ENCODINGS,
    user_agent: bytes = _USER_AGENT,
    metadata: Iterable[HeaderField] = (),
) -> HeaderBlock:
    """Build the request headers of a call, without its timeout and `PSEUDO_HEADERS`."""
    fields = [
        (b":path", path),
        (b":authority", authority),
        (b"te", b"trailers"),
        (b"content-type", content_type),
    ]
    if encoding != IDENTITY:
        fields.append((b"grpc-encoding", encoding.encode("latin-1")))
    if accept_encoding:
        fields.append((b"grpc-accept-encoding", ",".join(accept_encoding).encode("latin-1")))
    if user_agent:
        fields.append((b"user-agent", user_agent))
    fields += metadata
    return HeaderBlock.encode(fields)


@lru_cache(1024)
def build_method_headers(path: str, authority: str) -> HeaderBlock:
    """Build the request headers that all calls of a method to one service share."""
    return build_request_headers(path.encode(), authority.encode())


def timeout_field(seconds: float) -> HeaderField:
    """Build the header field that gives a call `seconds` to complete."""
    return b"grpc-timeout", encode_timeout(seconds).encode()


def build_response_headers(
    *,
    content_type: bytes = _CONTENT_TYPE,
    encoding: str = IDENTITY,
    metadata: Sequence[HeaderField] = (),
) -> HeaderBlock:
    """Build the headers of a gRPC response."""
    if content_type == _CONTENT_TYPE:
        block = DEFAULT_RESPONSE_HEADERS
    else:
        block = HeaderBlock.encode([_STATUS_200, (b"content-type", content_type)])
    if encoding != IDENTITY:
        block += HeaderBlock.encode([(b"grpc-encoding", encoding.encode("latin-1"))])
    return block + HeaderBlock.encode(metadata) if metadata else block


def build_trailers(
    code: int,
    message: str = "",
    details: bytes = b"",
    metadata: Sequence[HeaderField] = (),
    *,
    encoded_message: bytes = b"",
    max_size: int = UNLIMITED,
    max_message_size: int = UNLIMITED,
) -> HeaderBlock:
    """Build the trailers that end a call.

    A message that does not fit next to the other fields is truncated. The status itself must always
    arrive, so the caller has to leave out metadata and details if the result still exceeds
    `max_size`.

    Args:
        code: Status code.
        message: Status message.
        details: Serialized google.rpc.Status; empty for none.
        metadata: Trailing metadata, encoded.
        encoded_message: Status message that is encoded already, and is not truncated; replaces
            `message`.
        max_size: Bytes that the header list should have at most.
        max_message_size: Maximum size of the encoded message in bytes, if that is less.
    """
    fields = [(b"grpc-status", b"%d" % code)]
    rest = [(b"grpc-status-details-bin", encode_binary(details))] if details else []
    rest += metadata
    if encoded_message:
        fields.append((_GRPC_MESSAGE, encoded_message))
    elif message:
        left = max_size - header_list_size([*fields, *rest, (_GRPC_MESSAGE, b"")])
        if left >= _MIN_MESSAGE_SIZE:
            encoded_message = encode_status_message(message, min(left, max_message_size))
            fields.append((_GRPC_MESSAGE, encoded_message))
    return HeaderBlock.encode(fields + rest)


def build_http_response(status: int, content_type: bytes = b"") -> HeaderBlock:
    """Build the headers of a response to a request that is not gRPC."""
    fields = [(b":status", b"%d" % status)]
    if content_type:
        fields.append((b"content-type", content_type))
    return HeaderBlock.encode(fields)
