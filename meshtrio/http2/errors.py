"""Error codes of RFC 9113 §7 and the exceptions the engine uses to speak of them."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """HTTP/2 error codes, RFC 9113 §7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def error_code_name(code: int) -> str:
    """Name an error code from the wire; a code RFC 9113 does not list is given as a number."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error code {code:#x}"


class RemoteProtocolError(Exception):
    """The peer broke RFC 9113 in a way that ends the connection (§5.4.1)."""

    def __init__(self, error_code: ErrorCode, reason: str) -> None:
        super().__init__(f"{error_code.name}: {reason}")
        self.error_code = error_code
        self.reason = reason


class DenialOfServiceError(RemoteProtocolError):
    """The peer made more work than its budgets allow, such as by streams that it reset at once."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorCode.ENHANCE_YOUR_CALM, reason)


class StreamError(Exception):
    """The peer broke RFC 9113 in a way that ends one stream only (§5.4.2)."""

    def __init__(self, stream_id: int, error_code: ErrorCode, reason: str) -> None:
        super().__init__(f"stream {stream_id}: {error_code.name}: {reason}")
        self.stream_id = stream_id
        self.error_code = error_code
        self.reason = reason


class MalformedHeadersError(Exception):
    """A header list that RFC 9113 §8.1.1 calls malformed; the stream it came on is at fault."""


class LocalProtocolError(Exception):
    """The layer above asked the engine for what its state does not allow: a bug on our side."""
