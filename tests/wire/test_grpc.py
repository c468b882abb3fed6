from __future__ import annotations

import base64
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshtrio.http2.errors import MalformedHeadersError
from meshtrio.grpc.framing import MessageTooLargeError
from meshtrio.grpc.framing import (MessageReader, frame_message)
from meshtrio.grpc.metadata import (decode_binary, encode_metadata)
from meshtrio.grpc.status_message import (decode_status_message, encode_status_message)
from meshtrio.grpc.timeout import (decode_timeout, encode_timeout)

quick = settings(max_examples=100)

LIMIT = 100
MESSAGES = [(False, b""), (False, b"hello"), (True, b"packed"), (False, b""), (False, b"x" * LIMIT)]
STREAM = b"".join(frame_message(body, compressed=flag) for flag, body in MESSAGES)

# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "compressed", "expected"),
    [
        pytest.param(b"", False, b"\x00\x00\x00\x00\x00", id="empty"),
        pytest.param(b"hello", False, b"\x00\x00\x00\x00\x05hello", id="plain"),
        pytest.param(b"hello", True, b"\x01\x00\x00\x00\x05hello", id="compressed"),
        pytest.param(b"x" * 258, False, b"\x00\x00\x00\x01\x02" + b"x" * 258, id="long"),
    ],
)
def test_frame_message(message, compressed, expected):
    assert frame_message(message, compressed=compressed) == expected


@pytest.mark.parametrize("message", MESSAGES, ids=["empty", "plain", "compressed", "empty2", "max"])
def test_reader_takes_one_whole_message(message):
    reader = MessageReader(LIMIT)
    flag, body = message
    assert reader.feed(frame_message(body, compressed=flag)) == [message]
    assert not reader.has_partial_message


def test_reader_takes_several_messages_at_once():
    assert MessageReader(LIMIT).feed(STREAM) == MESSAGES


def test_reader_takes_byte_by_byte():
    reader = MessageReader(LIMIT)
    found = [m for i in range(len(STREAM)) for m in reader.feed(STREAM[i : i + 1])]
    assert found == MESSAGES
    assert not reader.has_partial_message


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_reader_takes_every_split_in_two(at):
    reader = MessageReader(LIMIT)
    found = reader.feed(STREAM[:at])
    assert found == MESSAGES[: len(found)]
    assert reader.has_partial_message == (at > len(b"".join(frame_message(m) for _, m in found)))
    assert found + reader.feed(STREAM[at:]) == MESSAGES
    assert not reader.has_partial_message


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=LIMIT)), max_size=6), st.data())
@quick
def test_reader_does_not_care_how_the_stream_is_cut(messages, data):
    stream = b"".join(frame_message(body, compressed=flag) for flag, body in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, found = MessageReader(LIMIT), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == messages
    assert not reader.has_partial_message


def test_partial_from_the_first_byte_to_the_last():
    reader, framed = MessageReader(LIMIT), frame_message(b"abc")
    seen = []
    for i in range(len(framed)):
        reader.feed(framed[i : i + 1])
        seen.append(reader.has_partial_message)
    assert seen == [True] * 7 + [False]
    reader.feed(b"")
    assert not reader.has_partial_message


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([frame_message(b"x" * 101)], id="whole"),
        pytest.param([frame_message(b"x" * 101)[:5]], id="prefix alone"),
        pytest.param([b"\x00\x00", b"\x00\x00\x65"], id="prefix in two"),
        pytest.param([b"\x01\xff\xff\xff\xff"], id="as long as can be"),
        pytest.param([frame_message(b"fine") + b"\x00\x00\x00\x00\x65"], id="after another"),
    ],
)
def test_reader_refuses_a_message_over_the_limit_by_its_prefix(chunks):
    reader = MessageReader(LIMIT)
    for chunk in chunks[:-1]:
        assert reader.feed(chunk) == []
    with pytest.raises(MessageTooLargeError) as caught:
        reader.feed(chunks[-1])
    assert caught.value.limit == LIMIT
    assert caught.value.length > LIMIT


def test_reader_with_no_room_at_all_takes_empty_messages():
    reader = MessageReader(0)
    assert reader.feed(frame_message(b"") * 2) == [(False, b"")] * 2
    with pytest.raises(MessageTooLargeError, match="message of 1 bytes is over the limit of 0 bytes"):
        reader.feed(frame_message(b"x"))


# -- timeouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0u"),
        (-1, "0u"),
        (1e-9, "1u"),
        (1.5e-6, "2u"),
        (1, "1000000u"),
        (99.999999, "99999999u"),
        (100, "100000m"),
        (100.0001, "100001m"),
        (99_999.999, "99999999m"),
        (100_000, "100000S"),
        (100_000.1, "100001S"),
        (99_999_999, "99999999S"),
        (100_000_000, "1666667M"),
        (6_000_000_000, "1666667H"),
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
    assert decoded <= seconds * 1.0006 + 1.001e-6


# -- metadata ------------------------------------------------------------------------------------


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
    assert encode_metadata(metadata) == [(b"b", b"1"), (b"a", b"2"), (b"b", b"3"), (b"b-bin", b"NA")]


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


@pytest.mark.parametrize("value", [b"A", b"AAAAA", b"A A=", b"-_-_", b"A=A", b"\xff", b"AA,A", b"*"])
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


# -- status messages -----------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "name", ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "\u212aey"]
)
def test_names_that_http2_forbids_are_refused(name):
    with pytest.raises(ValueError, match="metadata key"):
        encode_metadata(((name, "x"),))


def test_a_timeout_beyond_all_bounds():
    assert encode_timeout(float("inf")) == "99999999H"
