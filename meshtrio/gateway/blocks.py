"""The heads of a passed call: what came in, encoded for the other side.

The engine gives the same object for a head that it has seen lately, so what is made of one is
remembered by its identity. Heads that never come again push others out, and are few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from meshtrio.contract import MESH_FORWARDED
from meshtrio.rpc.trailers import status_trailers
from meshtrio.wire.compression import IDENTITY
from meshtrio.wire.grpc import Metadata, encode_binary, encode_timeout
from meshtrio.wire.heads import RequestHead, ResponseHead, Trailers
from meshtrio.wire.hpack import HeaderBlock

S = TypeVar("S")
T = TypeVar("T")

_MOST_REMEMBERED = 256


class Memory(Generic[S, T]):
    """Makes a thing of another once, as long as that is one and the same."""

    def __init__(self, make: Callable[[S], T]) -> None:
        self._make = make
        self._made: dict[int, tuple[S, T]] = {}

    def __call__(self, given: S) -> T:
        found = self._made.get(id(given))
        # What is remembered is held, so that nothing else can have its id.
        if found is not None and found[0] is given:
            return found[1]
        made = self._make(given)
        if len(self._made) >= _MOST_REMEMBERED:
            del self._made[next(iter(self._made))]
        self._made[id(given)] = given, made
        return made


_TIMEOUT = b"grpc-timeout"


def timeout_block(seconds: float) -> HeaderBlock:
    """The header field for the seconds that a call has left."""
    return HeaderBlock.of([(_TIMEOUT, encode_timeout(seconds).encode())])


def request_block(head: RequestHead, scheme: str, authority: str, forwarded: str) -> HeaderBlock:
    """A request's head for the plugin, but for the deadline; `forwarded`: for whom it is."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", scheme.encode()),
        (b":path", head.path.encode("latin-1")),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", head.content_type.encode("latin-1")),
    ]
    if head.encoding != IDENTITY:
        fields.append((b"grpc-encoding", head.encoding.encode("latin-1")))
    if head.accept_encoding:
        fields.append((b"grpc-accept-encoding", ",".join(head.accept_encoding).encode("latin-1")))
    if head.user_agent:
        fields.append((b"user-agent", head.user_agent.encode("latin-1")))
    fields.append((MESH_FORWARDED.encode(), forwarded.encode()))
    metadata = tuple(pair for pair in head.metadata if pair[0] != MESH_FORWARDED)
    return HeaderBlock.of(fields + _as_they_came(metadata))


def response_block(head: ResponseHead) -> HeaderBlock:
    """A response's head for the caller."""
    fields = [(b":status", b"200"), (b"content-type", head.content_type.encode("latin-1"))]
    if head.encoding != IDENTITY:
        fields.append((b"grpc-encoding", head.encoding.encode("latin-1")))
    if head.trailers is None:
        fields += _as_they_came(head.metadata)
    return HeaderBlock.of(fields)


def trailers_block(trailers: Trailers) -> HeaderBlock:
    """Trailers for the caller, as the plugin sent them."""
    fields = [(b"grpc-status", b"%d" % trailers.code)]
    if trailers.encoded_message:
        fields.append((b"grpc-message", trailers.encoded_message))
    if trailers.details:
        fields.append((b"grpc-status-details-bin", encode_binary(trailers.details)))
    return HeaderBlock.of(fields + _as_they_came(trailers.metadata))


def short_trailers_block(trailers: Trailers, room: int) -> HeaderBlock:
    """The same with a status message that is cut to fit into `room` bytes with the rest."""
    metadata = _as_they_came(trailers.metadata)
    return status_trailers(trailers.code, trailers.message, trailers.details, metadata, room=room)


def _as_they_came(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """What a peer was allowed to say is not held to what a caller here may say."""
    return [
        (
            key.encode("latin-1"),
            encode_binary(value) if isinstance(value, bytes) else value.encode("latin-1"),
        )
        for key, value in metadata
    ]
