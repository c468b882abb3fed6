"""Header blocks that are built here: their fields, and that the parser reads them back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.grpc.framing import GZIP
from meshtrio.grpc.header_builder import (
    DEFAULT_RESPONSE_HEADERS,
    MAX_TIMEOUT_FIELD_SIZE,
    OK_TRAILERS,
    PSEUDO_HEADERS,
    build_http_response,
    build_request_headers,
    build_response_headers,
    build_trailers,
    timeout_field,
)
from meshtrio.grpc.headers import parse_request_headers, parse_response_headers, parse_trailers
from meshtrio.grpc.metadata import encode_metadata
from meshtrio.http2.hpack.decoder import HeaderDecoder, HeaderList
from meshtrio.http2.hpack.encoder import HeaderBlock, header_list_size
from meshtrio.http2.limits import UNLIMITED

METADATA = (("key", "value"), ("data-bin", b"\x00\xff"))


def decode(block: HeaderBlock) -> HeaderList:
    fields = HeaderDecoder(2**20).decode(block.data, tuple)
    assert block.list_size == header_list_size(fields)
    return fields


def test_request_headers() -> None:
    block = build_request_headers(b"/a.B/C", b"plugin.a")
    assert [decode(each + block)[:2] for each in PSEUDO_HEADERS] == [
        ((b":method", b"POST"), (b":scheme", scheme)) for scheme in (b"http", b"https")
    ]
    assert decode(block) == (
        (b":path", b"/a.B/C"),
        (b":authority", b"plugin.a"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc+proto"),
        (b"grpc-accept-encoding", b"identity,gzip"),
        (b"user-agent", b"meshtrio"),
    )


def test_request_headers_with_everything() -> None:
    block = build_request_headers(
        b"/a.B/C",
        b"host",
        content_type=b"application/grpc",
        encoding=GZIP,
        accept_encoding=(),
        user_agent=b"other/1",
        metadata=[timeout_field(1.5), *encode_metadata(METADATA)],
    )
    headers = parse_request_headers(decode(PSEUDO_HEADERS[True] + block))
    assert (headers.scheme, headers.authority) == ("https", "host")
    assert (headers.content_type, headers.encoding) == ("application/grpc", "gzip")
    assert (headers.accept_encoding, headers.user_agent) == ((), "other/1")
    assert (headers.timeout, headers.metadata) == (1.5, METADATA)


@given(st.floats(min_value=0, allow_infinity=True))
def test_a_timeout_field_has_a_bounded_size(seconds: float) -> None:
    assert header_list_size([timeout_field(seconds)]) <= MAX_TIMEOUT_FIELD_SIZE


def test_response_headers() -> None:
    assert build_response_headers() is DEFAULT_RESPONSE_HEADERS
    block = build_response_headers(encoding=GZIP, metadata=encode_metadata(METADATA))
    headers = parse_response_headers(decode(block))
    assert (headers.http_status, headers.content_type) == (200, "application/grpc+proto")
    assert (headers.encoding, headers.metadata) == ("gzip", METADATA)
    block = build_response_headers(content_type=b"application/grpc")
    assert decode(block) == ((b":status", b"200"), (b"content-type", b"application/grpc"))


def test_trailers() -> None:
    assert build_trailers(0) == OK_TRAILERS
    trailers = parse_trailers(
        decode(build_trailers(5, "not é", b"details", encode_metadata(METADATA)))
    )
    assert trailers is not None
    assert (trailers.code, trailers.message, trailers.details) == (5, "not é", b"details")
    assert ("key", "value") in trailers.metadata


def test_an_encoded_message_is_sent_as_it_is() -> None:
    assert decode(build_trailers(2, encoded_message=b"%C3%A9%")) == (
        (b"grpc-status", b"2"),
        (b"grpc-message", b"%C3%A9%"),
    )


@given(st.text(max_size=200), st.integers(0, 400), st.just(UNLIMITED) | st.integers(32, 200))
def test_trailers_fit_if_the_status_does(message: str, room: int, longest: int) -> None:
    block = build_trailers(13, message, max_size=room, max_message_size=longest)
    assert block.list_size <= max(room, build_trailers(13).list_size)
    message_fields = [value for name, value in decode(block) if name == b"grpc-message"]
    assert all(len(value) <= min(longest, room) for value in message_fields)


@pytest.mark.parametrize("content_type", [b"", b"text/plain"])
def test_a_response_that_is_not_grpc(content_type: bytes) -> None:
    headers = parse_response_headers(decode(build_http_response(415, content_type)))
    assert (headers.http_status, headers.content_type) == (415, content_type.decode())
    assert headers.trailers is None
