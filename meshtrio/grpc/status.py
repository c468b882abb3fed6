"""Status codes, and the status of a call that ended without one of its own.

A status is a pair of code and message here; `meshtrio.rpc.errors` makes exceptions of it.
"""

from __future__ import annotations

from enum import IntEnum

from meshtrio.grpc.headers import ResponseHeaders, Trailers, is_grpc_content_type
from meshtrio.http2.errors import ErrorCode


class StatusCode(IntEnum):
    """Status codes of gRPC (grpc/doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


CANCELLED: int = StatusCode.CANCELLED.value
UNKNOWN: int = StatusCode.UNKNOWN.value
DEADLINE_EXCEEDED: int = StatusCode.DEADLINE_EXCEEDED.value

CallStatus = tuple[int, str]
"""Status code and status message of a call. Peers may send codes that gRPC does not define."""
STATUS_OK: CallStatus = (0, "")

_CODE_BY_ERROR_CODE = {
    int(ErrorCode.REFUSED_STREAM): StatusCode.UNAVAILABLE,
    int(ErrorCode.CANCEL): StatusCode.CANCELLED,
    int(ErrorCode.ENHANCE_YOUR_CALM): StatusCode.RESOURCE_EXHAUSTED,
    int(ErrorCode.INADEQUATE_SECURITY): StatusCode.PERMISSION_DENIED,
}
_CODE_BY_HTTP_STATUS = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    **dict.fromkeys((429, 502, 503, 504), StatusCode.UNAVAILABLE),
}

DEADLINE_TOLERANCE = 0.01
"""Seconds before the caller's deadline from which on a status counts as caused by the deadline: the
timers of servers have coarser ticks, and some stacks round the timeout to milliseconds."""


def status_code_name(code: int) -> str:
    """Return the name of a status code, "UNKNOWN" for one that gRPC does not define."""
    try:
        return StatusCode(code).name
    except ValueError:
        return "UNKNOWN"


def header_list_too_large_message(what: str, size: int, limit: int) -> str:
    """Return the status message of a call whose metadata exceeds what its receiver accepts.

    Args:
        what: "request" or "response".
        size: Bytes of the header list.
        limit: Bytes that the receiver accepts.
    """
    return (
        f"the {what}'s header list of {size} bytes is over the limit of {limit} bytes that its "
        "receiver accepts (SETTINGS_MAX_HEADER_LIST_SIZE): send less metadata"
    )


def status_of_reset(error_code: int, reason: str) -> CallStatus:
    """Return the status of a call whose stream was reset (PROTOCOL-HTTP2, "Errors")."""
    code = _CODE_BY_ERROR_CODE.get(error_code, StatusCode.INTERNAL)
    return code, f"the call's stream was reset: {reason}"


def status_of_http_status(http_status: int) -> CallStatus:
    """Return the status of a response that has none (gRPC's http-grpc-status-mapping.md)."""
    code = _CODE_BY_HTTP_STATUS.get(http_status, StatusCode.UNKNOWN)
    return code, f"the peer answered with HTTP status {http_status} and no gRPC status"


def status_of_non_grpc_response(headers: ResponseHeaders) -> CallStatus | None:
    """Return the status of a response that is not gRPC, None for one that is.

    The body of such a response is an error page. It must not be parsed as messages, so the call
    fails as soon as its header list arrives. A `grpc-status` in that list overrides the HTTP
    status.

    Source: gRPC's http-grpc-status-mapping.md, and PROTOCOL-HTTP2 on Content-Type.
    """
    if headers.http_status != 200:
        if headers.trailers is not None and headers.trailers.code:
            return headers.trailers.code, headers.trailers.message
        return status_of_http_status(headers.http_status)
    if not is_grpc_content_type(headers.content_type):
        content_type = headers.content_type
        return StatusCode.UNKNOWN, f"the peer answered with content-type {content_type!r}"
    return None


def status_of_call(
    headers: ResponseHeaders | None, trailers: Trailers | None, *, peer: str = "the peer"
) -> CallStatus:
    """Return the status of a call whose stream has ended.

    Args:
        headers: The response headers, None if there were none.
        trailers: The trailers with the status, None if the stream ended without.
        peer: How the message of a missing status calls the server.
    """
    if trailers is not None:
        return trailers.code, trailers.message
    if headers is not None and headers.http_status != 200:
        return status_of_http_status(headers.http_status)
    return StatusCode.UNKNOWN, f"{peer} ended the call without a status"
