"""Responses to requests that no handler and no upstream takes."""

from __future__ import annotations

import contextlib
from typing import Protocol

import purerpc
import trio

from meshtrio.grpc.compression import ENCODINGS
from meshtrio.grpc.header_builder import (
    ACCEPT_ENCODING,
    DEFAULT_RESPONSE_HEADERS,
    build_http_response,
    build_trailers,
)
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.status import CallStatus
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.settings import PeerSettings
from meshtrio.rpc.handlers import FoundHandler, UnavailableService
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.stream_transport import StreamTransport

MAX_STATUS_MESSAGE_SIZE = 4096
"""Maximum size of an encoded status message, in bytes; longer ones are truncated.

Peers limit their header lists, by default to 8 KiB (grpc-java) or 16 KiB (gRPC's C core).
"""
_UNIMPLEMENTED = purerpc.StatusCode.UNIMPLEMENTED
Rejection = tuple[purerpc.StatusCode, str, bytes]
"""The status of a rejected call, and encoded header fields to send with it."""
_NON_GRPC_HEADERS = build_http_response(415, b"text/plain").data
_TOO_LARGE_HEADERS = build_http_response(431).data
_NON_GRPC_TIMEOUT = 5.0
"""Seconds to wait for the end of a request that is not gRPC before the response is sent."""
_NON_GRPC_BODY = b"This server speaks gRPC: POST with content-type application/grpc.\n"


class RejectingConnection(StreamTransport, Protocol):
    """The part of a server's connection that rejecting a request needs."""

    peer_settings: PeerSettings

    def finish_stream(self, stream_id: int) -> None: ...


def encode_server_status(max_list_size: int, code: purerpc.StatusCode, message: str) -> bytes:
    """Encode the trailers of a call that the server ends by itself.

    They fit into a header list of their own, or behind the response headers (Trailers-Only).
    """
    headers_size = DEFAULT_RESPONSE_HEADERS.list_size + ACCEPT_ENCODING.list_size
    return build_trailers(
        code.value,
        message,
        max_size=max_list_size - headers_size,
        max_message_size=MAX_STATUS_MESSAGE_SIZE,
    ).data


def send_trailers_only(
    connection: RejectingConnection,
    stream_id: int,
    code: purerpc.StatusCode,
    message: str,
    extra_headers: bytes = b"",
) -> CallStatus:
    """Send the status of a call as a Trailers-Only response, and return it."""
    # The peer may have reset the stream in the same read.
    if connection.is_send_open(stream_id):
        max_size = connection.peer_settings.max_header_list_size
        trailers = encode_server_status(max_size, code, message)
        block = DEFAULT_RESPONSE_HEADERS.data + extra_headers + trailers
        connection.send_headers(stream_id, block, end_stream=True)
        connection.finish_stream(stream_id)
    connection.counters.failed += 1
    return code.value, message


def find_rejection(headers: RequestHeaders, handler: FoundHandler) -> Rejection | None:
    """Return why no handler can serve a call; None if one can."""
    if handler is None:
        return _UNIMPLEMENTED, f"{headers.path} is unknown", b""
    if isinstance(handler, UnavailableService):
        return purerpc.StatusCode.UNAVAILABLE, handler.reason, b""
    if headers.encoding not in ENCODINGS:
        message = f"unsupported grpc-encoding {headers.encoding!r}"
        return _UNIMPLEMENTED, message, ACCEPT_ENCODING.data
    return None


def respond_header_list_too_large(connection: RejectingConnection, stream_id: int) -> None:
    """Respond to a request that is not gRPC and whose header list is too large (RFC 6585 §5)."""
    if connection.is_send_open(stream_id):
        connection.send_headers(stream_id, _TOO_LARGE_HEADERS, end_stream=True)
        connection.finish_stream(stream_id)


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
