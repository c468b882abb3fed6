"""The mapping of HTTP statuses, reset codes and headers to gRPC statuses, by gRPC's documents."""

from __future__ import annotations

import purerpc
import pytest

from meshtrio.grpc.status import status_of_http_status
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.errors import error_for_reset, error_for_status, status_of_error


@pytest.mark.parametrize("code", list(purerpc.StatusCode)[1:])
def test_every_status_has_its_exception(code: purerpc.StatusCode) -> None:
    error = error_for_status(code.value, "why")
    assert error.status.status_code is code
    assert error.status.status_message == "why"


def test_a_status_that_grpc_does_not_list_is_unknown() -> None:
    assert isinstance(error_for_status(99, "why"), purerpc.UnknownError)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ErrorCode.NO_ERROR, purerpc.InternalError),
        (ErrorCode.PROTOCOL_ERROR, purerpc.InternalError),
        (ErrorCode.FLOW_CONTROL_ERROR, purerpc.InternalError),
        (ErrorCode.REFUSED_STREAM, purerpc.UnavailableError),
        (ErrorCode.CANCEL, purerpc.CancelledError),
        (ErrorCode.ENHANCE_YOUR_CALM, purerpc.ResourceExhaustedError),
        (ErrorCode.INADEQUATE_SECURITY, purerpc.PermissionDeniedError),
        (0xDEAD, purerpc.InternalError),
    ],
)
def test_reset_codes(code: int, expected: type[Exception]) -> None:
    assert isinstance(error_for_reset(code, "why"), expected)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, purerpc.InternalError),
        (401, purerpc.UnauthenticatedError),
        (403, purerpc.PermissionDeniedError),
        (404, purerpc.UnimplementedError),
        (429, purerpc.UnavailableError),
        (502, purerpc.UnavailableError),
        (503, purerpc.UnavailableError),
        (504, purerpc.UnavailableError),
        (500, purerpc.UnknownError),
        (204, purerpc.UnknownError),
    ],
)
def test_http_statuses(status: int, expected: type[Exception]) -> None:
    assert isinstance(error_for_status(*status_of_http_status(status)), expected)


def test_an_error_without_a_message_has_an_empty_one() -> None:
    assert status_of_error(purerpc.NotFoundError(None)) == (5, "")
