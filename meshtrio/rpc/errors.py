"""Exceptions for statuses: purerpc's class for each status code."""

from __future__ import annotations

import purerpc

from meshtrio.grpc import status
from meshtrio.grpc.headers import ResponseHeaders, Trailers

_ERROR_BY_STATUS_CODE: dict[int, type[purerpc.RpcFailedError]] = {
    code.value: getattr(purerpc, f"{code.name.title().replace('_', '')}Error")
    for code in status.StatusCode
    if code is not status.StatusCode.OK
}


def error_for_status(code: int, message: str) -> purerpc.RpcFailedError:
    """Return the exception for a status other than OK; codes that gRPC lacks become UNKNOWN."""
    error = _ERROR_BY_STATUS_CODE.get(code)
    if error is None:
        return purerpc.UnknownError(f"status code {code}: {message}")
    return error(message)


def status_of_error(error: purerpc.RpcFailedError) -> status.CallStatus:
    """Return the status that an exception is for."""
    return error.status.status_code.value, str(error.status.status_message or "")


def error_for_reset(error_code: int, reason: str) -> purerpc.RpcFailedError:
    """Return the exception for a call whose stream was reset."""
    return error_for_status(*status.status_of_reset(error_code, reason))


def error_for_response(headers: ResponseHeaders) -> purerpc.RpcFailedError | None:
    """Return the exception for a response that is not gRPC, None for one that is."""
    found = status.status_of_non_grpc_response(headers)
    return None if found is None else error_for_status(*found)


def error_for_call(
    headers: ResponseHeaders | None, trailers: Trailers | None, *, peer: str = "the peer"
) -> purerpc.RpcFailedError:
    """Return the exception for a call whose stream has ended with a status other than OK.

    Args:
        headers: The response headers, None if there were none.
        trailers: The trailers with the status, None if the stream ended without. Their metadata and
            details become attributes of the exception.
        peer: How the message of a missing status calls the server.
    """
    error = error_for_status(*status.status_of_call(headers, trailers, peer=peer))
    if trailers is not None:
        error.trailing_metadata = trailers.metadata
        error.status_details = trailers.details
    return error
