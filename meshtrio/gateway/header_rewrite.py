"""Header blocks of a proxied call: what was received from one side, encoded for the other.

The engine returns the same object for a header block that it has decoded recently, so callers cache
the rewritten block with an `IdentityCache`.
"""

from __future__ import annotations

from meshtrio.contract import FORWARDED_METADATA_KEY
from meshtrio.grpc.header_builder import (
    build_request_headers,
    build_response_headers,
    build_trailers,
)
from meshtrio.grpc.headers import RequestHeaders, ResponseHeaders, Trailers
from meshtrio.grpc.metadata import encode_received_metadata
from meshtrio.http2.hpack.encoder import HeaderBlock


def rewrite_request_headers(
    headers: RequestHeaders, scheme: str, authority: str, forwarded_for: str
) -> HeaderBlock:
    """Build the request headers for the plugin, without the timeout.

    Args:
        headers: The headers that the gateway received.
        scheme: Scheme of the connection to the plugin.
        authority: Authority of the plugin.
        forwarded_for: The client that the call comes from, for `FORWARDED_METADATA_KEY`.
    """
    metadata = tuple(pair for pair in headers.metadata if pair[0] != FORWARDED_METADATA_KEY)
    return build_request_headers(
        headers.path.encode("latin-1"),
        scheme.encode(),
        authority.encode(),
        content_type=headers.content_type.encode("latin-1"),
        encoding=headers.encoding,
        accept_encoding=headers.accept_encoding,
        user_agent=headers.user_agent.encode("latin-1"),
        metadata=[
            (FORWARDED_METADATA_KEY.encode(), forwarded_for.encode()),
            *encode_received_metadata(metadata),
        ],
    )


def rewrite_response_headers(headers: ResponseHeaders) -> HeaderBlock:
    """Build the response headers for the client."""
    # A Trailers-Only response has its metadata in the trailers.
    metadata = headers.metadata if headers.trailers is None else ()
    return build_response_headers(
        content_type=headers.content_type.encode("latin-1"),
        encoding=headers.encoding,
        metadata=encode_received_metadata(metadata),
    )


def rewrite_trailers(trailers: Trailers) -> HeaderBlock:
    """Build the trailers for the client, with the status message as the plugin encoded it."""
    return build_trailers(
        trailers.code,
        details=trailers.details,
        metadata=encode_received_metadata(trailers.metadata),
        encoded_message=trailers.encoded_message,
    )


def rewrite_trailers_truncated(trailers: Trailers, max_size: int) -> HeaderBlock:
    """Build the trailers for the client, with the status message truncated to fit `max_size`."""
    return build_trailers(
        trailers.code,
        trailers.message,
        trailers.details,
        encode_received_metadata(trailers.metadata),
        max_size=max_size,
    )
