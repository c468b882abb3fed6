"""Header lists over the limit: they cost their own stream, and the table stays in step."""

from __future__ import annotations

import hpack as reference
import pytest

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode, HeaderListTooLargeError, RemoteProtocolError
from meshtrio.http2.events import (
    ConnectionFailed,
    DataReceived,
    RequestHeadersTooLarge,
    RequestReceived,
    ResponseReceived,
    StreamReset,
)
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.http2.hpack.decoder import HeaderDecoder
from meshtrio.http2.limits import Limits
from tests.support.engines import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    answers_ping,
    data_frame,
    headers_frame,
    headers_frame_of_block,
    make_client_with_request,
    make_server,
    send_request,
    send_response,
    sent_frames,
)

LIMITS = Limits(max_header_list_size=1024, absolute_max_header_list_size=100_000)
LARGE = (b"x-large", b"v" * 2000)
CALM = ErrorCode.ENHANCE_YOUR_CALM


def in_pieces(stream_id: int, fields, *, end: bool) -> bytes:
    """Encode headers in frames of 500 bytes each."""
    return frames.encode_header_block(
        stream_id, encoder.encode(fields), end_stream=end, max_frame_size=500
    )


def in_one(stream_id: int, fields, *, end: bool) -> bytes:
    return headers_frame(stream_id, fields, end=end)


framed = pytest.mark.parametrize("framed", [in_one, in_pieces], ids=["HEADERS", "CONTINUATION"])


@framed
@pytest.mark.parametrize("end", [True, False], ids=["whole", "body follows"])
def test_a_request_is_opened_to_be_answered(framed, end):
    engine = make_server(LIMITS)
    (event,) = engine.receive_data(framed(1, [*REQUEST, LARGE], end=end))
    assert (type(event), event.stream_id) == (RequestHeadersTooLarge, 1)
    assert event.content_type == b"application/grpc"
    assert event.end_stream is end
    assert "2331 bytes" in event.reason
    assert "1024 bytes" in event.reason
    send_response(engine, end=True)
    assert [f.type for f in sent_frames(engine)] == [FrameType.HEADERS]
    assert engine.receive_data(headers_frame(3)) != []
    assert answers_ping(engine)


@pytest.mark.parametrize("place", ["before", "after"])
def test_what_protocol_the_request_has_is_found_wherever_it_is(place):
    """grpc-js sends its content-type behind the metadata."""
    pseudo, content_type = REQUEST[:4], (b"content-type", b"application/grpc+proto")
    fields = [*pseudo, content_type, LARGE] if place == "before" else [*pseudo, LARGE, content_type]
    (event,) = make_server(LIMITS).receive_data(headers_frame(1, fields))
    assert event.content_type == content_type[1]


def test_a_request_of_another_protocol():
    fields = [*REQUEST[:4], (b"content-type", b"text/html"), LARGE]
    (event,) = make_server(LIMITS).receive_data(headers_frame(1, fields))
    assert event.content_type == b"text/html"


@framed
@pytest.mark.parametrize("end", [True, False], ids=["Trailers-Only", "body follows"])
def test_a_response_fails_its_call_only(framed, end):
    engine = make_client_with_request(LIMITS)
    other = send_request(engine)
    (event,) = engine.receive_data(framed(1, [*RESPONSE, LARGE], end=end))
    assert event == StreamReset(1, CALM, remote_reset=False, reason=event.reason)
    assert "limit of 1024 bytes" in event.reason
    assert engine.receive_data(data_frame(1, b"late") if not end else b"") == []
    (answer,) = engine.receive_data(headers_frame(other, RESPONSE))
    assert type(answer) is ResponseReceived
    assert answers_ping(engine)


@framed
@pytest.mark.parametrize("request_ended", [True, False])
def test_trailers_fail_their_call_only(framed, request_ended):
    engine = make_client_with_request(LIMITS)
    if request_ended:
        engine.send_data(1, b"", end_stream=True)
    engine.receive_data(headers_frame(1, RESPONSE) + data_frame(1, b"\0\0\0\0\0"))
    engine.data_to_send()
    (event,) = engine.receive_data(framed(1, [*TRAILERS, LARGE], end=True))
    assert (type(event), event.error_code) == (StreamReset, CALM)
    # A stream that both sides have ended takes no RST_STREAM.
    resets = [(f.stream_id, f.last_word) for f in sent_frames(engine, FrameType.RST_STREAM)]
    assert resets == ([] if request_ended else [(1, CALM)])
    assert engine.open_stream_count == 0
    assert answers_ping(engine)


