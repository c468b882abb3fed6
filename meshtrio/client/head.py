"""The head of an attempt: what all calls of a method have, and what each adds to it."""

from __future__ import annotations

import contextlib
import math

import attrs
import purerpc
import trio

from meshtrio.client.picker import PLAIN, CallOptions, Picker, Target, Wish
from meshtrio.policies.retry import PREVIOUS_ATTEMPTS
from meshtrio.rpc.current import current
from meshtrio.rpc.observe import AttemptWatch
from meshtrio.rpc.seam import Method, Request
from meshtrio.wire import hpack
from meshtrio.wire.compression import ENCODINGS
from meshtrio.wire.connection import header_list_size
from meshtrio.wire.grpc import Metadata, encode_metadata, encode_timeout

SHORT = 256
"""Bytes of a trace's context that every peer takes."""
_FIELD_OVERHEAD = 32
"""Bytes that a header field counts for beside its own (RFC 9113 §6.5.2)."""


def request_block(method: Method, picker: Picker) -> bytes:
    """The part of a request's head that is the same for every call of a method."""
    return hpack.encode(
        [
            (b":method", b"POST"),
            (b":scheme", picker.scheme.encode()),
            (b":path", method.path.encode()),
            (b":authority", picker.authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc+proto"),
            (b"grpc-accept-encoding", ",".join(ENCODINGS).encode()),
            (b"user-agent", b"meshtrio"),
        ]
    )


def fields_of(
    picker: Picker,
    options: CallOptions,
    previous: int,
    watch: AttemptWatch | None,
    deadline: float,
) -> list[tuple[bytes, bytes]]:
    """The header fields of an attempt beside those that all calls of its method have, which its
    watch is told."""
    fields = [] if options is PLAIN else options.fields()
    if picker.metadata:
        fields += encode_metadata(picker.metadata)
    if fields and watch is not None:
        fields = [field for field in fields if not _replaced(field[0], watch)]
    serving = current.get()
    if serving is not None:
        fields += _carried(serving, options, watch)
    if previous:
        fields.append((PREVIOUS_ATTEMPTS, b"%d" % previous))
    if watch is not None and watch.follows:
        watch.asks(picker.authority, fields, deadline)
    return fields


def _replaced(key: bytes, watch: AttemptWatch) -> bool:
    """Whether what a caller says is said of the attempt: whoever gets two parents goes by none.
    Baggage adds up (W3C Baggage)."""
    said = key.decode()
    return said in watch.keys and said != "baggage"


def check_fits(
    target: Target, fields: list[tuple[bytes, bytes]], watch: AttemptWatch | None
) -> None:
    """Raise ResourceExhaustedError where it is more metadata than the peer accepts."""
    size = header_list_size(fields)
    if watch is not None:
        size += len(watch.block) + _FIELD_OVERHEAD * len(watch.keys)
    if not target.connection.engine.takes_header_list_of(size):
        raise purerpc.ResourceExhaustedError("the metadata is more than the peer accepts")


def fitting(
    target: Target,
    fields: list[tuple[bytes, bytes]],
    options: CallOptions,
    watch: AttemptWatch | None,
) -> tuple[list[tuple[bytes, bytes]], AttemptWatch | None]:
    """The fields and the trace context that an attempt sends to a peer.

    What comes from the call that is served is left out if the peer does not accept it all: a
    handler has not written it, so it must not make the handler's calls fail. Raises
    ResourceExhaustedError if the rest is still more than the peer accepts.
    """
    try:
        check_fits(target, fields, watch)
    except purerpc.ResourceExhaustedError:
        serving = current.get()
        carried = [] if serving is None else _carried(serving, options, watch)
        own = [field for field in fields if field not in carried]
        with contextlib.suppress(purerpc.ResourceExhaustedError):
            check_fits(target, own, watch)
            return own, watch
        check_fits(target, own, None)
        return own, None
    return fields, watch


def with_key(wish: Wish, key: str, picker: Picker, options: CallOptions) -> Wish:
    """A wish of a sticky call, which goes by the value of a metadata key."""
    value = value_of(key, (*options.metadata, *picker.metadata))
    return attrs.evolve(wish, key=None if value is None else str(value))


def varying_block(
    deadline: float, metadata: list[tuple[bytes, bytes]], watch: AttemptWatch | None
) -> bytes:
    """The rest of the head: what is left of the caller's deadline, metadata, and its trace."""
    block = b"" if watch is None else watch.block
    if deadline != math.inf:
        left = deadline - trio.current_time()
        block += hpack.encode_field(b"grpc-timeout", encode_timeout(left).encode())
    if metadata:
        block += hpack.encode(metadata)
    return block


def _carried(
    serving: Request, options: CallOptions, watch: AttemptWatch | None
) -> list[tuple[bytes, bytes]]:
    """The trace and baggage of the call that is served, but for what is said already.

    They are sent as they came (`ReceivedText`), whatever gRPC's rules for programs are.
    """
    said = {key for key, _ in options.metadata}
    if watch is not None:
        said |= watch.keys
    return encode_metadata(tuple(p for p in serving.carried_metadata if p[0] not in said))


def value_of(key: str, metadata: Metadata) -> str | bytes | None:
    """All values of a key, as one."""
    values = [value for name, value in metadata if name == key]
    return values[0] if len(values) == 1 else (",".join(map(str, values)) or None)
