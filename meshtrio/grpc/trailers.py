"""The fields that end a call: status, message, details and metadata, within a limit of the peer."""

from __future__ import annotations

from meshtrio.grpc.metadata import encode_binary, encode_status_message
from meshtrio.http2 import frames
from meshtrio.http2.hpack.codec import HeaderBlock, header_list_size

_GRPC_MESSAGE = b"grpc-message"
_MIN_MESSAGE_SIZE = 32
"""Bytes of an encoded message below which it is left out: an ellipsis and a word or two."""


def encode_trailers(
    code: int,
    message: str,
    details: bytes,
    metadata: list[tuple[bytes, bytes]],
    *,
    max_size: int = frames.UNLIMITED,
    max_message_size: int | None = None,
) -> HeaderBlock:
    """Encode the trailers of a call.

    The message gets the room that the rest leaves; one that does not fit is cut. The status itself
    must always arrive, so the caller has to leave out the metadata and the details if the result is
    still larger than `room`.

    Args:
        code: The status code.
        message: The status message, which may be empty.
        details: A serialized google.rpc.Status, or nothing.
        metadata: Encoded fields.
        room: Bytes that the whole list should have at most.
        max_message_size: Bytes of the encoded message at most, however much room there is.
    """
    fields = [(b"grpc-status", b"%d" % code)]
    rest = [(b"grpc-status-details-bin", encode_binary(details))] if details else []
    rest += metadata
    if message:
        left = max_size - header_list_size([*fields, *rest, (_GRPC_MESSAGE, b"")])
        if left >= _MIN_MESSAGE_SIZE:
            limit = left if max_message_size is None else min(left, max_message_size)
            fields.append((_GRPC_MESSAGE, encode_status_message(message, limit)))
    return HeaderBlock.encode(fields + rest)
