"""Responses to requests that no handler and no upstream takes."""

from __future__ import annotations

import contextlib

import purerpc
import trio

from meshtrio.grpc import header_builder
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.stream import Stream

MAX_STATUS_MESSAGE_SIZE = 4096
"""Maximum size of an encoded status message, in bytes; longer ones are truncated.

Peers limit their header lists, by default to 8 KiB (grpc-java) or 16 KiB (gRPC's C core).
"""
_NON_GRPC_HEADERS = header_builder.build_http_response(415, b"text/plain").data
TOO_LARGE_RESPONSE = header_builder.build_http_response(431).data
"""The response to a request that is not gRPC and whose header list is too large (RFC 6585 §5)."""
_NON_GRPC_TIMEOUT = 5.0
"""Seconds to wait for the end of a request that is not gRPC before the response is sent."""
_NON_GRPC_BODY = b"This server speaks gRPC: POST with content-type application/grpc.\n"


def encode_server_status(max_list_size: int, code: int, message: str) -> bytes:
    """Encode the trailers of a call that the server ends by itself.

    They fit into a header list of their own, or behind the response headers (Trailers-Only).
    """
    headers_size = (
        header_builder.DEFAULT_RESPONSE_HEADERS.list_size + header_builder.ACCEPT_ENCODING.list_size
    )
    return header_builder.build_trailers(
        code,
        message,
        max_size=max_list_size - headers_size,
        max_message_size=MAX_STATUS_MESSAGE_SIZE,
    ).data


def encode_trailers_only(
    max_list_size: int, code: int, message: str, extra_headers: bytes = b""
) -> bytes:
    """Encode a response that is a status alone (Trailers-Only)."""
    trailers = encode_server_status(max_list_size, code, message)
    return header_builder.DEFAULT_RESPONSE_HEADERS.data + extra_headers + trailers


class DiscardingStream(Stream):
    """A stream whose DATA is dropped."""

    __slots__ = ()

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if end_stream:
            self.on_end_stream(None)


async def respond_non_grpc(stream: Stream) -> None:
    """Respond to a request that is not gRPC, of a browser or curl, with 415 and an explanation."""
    try:
        with contextlib.suppress(purerpc.RpcFailedError):
            with trio.move_on_after(_NON_GRPC_TIMEOUT):
                await stream.receive()
            await stream.send_data(_NON_GRPC_BODY, headers=_NON_GRPC_HEADERS, end_stream=True)
    finally:
        stream.reset(ErrorCode.NO_ERROR)
