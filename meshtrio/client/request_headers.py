"""Request headers of an attempt, in addition to those that all calls of its method share."""

from __future__ import annotations

import math

import purerpc
import trio

from meshtrio.client.call_destination import DEFAULT_OPTIONS, CallContext, CallOptions
from meshtrio.client.channel_endpoint import PickArgs
from meshtrio.client.retry.policy import PREVIOUS_ATTEMPTS_KEY
from meshtrio.grpc.header_builder import MAX_TIMEOUT_FIELD_SIZE, PSEUDO_HEADERS, timeout_field
from meshtrio.grpc.metadata import encode_metadata, get_metadata_value
from meshtrio.grpc.status import header_list_too_large_message
from meshtrio.http2.hpack import encoder
from meshtrio.http2.hpack.decoder import ENTRY_OVERHEAD, HeaderField
from meshtrio.http2.hpack.encoder import header_list_size
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.context import current_context
from meshtrio.rpc.tracer import AttemptTracer
from meshtrio.rpc.tracer_dispatch import notify_tracer

_MAX_COMMON_SIZE = max(each.list_size for each in PSEUDO_HEADERS) + MAX_TIMEOUT_FIELD_SIZE
"""Maximum size in a header list, in bytes, of the fields that every call has."""


def build_attempt_fields(
    call: CallContext, tracer: AttemptTracer | None, deadline: float
) -> list[HeaderField]:
    """Build the metadata fields of an attempt, and notify its tracer of them.

    The tracer's fields replace those of the call and the channel: a server that receives two
    parents of a trace ignores both. Baggage is combined (W3C Baggage).
    """
    channel, options = call.channel, call.options
    if (
        tracer is None
        and options is DEFAULT_OPTIONS
        and not channel.metadata
        and current_context.get() is None
        and not call.previous_attempts
    ):
        return []
    fields = [] if options is DEFAULT_OPTIONS else options.encode_headers()
    if channel.metadata:
        fields += encode_metadata(channel.metadata)
    if fields and tracer is not None:
        replaced = tracer.extra_header_keys - {"baggage"}
        fields = [field for field in fields if field[0].decode() not in replaced]
    if current_context.get() is not None:
        fields += _propagated_fields(options, tracer)
    if call.previous_attempts:
        fields.append((PREVIOUS_ATTEMPTS_KEY, b"%d" % call.previous_attempts))
    if tracer is not None and tracer.wants_pick_events:
        notify_tracer(channel.name, tracer.before_pick, channel.authority, fields, deadline)
    return fields


def _header_list_size(
    call: CallContext, fields: list[HeaderField], tracer: AttemptTracer | None
) -> int:
    """Return the size of a request's header list in bytes, with the longest `grpc-timeout`."""
    size = call.method_headers.list_size + _MAX_COMMON_SIZE
    if fields:
        size += header_list_size(fields)
    if tracer is not None:
        size += len(tracer.extra_headers) + ENTRY_OVERHEAD * len(tracer.extra_header_keys)
    return size


def _fit_header_list(
    call: CallContext, fields: list[HeaderField], tracer: AttemptTracer | None, limit: int
) -> tuple[list[HeaderField], AttemptTracer | None]:
    """Drop propagated metadata, and then the trace, from a request that is too large for the peer.

    The trace and baggage of the call that a handler serves are not its own, so they must not make
    its calls fail. Returns the metadata fields and the tracer whose fields the attempt sends.

    Raises:
        ResourceExhaustedError: The rest is still larger than the peer accepts.
    """
    propagated = _propagated_fields(call.options, tracer)
    own = [field for field in fields if field not in propagated]
    for sent_tracer in (tracer, None):
        if _header_list_size(call, own, sent_tracer) <= limit:
            return own, sent_tracer
    size = _header_list_size(call, fields, tracer)
    raise purerpc.ResourceExhaustedError(header_list_too_large_message("request", size, limit))


def add_hash_key(call: CallContext) -> PickArgs:
    """Return the call's pick arguments with the value of the channel's hash header."""
    assert call.channel.hash_header is not None
    metadata = (*call.options.metadata, *call.channel.metadata)
    value = get_metadata_value(call.channel.hash_header, metadata)
    return call.pick_args.replace(hash_key=None if value is None else str(value))


def encode_attempt_headers(
    connection: ClientConnection,
    call: CallContext,
    fields: list[HeaderField],
    tracer: AttemptTracer | None,
    deadline: float,
) -> bytes:
    """Encode the request headers of one attempt: those of its method, trace, timeout and metadata.

    Raises:
        ResourceExhaustedError: The peer does not accept as large a header list.
    """
    limit, common = connection.peer_settings.max_header_list_size, call.method_headers
    is_plain = not fields and tracer is None and common.list_size + _MAX_COMMON_SIZE <= limit
    if not is_plain and _header_list_size(call, fields, tracer) > limit:
        fields, tracer = _fit_header_list(call, fields, tracer, limit)
    block = connection.pseudo_headers.data + common.data
    if tracer is not None:
        block += tracer.extra_headers
    if deadline != math.inf:
        block += encoder.encode_field(*timeout_field(deadline - trio.current_time()))
    if fields:
        block += encoder.encode(fields)
    return block


def _propagated_fields(options: CallOptions, tracer: AttemptTracer | None) -> list[HeaderField]:
    """Encode the trace and baggage of the served call, except for keys that the call sets itself.

    They are sent as they were received (`ReceivedText`).
    """
    serving = current_context.get()
    if serving is None:
        return []
    overridden = {key for key, _ in options.metadata}
    if tracer is not None:
        overridden |= tracer.extra_header_keys
    sent = (pair for pair in serving.propagated_metadata if pair[0] not in overridden)
    return encode_metadata(tuple(sent))
