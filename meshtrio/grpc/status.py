"""Statuses and where they come from: purerpc's exceptions, RST_STREAM codes, HTTP statuses."""

from __future__ import annotations

import purerpc

from meshtrio.grpc.headers import ResponseHeaders
from meshtrio.http2.errors import ErrorCode

CallStatus = tuple[int, str]
"""The status of a call: its code and its message."""
STATUS_OK: CallStatus = (0, "")
CANCELLED: int = purerpc.StatusCode.CANCELLED.value
UNKNOWN: int = purerpc.StatusCode.UNKNOWN.value
DEADLINE_EXCEEDED: int = purerpc.StatusCode.DEADLINE_EXCEEDED.value

_ERROR_BY_STATUS_CODE: dict[int, type[purerpc.RpcFailedError]] = {
    purerpc.StatusCode[name].value: error
    for name, error in {
        "CANCELLED": purerpc.CancelledError,
        "UNKNOWN": purerpc.UnknownError,
        "INVALID_ARGUMENT": purerpc.InvalidArgumentError,
        "DEADLINE_EXCEEDED": purerpc.DeadlineExceededError,
        "NOT_FOUND": purerpc.NotFoundError,
        "ALREADY_EXISTS": purerpc.AlreadyExistsError,
        "PERMISSION_DENIED": purerpc.PermissionDeniedError,
        "RESOURCE_EXHAUSTED": purerpc.ResourceExhaustedError,
        "FAILED_PRECONDITION": purerpc.FailedPreconditionError,
        "ABORTED": purerpc.AbortedError,
        "OUT_OF_RANGE": purerpc.OutOfRangeError,
        "UNIMPLEMENTED": purerpc.UnimplementedError,
        "INTERNAL": purerpc.InternalError,
        "UNAVAILABLE": purerpc.UnavailableError,
        "DATA_LOSS": purerpc.DataLossError,
        "UNAUTHENTICATED": purerpc.UnauthenticatedError,
    }.items()
}

_ERROR_BY_ERROR_CODE = {
    ErrorCode.REFUSED_STREAM: purerpc.UnavailableError,
    ErrorCode.CANCEL: purerpc.CancelledError,
    ErrorCode.ENHANCE_YOUR_CALM: purerpc.ResourceExhaustedError,
    ErrorCode.INADEQUATE_SECURITY: purerpc.PermissionDeniedError,
}
_ERROR_BY_HTTP_STATUS = {
    400: purerpc.InternalError,
    401: purerpc.UnauthenticatedError,
    403: purerpc.PermissionDeniedError,
    404: purerpc.UnimplementedError,
    429: purerpc.UnavailableError,
    502: purerpc.UnavailableError,
    503: purerpc.UnavailableError,
    504: purerpc.UnavailableError,
}


DEADLINE_TOLERANCE = 0.01
"""Seconds before a caller's deadline within which an answer counts as made at the deadline: a
server's timers have coarser ticks, and the deadline it was sent is rounded to milliseconds by some
stacks."""


def header_list_too_large_message(what: str, size: int, limit: int) -> str:
    """The status message of a call whose request or response has too much metadata to be sent."""
    return (
        f"the {what}'s header list of {size} bytes is over the limit of {limit} bytes that its "
        "receiver accepts (SETTINGS_MAX_HEADER_LIST_SIZE): send less metadata"
    )


def status_code_name(code: int) -> str:
    """The name of a status code, "UNKNOWN" for one gRPC does not list."""
    try:
        return str(purerpc.StatusCode(code).name)
    except ValueError:
        return "UNKNOWN"


def error_for_status(code: int, message: str) -> purerpc.RpcFailedError:
    """purerpc's exception for a status other than OK; a code gRPC does not list is UNKNOWN."""
    error = _ERROR_BY_STATUS_CODE.get(code)
    if error is None:
        return purerpc.UnknownError(f"status code {code}: {message}")
    return error(message)


def error_for_reset(code: int, reason: str) -> purerpc.RpcFailedError:
    """The status of a call whose stream was reset (PROTOCOL-HTTP2, "Errors")."""
    error = _ERROR_BY_ERROR_CODE.get(code, purerpc.InternalError)  # type: ignore[call-overload]
    return error(f"the call's stream was reset: {reason}")


def error_for_http_status(status: int) -> purerpc.RpcFailedError:
    """The status of a response without one of its own (gRPC's http-grpc-status-mapping.md)."""
    error = _ERROR_BY_HTTP_STATUS.get(status, purerpc.UnknownError)
    return error(f"the peer answered with HTTP status {status} and no gRPC status")


def error_for_response(headers: ResponseHeaders) -> purerpc.RpcFailedError | None:
    """The error for a response that is not gRPC, None for one that is.

    The body of such a response is an error page. It must not be parsed as messages, so the call
    fails as soon as its header list arrives. A `grpc-status` in that list overrides the HTTP
    status.

    Source: gRPC's http-grpc-status-mapping.md, and PROTOCOL-HTTP2 on Content-Type.
    """
    if headers.http_status != 200:
        if headers.trailers is not None and headers.trailers.code:
            return error_for_status(headers.trailers.code, headers.trailers.message)
        return error_for_http_status(headers.http_status)
    if not headers.content_type.lower().startswith("application/grpc"):
        return purerpc.UnknownError(f"the peer answered with content-type {headers.content_type!r}")
    return None
