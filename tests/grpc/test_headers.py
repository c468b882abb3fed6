"""Header blocks on a connection: their frames, and how the compression state stays in step."""

from __future__ import annotations

import hpack as reference
import pytest

from meshtrio.grpc.headers import (
    parse_request_headers,
    parse_response_headers,
    parse_trailers,
)
from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.events import (
    ConnectionFailed,
    RequestReceived,
    ResponseReceived,
    TrailersReceived,
)
from meshtrio.http2.frames import FrameType, Setting
from meshtrio.http2.hpack import encoder
from meshtrio.http2.limits import Limits
from tests.support.engines import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    answers_ping,
    data_frame,
    headers_frame,
    headers_frame_of_block,
    make_client,
    make_client_with_request,
    make_server,
    make_server_with_request,
    send_request,
    send_response,
    sent_frames,
)

BLOCK = encoder.encode(REQUEST)
REQUEST_EVENTS = [RequestReceived(1, parse_request_headers(REQUEST), False)]

# Indexed, so that a decoder which missed the first block cannot read the second.
INDEXED = (*REQUEST, (b"x-key", b"stored in the table"))


def begin(block: bytes, *, flags: int = 0, stream_id: int = 1) -> bytes:
    return frames.encode_frame(FrameType.HEADERS, flags, stream_id, block)


def more(block: bytes, *, last: bool = False, stream_id: int = 1) -> bytes:
    flags = frames.END_HEADERS if last else 0
    return frames.encode_frame(FrameType.CONTINUATION, flags, stream_id, block)


# -- blocks over several frames ------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames_of_block",
    [
        pytest.param(begin(BLOCK) + more(b"", last=True), id="empty end"),
        pytest.param(begin(b"") + more(BLOCK, last=True), id="empty start"),
        pytest.param(begin(BLOCK[:9]) + more(BLOCK[9:], last=True), id="two"),
        pytest.param(
            begin(BLOCK[:1]) + more(BLOCK[1:5]) + more(b"") + more(BLOCK[5:], last=True), id="four"
        ),
        pytest.param(
            begin(b"\2" + BLOCK[:9] + b"\0\0", flags=frames.PADDED) + more(BLOCK[9:], last=True),
            id="padded",
        ),
        pytest.param(
            begin(b"\0\0\0\0\7" + BLOCK[:9], flags=frames.HAS_PRIORITY)
            + more(BLOCK[9:], last=True),
            id="with priority",
        ),
        pytest.param(
            headers_frame_of_block(1, b"\3\0\0\0\0\7" + BLOCK + bytes(3), flags=0x28),
            id="one frame, padded, with priority",
        ),
    ],
)
def test_a_block_is_put_together(frames_of_block):
    engine = make_server()
    assert engine.receive_data(frames_of_block) == REQUEST_EVENTS
    assert answers_ping(engine)


def test_end_stream_is_taken_from_headers_not_from_continuation():
    engine = make_server()
    block = begin(BLOCK[:9], flags=frames.END_STREAM) + more(BLOCK[9:], last=True)
    assert engine.receive_data(block) == [RequestReceived(1, parse_request_headers(REQUEST), True)]


@pytest.mark.parametrize("size", [16_384, 20_000])
def test_a_long_block_is_sent_in_frames_of_the_peers_size(size):
    engine = make_client(settings={Setting.MAX_FRAME_SIZE: size})
    block = encoder.encode([*REQUEST, (b"x-long", b"v" * 50_000)])
    engine.open_stream(block, end_stream=True)
    first, *middle, last = sent_frames(engine)
    assert (first.type, first.flags) == (FrameType.HEADERS, frames.END_STREAM)
    assert {(f.type, f.flags) for f in middle} == {(FrameType.CONTINUATION, 0)}
    assert (last.type, last.flags) == (FrameType.CONTINUATION, frames.END_HEADERS)
    assert all(len(f.payload) == size for f in [first, *middle])
    assert b"".join(f.payload for f in [first, *middle, last]) == block


