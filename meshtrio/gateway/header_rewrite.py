"""Header blocks of a proxied call: what was received from one side, encoded for the other.

The engine returns the same object for a header block that it has decoded recently, so rewritten
blocks are cached by identity: those of requests by `Route`.
"""

from __future__ import annotations

from meshtrio.contract import FORWARDED_METADATA_KEY
from meshtrio.grpc import header_builder
from meshtrio.grpc.headers import RequestHeaders, ResponseHeaders, Trailers
from meshtrio.grpc.metadata import encode_received_metadata
from meshtrio.http2.hpack.encoder import HeaderBlock
from meshtrio.util.caches import IdentityCache


def rewrite_request_headers(
    headers: RequestHeaders, scheme: str, authority: str, forwarded_for: str
) -> HeaderBlock:
    """Build the request headers for the plugin, without the timeout.

    `forwarded_for` is the client that the call comes from, for `FORWARDED_METADATA_KEY`.
    """
    metadata = tuple(pair for pair in headers.metadata if pair[0] != FORWARDED_METADATA_KEY)
    forwarded = FORWARDED_METADATA_KEY.encode(), forwarded_for.encode()
    return header_builder.build_request_headers(
        headers.path.encode("latin-1"),
        scheme.encode(),
        authority.encode(),
        content_type=headers.content_type.encode("latin-1"),
        encoding=headers.encoding,
        accept_encoding=headers.accept_encoding,
        user_agent=headers.user_agent.encode("latin-1"),
        metadata=[forwarded, *encode_received_metadata(metadata)],
    )


def _rewrite_response_headers(headers: ResponseHeaders) -> HeaderBlock:
    # A Trailers-Only response has its metadata in the trailers.
    metadata = headers.metadata if headers.trailers is None else ()
    return header_builder.build_response_headers(
        content_type=headers.content_type.encode("latin-1"),
        encoding=headers.encoding,
        metadata=encode_received_metadata(metadata),
    )


def _rewrite_trailers(trailers: Trailers) -> HeaderBlock:
    """Build the trailers for the client, with the status message as the plugin encoded it."""
    return header_builder.build_trailers(
        trailers.code,
        details=trailers.details,
        metadata=encode_received_metadata(trailers.metadata),
        encoded_message=trailers.encoded_message,
    )


rewrite_response_headers = IdentityCache(_rewrite_response_headers)
"""Builds the response headers for the client."""
_rewrite_trailers_cached = IdentityCache(_rewrite_trailers)


def rewrite_trailers(trailers: Trailers, max_size: int) -> HeaderBlock:
    """Build the trailers for the client, with the status message truncated to fit `max_size`."""
    block = _rewrite_trailers_cached(trailers)
    if block.list_size <= max_size:
        return block
    metadata = encode_received_metadata(trailers.metadata)
    code, message, details = trailers.code, trailers.message, trailers.details
    return header_builder.build_trailers(code, message, details, metadata, max_size=max_size)
