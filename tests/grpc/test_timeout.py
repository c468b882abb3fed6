"""The `grpc-timeout` header."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshtrio.grpc.header_values import decode_timeout, encode_timeout
from meshtrio.http2.errors import MalformedHeadersError

quick = settings(max_examples=100)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0u"),
        (-1, "0u"),
        (1e-9, "1u"),
        (1.5e-6, "2u"),
        (1, "1000000u"),
        (0.0009985, "999u"),
        (0.0010001, "1010u"),
        (9.99993, "10000000u"),
        (9.98, "9980000u"),
        (99.8, "99800000u"),
        (99.999999, "100000m"),
        (100, "100000m"),
        (100.0001, "101000m"),
        (99_999.999, "100000S"),
        (100_000, "100000S"),
        (100_000.1, "101000S"),
        (99_999_999, "1670000M"),
        (100_000_000, "1670000M"),
        (6_000_000_000, "1670000H"),
        (99_999_999 * 3600, "99999999H"),
        (1e300, "99999999H"),
    ],
)
def test_encode_timeout(seconds, expected):
    assert encode_timeout(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"4m", 0.004),
        (b"5u", 0.000005),
        (b"6n", 0.000000006),
        (b"0n", 0),
        (b"007S", 7),
        (b"99999999H", 99_999_999 * 3600),
    ],
)
def test_decode_timeout(value, expected):
    assert decode_timeout(value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"S", b"1", b"1s", b"1h", b"1U", b"1N", b"1SS", b"S1", b"123456789S"),
        *(b"-1S", b"+1S", b" 1S", b"1 S", b"1S ", b"1.5S", b"1_0S", b"0x1S", b"1\xb5", b"\xb2S"),
    ],
)
def test_decode_timeout_refuses(value):
    with pytest.raises(MalformedHeadersError, match="grpc-timeout"):
        decode_timeout(value)


@given(st.floats(min_value=0, max_value=99_999_999 * 3600))
@example(3e-6)
@settings(max_examples=300)
def test_a_timeout_is_short_and_rounded_up_never_down(seconds):
    encoded = encode_timeout(seconds)
    assert len(encoded) <= 9
    decoded = decode_timeout(encoded.encode())
    # A division's own rounding, the last bit of a float, is not what "down" means.
    assert Fraction(decoded) >= Fraction(seconds) * (1 - Fraction(1, 2**50))
    assert decoded <= seconds * 1.0101 + 1.001e-6


def test_a_timeout_beyond_all_bounds():
    assert encode_timeout(float("inf")) == "99999999H"
