"""The head of an attempt: what all calls of a method have, and what each adds to it."""

from __future__ import annotations

import math

import attrs
import purerpc
import trio

from meshtrio.client.picker import PLAIN, CallOptions, Picker, Target, Wish
from meshtrio.policies.retry import PREVIOUS_ATTEMPTS
from meshtrio.rpc.current import current
from meshtrio.rpc.observe import AttemptWatch
from meshtrio.rpc.seam import Method, Request
from meshtrio.rpc.status import header_list_too_large
from meshtrio.rpc.tracing import notify
from meshtrio.wire import hpack
from meshtrio.wire.compression import ENCODINGS
from meshtrio.wire.field_decoder import FIELD_OVERHEAD
from meshtrio.wire.grpc import Metadata, encode_metadata, encode_timeout
from meshtrio.wire.hpack import HeaderBlock, header_list_size

_TIMEOUT_SIZE = header_list_size([(b"grpc-timeout", b"99999999H")])


def request_block(method: Method, picker: Picker) -> HeaderBlock:
    """The part of a request's head that is the same for every call of a method."""
    return HeaderBlock.of(
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
        notify(picker.name, watch.asks, picker.authority, fields, deadline)
    return fields


def _replaced(key: bytes, watch: AttemptWatch) -> bool:
    """Whether what a caller says is said of the attempt: whoever gets two parents goes by none.
    Baggage adds up (W3C Baggage)."""
    said = key.decode()
    return said in watch.keys and said != "baggage"


def request_size(
    block: HeaderBlock, fields: list[tuple[bytes, bytes]], watch: AttemptWatch | None
) -> int:
    """The size of a request's whole header list in bytes, with a `grpc-timeout` of any length."""
    size = block.size + _TIMEOUT_SIZE
    if fields:
        size += header_list_size(fields)
    if watch is not None:
        size += len(watch.block) + FIELD_OVERHEAD * len(watch.keys)
    return size


def fitting(
    target: Target,
    block: HeaderBlock,
    fields: list[tuple[bytes, bytes]],
    options: CallOptions,
    watch: AttemptWatch | None,
) -> tuple[list[tuple[bytes, bytes]], AttemptWatch | None]:
    """Leave out of a request with too much metadata what the handler's caller has sent.

    A handler has not written the trace and the baggage of the call that it serves, so they must not
    make its own calls fail.

    Returns:
        The fields and the trace context that the attempt sends.

    Raises:
        ResourceExhaustedError: The rest is still more than the peer accepts.
    """
    limit = target.connection.engine.max_sent_header_list
    serving = current.get()
    carried = [] if serving is None else _carried(serving, options, watch)
    own = [field for field in fields if field not in carried]
    for traced in (watch, None):
        if request_size(block, own, traced) <= limit:
            return own, traced
    size = request_size(block, fields, watch)
    raise purerpc.ResourceExhaustedError(header_list_too_large("request", size, limit))


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
