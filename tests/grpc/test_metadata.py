"""Custom metadata: what a program may write, and what a peer has sent."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrio.grpc.headers import parse_trailers
from meshtrio.grpc.metadata import ReceivedText, decode_binary, encode_metadata
from meshtrio.http2.errors import MalformedHeadersError

quick = settings(max_examples=100)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        pytest.param("key", "value", (b"key", b"value"), id="text"),
        pytest.param("a-b_c.9", "v", (b"a-b_c.9", b"v"), id="every kind of character"),
        pytest.param("key", "", (b"key", b""), id="empty text"),
        pytest.param("key", " a b ", (b"key", b"a b"), id="spaces around it"),
        pytest.param("key", "!~", (b"key", b"!~"), id="ends of printable ASCII"),
        pytest.param("key-bin", b"\x00\xff", (b"key-bin", b"AP8"), id="bytes, unpadded"),
        pytest.param("key-bin", b"", (b"key-bin", b""), id="no bytes"),
    ],
)
def test_encode_metadata(key, value, expected):
    assert encode_metadata(((key, value),)) == [expected]


def test_encode_metadata_keeps_order_and_repeats():
    metadata = (("b", "1"), ("a", "2"), ("b", "3"), ("b-bin", b"4"))
    assert encode_metadata(metadata) == [
        (b"b", b"1"),
        (b"a", b"2"),
        (b"b", b"3"),
        (b"b-bin", b"NA"),
    ]


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        *((key, "v", ValueError) for key in ("te", "content-type", "content-length", "host")),
        *((key, "v", ValueError) for key in ("user-agent", "TE", "grpc-status", "GRPC-anything")),
        *((key, "v", ValueError) for key in ("", ":path", "a b", "a:b", "a\n", "é", "a/b", "a=b")),
        *(("key", value, ValueError) for value in ("a\nb", "a\x00", "\t", "\x7f", "é", "日")),
        *(("key", value, TypeError) for value in (b"bytes", 7, None)),
        *(("key-bin", value, TypeError) for value in ("text", 7, None)),
    ],
    ids=ascii,
)
def test_encode_metadata_refuses_and_names_the_key(key, value, error):
    with pytest.raises(error) as caught:
        encode_metadata(((key, value),))
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(b"AP8=", [b"\x00\xff"], id="padded"),
        pytest.param(b"AP8", [b"\x00\xff"], id="unpadded"),
        pytest.param(b"AA==", [b"\x00"], id="padded twice"),
        pytest.param(b"AA", [b"\x00"], id="unpadded twice"),
        pytest.param(b"AAAA", [b"\x00\x00\x00"], id="needs no padding"),
        pytest.param(b"+/+/", [b"\xfb\xff\xbf"], id="both marks"),
        pytest.param(b"", [b""], id="empty"),
        pytest.param(b"AA,AP8=,AAAA", [b"\x00", b"\x00\xff", b"\x00\x00\x00"], id="commas"),
        pytest.param(b"AA, AP8", [b"\x00", b"\x00\xff"], id="comma and space"),
        pytest.param(b",", [b"", b""], id="two empty ones"),
    ],
)
def test_decode_binary(value, expected):
    assert decode_binary(value) == expected


@pytest.mark.parametrize(
    "value", [b"A", b"AAAAA", b"A A=", b"-_-_", b"A=A", b"\xff", b"AA,A", b"*"]
)
def test_decode_binary_refuses(value):
    with pytest.raises(MalformedHeadersError, match="is not base64"):
        decode_binary(value)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4), st.booleans())
@quick
def test_binary_round_trips_padded_or_not(values, padded):
    encoded = [base64.b64encode(value) for value in values]
    if not padded:
        encoded = [encode_metadata((("k-bin", value),))[0][1] for value in values]
        assert not any(b"=" in value for value in encoded)
    assert decode_binary(b",".join(encoded)) == values


@pytest.mark.parametrize(
    "name",
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "\u212aey"],
)
def test_names_that_http2_forbids_are_refused(name):
    with pytest.raises(ValueError, match="metadata key"):
        encode_metadata(((name, "x"),))


@pytest.mark.parametrize("octet", [bytes((n,)) for n in range(256)])
@pytest.mark.parametrize("form", [b"%b", b"a%bz"])
def test_each_octet_of_a_received_name_and_value(octet: bytes, form: bytes) -> None:
    text = form % octet
    if re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9a-z]+", text):
        fields = ((text, b"v"), (b"grpc-status", b"0"))
        ((key, _),) = parse_trailers(fields).metadata  # type: ignore[union-attr]
        is_plain = re.fullmatch(rb"[0-9a-z._-]+", text) is not None
        assert (key, type(key)) == (text.decode(), str if is_plain else ReceivedText)
    else:
        with pytest.raises(MalformedHeadersError):
            parse_trailers(((text, b"v"), (b"grpc-status", b"0")))
    fields = ((b"k", text), (b"grpc-status", b"0"))
    if octet in b"\0\r\n":
        with pytest.raises(MalformedHeadersError, match="name or value that HTTP/2 forbids"):
            parse_trailers(fields)
        return
    ((_, value),) = parse_trailers(fields).metadata  # type: ignore[union-attr]
    stripped = text.strip(b" \t").decode("latin-1")
    is_plain = re.fullmatch("[ -~]*", stripped) is not None
    assert (value, type(value)) == (stripped, str if is_plain else ReceivedText)


@pytest.mark.parametrize("name", [b"", b":", b"::a", b"a:", b":A"])
def test_malformed_names_of_fields(name: bytes) -> None:
    with pytest.raises(MalformedHeadersError, match="name or value that HTTP/2 forbids"):
        parse_trailers(((name, b"v"),))
