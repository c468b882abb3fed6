"""Values that HTTP/2 forbids or gRPC does not specify, and that peers send all the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrio.grpc.header_values import decode_status_message, encode_status_message
from meshtrio.grpc.headers import (
    parse_request_headers,
    parse_response_headers,
    parse_trailers,
)
from meshtrio.grpc.metadata import ReceivedText, encode_metadata
from meshtrio.http2.errors import MalformedHeadersError

quick = settings(max_examples=200, deadline=None)

REQUEST = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/m"))
STATUS = (b":status", b"200")
NOT_FOUND = (b"grpc-status", b"5")
BROKEN_BINARY = [b"A", b"*", b"AA,A", b"\xff", b"A A="]

# -- white space ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"5 ", b" 5", b"\t5 \t"])
def test_a_status_with_white_space_around_it(value: bytes) -> None:
    trailers = parse_trailers(((b"grpc-status", value), (b"grpc-message", b" no file: ")))
    assert trailers is not None
    assert (trailers.code, trailers.message) == (5, " no file: ")


@pytest.mark.parametrize("field", [b"te", b"content-type", b"user-agent", b"grpc-encoding"])
def test_any_regular_field_may_have_white_space_around_it(field: bytes) -> None:
    value = b"trailers" if field == b"te" else b"value"
    bare = parse_request_headers((*REQUEST, (field, value)))
    assert parse_request_headers((*REQUEST, (field, b" " + value + b"\t"))) == bare


def test_fields_that_vary_from_call_to_call_may_have_white_space_around_them() -> None:
    head = parse_request_headers(
        (*REQUEST, (b"grpc-timeout", b" 1S "), (b"traceparent", b"00-1-2-01\t"))
    )
    assert head.timeout == 1
    assert head.metadata == (("traceparent", "00-1-2-01"),)


@pytest.mark.parametrize("name", [b":path", b":method", b":scheme", b":authority"])
@pytest.mark.parametrize("value", [b"/s/m ", b" /s/m", b"/s/m\t"])
def test_pseudo_header_fields_may_not(name: bytes, value: bytes) -> None:
    fields = tuple(field for field in REQUEST if field[0] != name)
    with pytest.raises(MalformedHeadersError):
        parse_request_headers(((name, value), *fields))


# -- status messages -----------------------------------------------------------------------------


@given(st.binary(max_size=200))
@quick
def test_no_message_hides_the_status(message: bytes) -> None:
    message = message.translate(None, b"\0\r\n")
    trailers = parse_trailers((NOT_FOUND, (b"grpc-message", message)))
    assert trailers is not None
    assert trailers.code == 5
    head = parse_response_headers((STATUS, NOT_FOUND, (b"grpc-message", message)))
    assert head.trailers is not None
    assert head.trailers == trailers


@pytest.mark.parametrize("value", [b" ", b"\t", b" \t ", b" a", b"a\t", b"\t a b "])
def test_the_white_space_of_a_message_is_kept_and_can_be_sent(value: bytes) -> None:
    trailers = parse_trailers((NOT_FOUND, (b"grpc-message", value)))
    assert trailers is not None
    assert trailers.message == value.decode()
    sent = trailers.encoded_message
    assert sent == sent.strip(b" \t")
    assert parse_trailers((NOT_FOUND, (b"grpc-message", sent))) == trailers


@pytest.mark.parametrize("value", [b"a\0b", b"a\rb", b"a\nb"])
def test_control_characters_that_end_fields_are_still_refused(value: bytes) -> None:
    with pytest.raises(MalformedHeadersError):
        parse_trailers((NOT_FOUND, (b"grpc-message", value)))


@pytest.mark.parametrize("value", BROKEN_BINARY)
@pytest.mark.parametrize("key", [b"grpc-status-details-bin", b"k-bin", b"grpc-trace-bin"])
def test_broken_binary_metadata_does_not_hide_the_status(key: bytes, value: bytes) -> None:
    fields = (NOT_FOUND, (b"grpc-message", b"no"), (key, value), (b"kept", b"v"))
    trailers = parse_trailers(fields)
    assert trailers is not None
    assert (trailers.code, trailers.message, trailers.details) == (5, "no", b"")
    assert trailers.metadata == (("kept", "v"),)
    head = parse_response_headers((STATUS, *fields))
    assert head.trailers == trailers


@pytest.mark.parametrize("value", BROKEN_BINARY)
def test_broken_binary_metadata_of_a_request_is_reported(value: bytes) -> None:
    head = parse_request_headers((*REQUEST, (b"k-bin", value), (b"grpc-timeout", b"1S")))
    assert "'k-bin'" in head.error_message
    assert "is not base64" in head.error_message


def test_a_timeout_that_cannot_be_decoded_is_reported() -> None:
    for fields in (REQUEST, (*REQUEST, (b"traceparent", b"00-1-2-01"))):
        head = parse_request_headers((*fields, (b"grpc-timeout", b"soon" * 1000)))
        assert head.timeout is None
        assert "grpc-timeout" in head.error_message
        assert len(head.error_message) < 200


# -- metadata that came in can go out ------------------------------------------------------------

_wire_values = st.binary(max_size=30).map(lambda value: value.translate(None, b"\0\r\n"))
_wire_names = st.from_regex(rb"x[!#$%&'*+\-.^_`|~0-9a-z]{0,8}", fullmatch=True)
_wire_text = st.tuples(_wire_names.filter(lambda name: not name.endswith(b"-bin")), _wire_values)


@given(st.lists(_wire_text, max_size=5))
@quick
def test_what_was_received_is_sent_again_as_it_came(fields: list[tuple[bytes, bytes]]) -> None:
    received = parse_request_headers((*REQUEST, *fields)).metadata
    stripped = [(name, value.strip(b" \t")) for name, value in fields]
    assert encode_metadata(received) == stripped
    # Pairs that a program takes apart and puts together again are still the peer's text.
    assert encode_metadata(tuple((key, value) for key, value in dict(received).items())) == list(
        dict(stripped).items()
    )


@pytest.mark.parametrize(
    "name",
    [b"grpc-tags-bin", b"grpc-trace-bin", b"grpc-retry-pushback-ms", b"grpc-previous-rpc-attempts"],
)
def test_names_of_grpcs_own_that_are_metadata_can_be_sent_again(name: bytes) -> None:
    received = parse_request_headers((*REQUEST, (name, b"AA,AP8"))).metadata
    assert encode_metadata(received)


@pytest.mark.parametrize("value", ["é", "a\tb", "\x7f"])
def test_what_a_program_makes_of_it_is_held_to_grpcs_rules(value: str) -> None:
    received = ReceivedText(value)
    assert encode_metadata((("k", received),)) == [(b"k", value.encode("latin-1"))]
    with pytest.raises(ValueError, match="'k'"):
        encode_metadata((("k", received + ""),))


@pytest.mark.parametrize("key", [b"k", None, 5])
def test_a_key_of_another_type_is_refused_by_name(key: object) -> None:
    with pytest.raises(TypeError, match="must be str"):
        encode_metadata(((key, "v"),))  # type: ignore[arg-type]


# -- long status messages ------------------------------------------------------------------------

_LIMIT = 100


@given(st.text(max_size=300), st.integers(9, 120))
@quick
def test_a_long_message_is_cut_between_characters(text: str, limit: int) -> None:
    encoded = encode_status_message(text, limit)
    assert len(encoded) <= limit
    decoded = decode_status_message(encoded)
    whole = decode_status_message(encode_status_message(text))
    if decoded != whole:
        assert decoded.endswith("…")
        assert whole.startswith(decoded[:-1])
        assert len(encode_status_message(text)) > limit


@pytest.mark.parametrize("character", ["x", "é", "日", "😀", "%", "\n", " ", "\ud800"], ids=ascii)
def test_no_more_than_needed_is_cut(character: str) -> None:
    encoded = encode_status_message(character * 1000, _LIMIT)
    assert _LIMIT - 12 < len(encoded) <= _LIMIT or character == "\ud800"
    assert decode_status_message(encoded).endswith("…")


def test_a_message_that_just_fits_is_whole() -> None:
    assert encode_status_message("x" * _LIMIT, _LIMIT) == b"x" * _LIMIT
    assert encode_status_message("é" * 16, _LIMIT) == b"%C3%A9" * 16
