"""Errors of header compression. `H2Connection` turns them into errors of connection or stream."""

from __future__ import annotations


class HpackDecodingError(Exception):
    """A header block is invalid by RFC 7541; the state of the dynamic table is unknown."""


class OversizedHeaderListError(Exception):
    """A header list is so large that decoding stopped; the state of the table is unknown."""


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
