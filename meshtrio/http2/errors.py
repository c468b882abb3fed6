"""Error codes of RFC 9113 §7, and exceptions for violations of the protocol."""

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
    """Return the name of a received error code, or its number if RFC 9113 does not define it."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error code {code:#x}"


class RemoteProtocolError(Exception):
    """The peer violated the protocol in a way that ends the connection (RFC 9113 §5.4.1).

    Attributes:
        reason: What the peer did, for the debug data of GOAWAY.
        error_code: Error code for GOAWAY.
        is_abuse: Whether it is a DenialOfServiceError.
    """

    is_abuse = False

    def __init__(self, reason: str, error_code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(f"{error_code.name}: {reason}")
        self.error_code = error_code
        self.reason = reason


class DenialOfServiceError(RemoteProtocolError):
    """The peer exceeded the limits on what costs it nothing, such as opening and resetting streams.

    See `meshtrio.http2.abuse_limits`.
    """

    is_abuse = True

    def __init__(self, reason: str) -> None:
        super().__init__(reason, ErrorCode.ENHANCE_YOUR_CALM)


class FrameSizeError(RemoteProtocolError):
    """A frame has a size that its type does not allow."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, ErrorCode.FRAME_SIZE_ERROR)


class StreamError(Exception):
    """The peer violated the protocol in a way that ends one stream (RFC 9113 §5.4.2).

    Attributes:
        stream_id: The stream.
        reason: What the peer did.
        error_code: Error code for RST_STREAM.
    """

    def __init__(
        self, stream_id: int, reason: str, error_code: ErrorCode = ErrorCode.PROTOCOL_ERROR
    ) -> None:
        super().__init__(f"stream {stream_id}: {error_code.name}: {reason}")
        self.stream_id = stream_id
        self.error_code = error_code
        self.reason = reason


class MalformedHeadersError(Exception):
    """A header list is malformed (RFC 9113 §8.1.1), which is an error of its stream."""


class LocalProtocolError(Exception):
    """The caller did what the state of the connection does not allow, which is a bug of its own."""


class HpackDecodingError(RemoteProtocolError):
    """A header block is invalid by RFC 7541; the state of the dynamic table is unknown."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"header block cannot be decoded: {reason}", ErrorCode.COMPRESSION_ERROR)


class HeaderListTooLargeError(Exception):
    """A header list exceeds the limit of this side and was discarded.

    It was decoded to its end, so the next block can be decoded.

    Attributes:
        size: Bytes of the header list, as RFC 9113 §6.5.2 counts them.
        limit: Bytes that a header list may have.
        content_type: Value of its content-type field, which decides on the form of the response.
    """

    def __init__(self, size: int, limit: int, *, content_type: bytes = b"") -> None:
        super().__init__(
            f"the header list of {size} bytes is over the receiver's limit of {limit} bytes "
            "(max_header_list_size)"
        )
        self.size = size
        self.limit = limit
        self.content_type = content_type