@pytest.mark.parametrize("fragment", [b"", b"x"], ids=["empty", "one byte"])
def test_a_block_without_end_is_cut_off(fragment):
    """The peer is stopped by the limit on a whole block; a frame counts for 512 bytes at least."""
    limits = Limits(max_header_list_size=1024, absolute_max_header_list_size=512_512)
    engine = make_server(limits)
    assert engine.receive_data(begin(b"x" * 32)) == []
    assert engine.receive_data(more(fragment) * 1000) == []
    (event,) = engine.receive_data(more(fragment))
    assert isinstance(event, ConnectionFailed)
    assert event.error_code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    ("limit", "largest"),
    [(None, 5000), (0, 0), (38, 38), (5000, 5000), (5001, 5000), (2**32 - 1, 5000)],
)
def test_the_largest_header_list_that_may_be_sent(limit, largest):
    """The lower of the peer's limit and this side's own."""
    settings = {} if limit is None else {Setting.MAX_HEADER_LIST_SIZE: limit}
    engine = make_server(Limits(max_send_header_list_size=5000), settings)
    assert engine.peer_settings.max_header_list_size == largest


# -- the compression state -----------------------------------------------------------------------


def test_one_table_serves_all_of_a_connections_blocks():
    engine, encoder = make_server(), reference.Encoder()
    for stream_id in (1, 3, 5, 7):
        (event,) = engine.receive_data(headers_frame_of_block(stream_id, encoder.encode(INDEXED)))
        assert event == RequestReceived(stream_id, parse_request_headers(INDEXED), False)


def refused_as_too_many(block: bytes) -> bytes:
    return headers_frame_of_block(3, block)


def late_after_our_reset(block: bytes) -> bytes:
    return headers_frame_of_block(1, block, end=True)


@pytest.mark.parametrize("unwanted", [refused_as_too_many, late_after_our_reset])
def test_a_server_decodes_blocks_it_does_not_want(unwanted):
    engine, encoder = (
        make_server_with_request(Limits(max_concurrent_streams=1)),
        reference.Encoder(),
    )
    if unwanted is late_after_our_reset:
        engine.reset_stream(1, ErrorCode.CANCEL)
    assert engine.receive_data(unwanted(encoder.encode(INDEXED))) == []
    engine.reset_stream(1, ErrorCode.CANCEL)
    (event,) = engine.receive_data(headers_frame_of_block(5, encoder.encode(INDEXED)))
    assert event == RequestReceived(5, parse_request_headers(INDEXED), False)


def test_a_server_decodes_a_malformed_head():
    engine, encoder = make_server(), reference.Encoder()
    assert (
        engine.receive_data(headers_frame_of_block(1, encoder.encode([*INDEXED, (b"te", b"x")])))
        == []
    )
    (event,) = engine.receive_data(headers_frame_of_block(3, encoder.encode(INDEXED)))
    assert event == RequestReceived(3, parse_request_headers(INDEXED), False)


def test_a_server_decodes_trailers_that_come_after_the_end():
    engine, encoder = make_server(), reference.Encoder()
    engine.receive_data(headers_frame(1, end=True))
    (event,) = engine.receive_data(headers_frame_of_block(1, encoder.encode(INDEXED), end=True))
    assert event.error_code == ErrorCode.STREAM_CLOSED
    (event,) = engine.receive_data(headers_frame_of_block(3, encoder.encode(INDEXED)))
    assert event == RequestReceived(3, parse_request_headers(INDEXED), False)


def test_a_client_decodes_a_response_that_comes_after_its_reset():
    engine, encoder = make_client_with_request(), reference.Encoder()
    engine.reset_stream(1, ErrorCode.CANCEL)
    send_request(engine)
    fields = (*RESPONSE, (b"x-key", b"stored in the table"))
    assert engine.receive_data(headers_frame_of_block(1, encoder.encode(fields))) == []
    (event,) = engine.receive_data(headers_frame_of_block(3, encoder.encode(fields)))
    assert event == ResponseReceived(3, parse_response_headers(fields), False)


