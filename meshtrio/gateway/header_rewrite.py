"""The heads of a passed call: what came in, encoded for the other side.

The engine gives the same object for a head that it has seen lately, so what is made of one is
remembered by its identity. Heads that never come again push others out, and are few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from meshtrio.contract import FORWARDED_METADATA_KEY
from meshtrio.grpc.compression import IDENTITY
from meshtrio.grpc.headers import RequestHeaders, ResponseHeaders, Trailers
from meshtrio.grpc.metadata import Metadata, encode_binary, encode_timeout
from meshtrio.grpc.trailers import encode_trailers
from meshtrio.http2.hpack.codec import HeaderBlock

S = TypeVar("S")
T = TypeVar("T")

_MAX_ENTRIES = 256


class IdentityCache(Generic[S, T]):
    """Makes a thing of another once, as long as that is one and the same."""

    def __init__(self, make: Callable[[S], T]) -> None:
        self._make = make
        self._entries: dict[int, tuple[S, T]] = {}

    def __call__(self, given: S) -> T:
        found = self._entries.get(id(given))
        # What is remembered is held, so that nothing else can have its id.
        if found is not None and found[0] is given:
            return found[1]
        made = self._make(given)
        if len(self._entries) >= _MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._entries[id(given)] = given, made
        return made


_TIMEOUT = b"grpc-timeout"


def encode_timeout_field(seconds: float) -> HeaderBlock:
    """The header field for the seconds that a call has left."""
    return HeaderBlock.encode([(_TIMEOUT, encode_timeout(seconds).encode())])


def rewrite_request_headers(
    headers: RequestHeaders, scheme: str, authority: str, forwarded_for: str
) -> HeaderBlock:
    """A request's head for the plugin, but for the deadline; `forwarded`: for whom it is."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", scheme.encode()),
        (b":path", headers.path.encode("latin-1")),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", headers.content_type.encode("latin-1")),
    ]
    if headers.encoding != IDENTITY:
        fields.append((b"grpc-encoding", headers.encoding.encode("latin-1")))
    if headers.accept_encoding:
        fields.append(
            (b"grpc-accept-encoding", ",".join(headers.accept_encoding).encode("latin-1"))
        )
    if headers.user_agent:
        fields.append((b"user-agent", headers.user_agent.encode("latin-1")))
    fields.append((FORWARDED_METADATA_KEY.encode(), forwarded_for.encode()))
    metadata = tuple(pair for pair in headers.metadata if pair[0] != FORWARDED_METADATA_KEY)
    return HeaderBlock.encode(fields + _encode_metadata_verbatim(metadata))


def rewrite_response_headers(headers: ResponseHeaders) -> HeaderBlock:
    """A response's head for the caller."""
    fields = [(b":status", b"200"), (b"content-type", headers.content_type.encode("latin-1"))]
    if headers.encoding != IDENTITY:
        fields.append((b"grpc-encoding", headers.encoding.encode("latin-1")))
    if headers.trailers is None:
        fields += _encode_metadata_verbatim(headers.metadata)
    return HeaderBlock.encode(fields)


def rewrite_trailers(trailers: Trailers) -> HeaderBlock:
    """Trailers for the caller, as the plugin sent them."""
    fields = [(b"grpc-status", b"%d" % trailers.code)]
    if trailers.encoded_message:
        fields.append((b"grpc-message", trailers.encoded_message))
    if trailers.details:
        fields.append((b"grpc-status-details-bin", encode_binary(trailers.details)))
    return HeaderBlock.encode(fields + _encode_metadata_verbatim(trailers.metadata))


def rewrite_trailers_truncated(trailers: Trailers, max_size: int) -> HeaderBlock:
    """The same with a status message that is cut to fit into `room` bytes with the rest."""
    metadata = _encode_metadata_verbatim(trailers.metadata)
    return encode_trailers(
        trailers.code, trailers.message, trailers.details, metadata, max_size=max_size
    )


def _encode_metadata_verbatim(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """What a peer was allowed to say is not held to what a caller here may say."""
    return [
        (
            key.encode("latin-1"),
            encode_binary(value) if isinstance(value, bytes) else value.encode("latin-1"),
        )
        for key, value in metadata
    ]
