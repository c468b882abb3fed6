"""The head of an attempt: what all calls of a method have, and what each adds to it."""

from __future__ import annotations

import math

import attrs
import purerpc
import trio

from meshtrio.client.call_destination import (
    DEFAULT_OPTIONS,
    CallDestination,
    CallOptions,
    PickArgs,
    PickResult,
)
from meshtrio.client.retry.policy import PREVIOUS_ATTEMPTS_KEY
from meshtrio.grpc.header_builder import (
    MAX_TIMEOUT_FIELD_SIZE,
    build_request_headers,
    timeout_field,
)
from meshtrio.grpc.metadata import encode_metadata, get_metadata_value
from meshtrio.grpc.status import header_list_too_large_message
from meshtrio.http2.hpack import codec
from meshtrio.http2.hpack.codec import HeaderBlock, header_list_size
from meshtrio.http2.hpack.decoder import ENTRY_OVERHEAD
from meshtrio.rpc.context import ServerContext, current_context
from meshtrio.rpc.method import Method
from meshtrio.rpc.tracer import AttemptTracer
from meshtrio.rpc.tracer_dispatch import notify_tracer


def encode_method_headers(method: Method, picker: CallDestination) -> HeaderBlock:
    """The part of a request's head that is the same for every call of a method."""
    return build_request_headers(
        method.path.encode(), picker.scheme.encode(), picker.authority.encode()
    )


def build_attempt_fields(
    picker: CallDestination,
    options: CallOptions,
    previous_attempts: int,
    tracer: AttemptTracer | None,
    deadline: float,
) -> list[tuple[bytes, bytes]]:
    """The header fields of an attempt beside those that all calls of its method have, which its
    watch is told."""
    fields = [] if options is DEFAULT_OPTIONS else options.encode_headers()
    if picker.metadata:
        fields += encode_metadata(picker.metadata)
    if fields and tracer is not None:
        fields = [field for field in fields if not _is_set_by_tracer(field[0], tracer)]
    serving = current_context.get()
    if serving is not None:
        fields += _propagated_fields(serving, options, tracer)
    if previous_attempts:
        fields.append((PREVIOUS_ATTEMPTS_KEY, b"%d" % previous_attempts))
    if tracer is not None and tracer.wants_pick_events:
        notify_tracer(picker.name, tracer.before_pick, picker.authority, fields, deadline)
    return fields


def _is_set_by_tracer(key: bytes, tracer: AttemptTracer) -> bool:
    """Whether what a caller says is said of the attempt: whoever gets two parents goes by none.
    Baggage adds up (W3C Baggage)."""
    said = key.decode()
    return said in tracer.extra_header_keys and said != "baggage"


def request_header_list_size(
    block: HeaderBlock, fields: list[tuple[bytes, bytes]], tracer: AttemptTracer | None
) -> int:
    """The size of a request's whole header list in bytes, with a `grpc-timeout` of any length."""
    size = block.list_size + MAX_TIMEOUT_FIELD_SIZE
    if fields:
        size += header_list_size(fields)
    if tracer is not None:
        size += len(tracer.extra_headers) + ENTRY_OVERHEAD * len(tracer.extra_header_keys)
    return size


def fit_header_list(
    pick_result: PickResult,
    block: HeaderBlock,
    fields: list[tuple[bytes, bytes]],
    options: CallOptions,
    tracer: AttemptTracer | None,
) -> tuple[list[tuple[bytes, bytes]], AttemptTracer | None]:
    """Leave out of a request with too much metadata what the handler's caller has sent.

    A handler has not written the trace and the baggage of the call that it serves, so they must not
    make its own calls fail.

    Returns:
        The fields and the trace context that the attempt sends.

    Raises:
        ResourceExhaustedError: The rest is still more than the peer accepts.
    """
    limit = pick_result.connection.engine.max_send_header_list_size
    serving = current_context.get()
    carried = [] if serving is None else _propagated_fields(serving, options, tracer)
    own = [field for field in fields if field not in carried]
    for traced in (tracer, None):
        if request_header_list_size(block, own, traced) <= limit:
            return own, traced
    size = request_header_list_size(block, fields, tracer)
    raise purerpc.ResourceExhaustedError(header_list_too_large_message("request", size, limit))


def with_hash_key(
    pick_args: PickArgs, key: str, picker: CallDestination, options: CallOptions
) -> PickArgs:
    """A wish of a sticky call, which goes by the value of a metadata key."""
    value = get_metadata_value(key, (*options.metadata, *picker.metadata))
    return attrs.evolve(pick_args, hash_key=None if value is None else str(value))


def encode_attempt_headers(
    deadline: float, fields: list[tuple[bytes, bytes]], tracer: AttemptTracer | None
) -> bytes:
    """The rest of the head: what is left of the caller's deadline, metadata, and its trace."""
    block = b"" if tracer is None else tracer.extra_headers
    if deadline != math.inf:
        left = deadline - trio.current_time()
        block += codec.encode_field(*timeout_field(left))
    if fields:
        block += codec.encode(fields)
    return block


def _propagated_fields(
    server_context: ServerContext, options: CallOptions, tracer: AttemptTracer | None
) -> list[tuple[bytes, bytes]]:
    """The trace and baggage of the call that is served, but for what is said already.

    They are sent as they came (`ReceivedText`), whatever gRPC's rules for programs are.
    """
    said = {key for key, _ in options.metadata}
    if tracer is not None:
        said |= tracer.extra_header_keys
    return encode_metadata(tuple(p for p in server_context.propagated_metadata if p[0] not in said))