@pytest.mark.parametrize("size", [0, 100, 4095])
def test_a_smaller_table_is_confirmed_by_the_next_block(size):
    """And by that block alone (RFC 7541 §4.2); a decoder held to it must take both."""
    engine = make_client(settings={Setting.HEADER_TABLE_SIZE: size})
    send_request(engine)
    send_request(engine)
    first, second = sent_frames(engine, FrameType.HEADERS)
    assert first.payload == encoder.TABLE_SIZE_UPDATE_TO_ZERO + BLOCK
    assert second.payload == BLOCK
    decoder = reference.Decoder()
    decoder.max_allowed_table_size = size
    for frame in (first, second):
        assert tuple(decoder.decode(frame.payload, raw=True)) == REQUEST


@pytest.mark.parametrize("size", [4096, 65_536])
def test_a_table_that_is_not_smaller_needs_no_word(size):
    engine = make_client(settings={Setting.HEADER_TABLE_SIZE: size})
    send_request(engine)
    assert [f.payload for f in sent_frames(engine)] == [BLOCK]


def test_a_server_confirms_a_smaller_table_too():
    engine = make_server_with_request()
    engine.receive_data(frames.settings({Setting.HEADER_TABLE_SIZE: 0}))
    send_response(engine)
    (frame,) = sent_frames(engine, FrameType.HEADERS)
    assert frame.payload == encoder.TABLE_SIZE_UPDATE_TO_ZERO + encoder.encode(RESPONSE)


# -- responses before the response ---------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3])
def test_informational_responses_are_passed_over(number):
    engine = make_client_with_request()
    early = headers_frame(1, [(b":status", b"103"), (b"link", b"</x>")])
    assert engine.receive_data(early * number) == []
    events = engine.receive_data(headers_frame(1, RESPONSE) + headers_frame(1, TRAILERS, end=True))
    assert events == [
        ResponseReceived(1, parse_response_headers(RESPONSE), False),
        TrailersReceived(1, parse_trailers(TRAILERS)),
    ]


def test_a_response_may_come_before_the_request_has_ended():
    engine = make_client_with_request()
    engine.receive_data(headers_frame(1, RESPONSE) + data_frame(1, b"x", end=True))
    assert engine.send_data(1, b"rest", end_stream=True) == 4
    assert engine.open_stream_count == 0


# -- content-length ------------------------------------------------------------------------------


def body(*sizes: int) -> bytes:
    """DATA frames of these sizes, the last of them the end."""
    frames_of = [data_frame(1, b"x" * size) for size in sizes[:-1]]
    return b"".join(frames_of) + data_frame(1, b"x" * sizes[-1], end=True)


@pytest.mark.parametrize(
    ("length", "rest"),
    [
        pytest.param(b"0", body(0), id="nothing"),
        pytest.param(b"5", body(5), id="one frame"),
        pytest.param(b"5", body(2, 0, 3), id="several frames"),
        pytest.param(b"5", body(5, 0), id="empty end"),
        pytest.param(b"5", data_frame(1, b"x" * 5, end=True, pad=7), id="padding does not count"),
        pytest.param(
            b"5", data_frame(1, b"x" * 5) + headers_frame(1, TRAILERS, end=True), id="trailers"
        ),
    ],
)
def test_a_body_of_the_length_promised(length, rest):
    engine = make_server()
    events = engine.receive_data(headers_frame(1, [*REQUEST, (b"content-length", length)]) + rest)
    assert len(b"".join(getattr(event, "data", b"") for event in events)) == int(length)
    assert answers_ping(engine)
    assert engine.open_stream_count == 1


def test_a_content_length_of_zero_with_no_body():
    for make, fields in ((make_server, REQUEST), (make_client_with_request, RESPONSE)):
        (event,) = make().receive_data(
            headers_frame(1, [*fields, (b"content-length", b"0")], end=True)
        )
        assert event.end_stream