def test_trailers_of_a_request_fail_their_call_only():
    engine = make_server(LIMITS)
    engine.receive_data(headers_frame(1) + headers_frame(3))
    (event,) = engine.receive_data(headers_frame(1, [LARGE], end=True))
    assert (type(event), event.stream_id) == (StreamReset, 1)
    (received,) = engine.receive_data(data_frame(3, b"x"))
    assert type(received) is DataReceived
    assert answers_ping(engine)


def test_an_informational_response_fails_its_call_only():
    engine = make_client_with_request(LIMITS)
    (event,) = engine.receive_data(headers_frame(1, [(b":status", b"103"), LARGE]))
    assert (type(event), event.error_code) == (StreamReset, CALM)
    assert answers_ping(engine)


@pytest.mark.parametrize("reset_by", ["us", "the peer"])
def test_late_and_large(reset_by):
    engine = make_client_with_request(LIMITS)
    if reset_by == "us":
        engine.reset_stream(1, ErrorCode.CANCEL)
    else:
        engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    engine.data_to_send()
    assert engine.receive_data(headers_frame(1, [*TRAILERS, LARGE], end=True)) == []
    assert sent_frames(engine) == []
    assert answers_ping(engine)


def test_the_table_is_in_step_after_a_list_that_was_discarded():
    engine, encoder = make_server(LIMITS), reference.Encoder()
    indexed = [*REQUEST, (b"x-indexed", b"value")]
    events = engine.receive_data(
        headers_frame_of_block(1, encoder.encode([*REQUEST, LARGE, *indexed[-1:]]))
    )
    assert type(events[0]) is RequestHeadersTooLarge
    (event,) = engine.receive_data(headers_frame_of_block(3, encoder.encode(indexed)))
    assert type(event) is RequestReceived
    assert event.headers.metadata == (("x-indexed", "value"),)


def test_what_was_remembered_is_forgotten_when_a_discarded_list_changes_the_table():
    decoder, peer = HeaderDecoder(200, 100_000), reference.Encoder()
    first = peer.encode([(b"a", b"1")])
    decoder.decode(first, tuple)
    again = peer.encode([(b"a", b"1")])
    assert decoder.decode(again, tuple) == ((b"a", b"1"),)
    large = encoder.encode([(b"large", b"x" * 1000)])
    block = peer.encode([(b"b", b"2")]) + large
    with pytest.raises(HeaderListTooLargeError):
        decoder.decode(block, tuple)
    # The entry has moved in the table, so the same bytes mean another field now.
    assert decoder.decode(again, tuple) != ((b"a", b"1"),)


@pytest.mark.parametrize("size", [1025, 40_000, 99_000])
def test_sizes_up_to_the_absolute_limit(size):
    decoder = HeaderDecoder(1024, 100_000)
    with pytest.raises(HeaderListTooLargeError) as caught:
        decoder.decode(encoder.encode([(b"n", b"v" * (size - 33))]), tuple)
    assert (caught.value.size, caught.value.limit) == (size, 1024)


def test_the_absolute_limit_ends_the_connection():
    decoder = HeaderDecoder(1024, 100_000)
    block = encoder.encode([(b"n", b"v" * 100_000)])
    with pytest.raises(RemoteProtocolError):
        decoder.decode(block, tuple)
    limits = Limits(max_header_list_size=1024, absolute_max_header_list_size=100_000)
    (event,) = make_server(limits).receive_data(in_pieces(1, [(b"n", b"v" * 99_990)], end=True))
    assert (type(event), event.error_code) == (ConnectionFailed, CALM)


def test_a_bomb_of_index_references_ends_the_connection():
    entry = b"\x40\x01x" + encoder.encode_integer(4000, 7, 0) + b"v" * 4000
    (event,) = make_server(LIMITS).receive_data(headers_frame_of_block(1, entry + b"\xbe" * 30))
    assert (type(event), event.error_code) == (ConnectionFailed, CALM)


def test_a_limit_above_the_absolute_one_is_kept():
    engine = make_server(Limits(max_header_list_size=50_000, absolute_max_header_list_size=1024))
    (event,) = engine.receive_data(in_pieces(1, [*REQUEST, LARGE], end=True))
    assert type(event) is RequestReceived


def test_requests_that_are_too_large_again_and_again_end_their_connection():
    """Each costs as many tokens as it holds lists of the allowed size."""
    engine = make_server(Limits(max_header_list_size=1024, reset_burst=100, reset_rate=0))
    for number in range(100):
        events = engine.receive_data(headers_frame(2 * number + 1, [*REQUEST, LARGE], end=True))
        if type(events[-1]) is ConnectionFailed:
            break
        send_response(engine, 2 * number + 1, end=True)
    assert 40 < number < 99
    assert events[-1].error_code == CALM
