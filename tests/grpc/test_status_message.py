"""Percent-encoding of status messages."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshtrio.grpc.header_values import decode_status_message, encode_status_message

quick = settings(max_examples=100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("not found", b"not found", id="printable"),
        pytest.param("", b"", id="empty"),
        pytest.param("100%", b"100%25", id="percent"),
        pytest.param("a\r\nb", b"a%0D%0Ab", id="line break"),
        pytest.param("\x00\x7f", b"%00%7F", id="controls"),
        pytest.param("é日", b"%C3%A9%E6%97%A5", id="beyond ASCII"),
        pytest.param("\ud800", b"?", id="lone surrogate"),
    ],
)
def test_encode_message_text(text, expected):
    assert encode_status_message(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(b"%c3%a9", "é", id="small hex digits"),
        pytest.param(b"50% off", "50% off", id="percent by itself"),
        pytest.param(b"%", "%", id="percent at the end"),
        pytest.param(b"%4", "%4", id="half a code"),
        pytest.param(b"%zz", "%zz", id="no hex digits"),
        pytest.param(b"a+b", "a+b", id="plus is no space"),
        pytest.param(b"%ff", "\ufffd", id="no UTF-8"),
        pytest.param(b"\xff", "\ufffd", id="raw byte"),
    ],
)
def test_decode_message_text(value, expected):
    assert decode_status_message(value) == expected


@given(st.text())
@example("%25")
@quick
def test_message_text_round_trips(text):
    encoded = encode_status_message(text)
    assert decode_status_message(encoded) == text
    assert all(0x20 <= byte < 0x7F for byte in encoded)


@given(st.binary())
@quick
def test_any_message_text_can_be_decoded(value):
    assert isinstance(decode_status_message(value), str)


@pytest.mark.parametrize("text", [" ", "   ", " gone ", "gone  ", "  gone", " % ", " a b "])
def test_spaces_at_the_ends_of_a_message_survive(text):
    encoded = encode_status_message(text)
    assert encoded == encoded.strip(b" ")
    assert decode_status_message(encoded) == text
