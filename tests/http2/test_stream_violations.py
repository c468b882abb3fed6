"""What a peer may not do on pain of losing a stream, and that alone (RFC 9113 §5.4.2)."""

from __future__ import annotations

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.events import ResponseReceived, StreamReset
from meshtrio.http2.frames import (
    DEFAULT_INITIAL_WINDOW_SIZE,
    MAX_WINDOW_SIZE,
    FrameType,
    encode_frame,
)
from meshtrio.http2.hpack import encoder
from meshtrio.http2.limits import Limits
from tests.support.engines import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    answers_ping,
    data_frame,
    headers_frame,
    make_client_with_request,
    make_server,
    make_server_with_request,
    parametrize_violations,
    sent_frames,
)

PROTOCOL = ErrorCode.PROTOCOL_ERROR
FLOW = ErrorCode.FLOW_CONTROL_ERROR
SIZE = ErrorCode.FRAME_SIZE_ERROR
CLOSED = ErrorCode.STREAM_CLOSED
FULL_FRAME = 16_384


def sized(fields, length: bytes, *, end: bool = False) -> bytes:
    return headers_frame(1, [*fields, (b"content-length", length)], end=end)


def check_stream_failed(
    engine: GrpcConnection, received: bytes, code: ErrorCode, *, has_event: bool
) -> None:
    """`has_event`: whether the stream was reported, so that its end is reported, too."""
    engine.data_to_send()
    events = engine.receive_data(received)
    failed = [event for event in events if isinstance(event, StreamReset)]
    if has_event:
        (event,) = failed
        assert event is events[-1]
        assert (event.stream_id, event.error_code, event.remote_reset) == (1, code, False)
        assert event.reason
    else:
        assert events == []
    resets = [(f.stream_id, f.last_word) for f in sent_frames(engine, FrameType.RST_STREAM)]
    assert resets == [(1, code)]
    assert engine.open_stream_count == 0
    assert answers_ping(engine)


@parametrize_violations(
    ("no path", headers_frame(1, REQUEST[:2]), PROTOCOL),
    ("a name in capitals", headers_frame(1, [*REQUEST, (b"Key", b"v")]), PROTOCOL),
    ("a pseudo-header field too late", headers_frame(1, [(b"k", b"v"), *REQUEST]), PROTOCOL),
    ("a header of HTTP/1.1", headers_frame(1, [*REQUEST, (b"connection", b"close")]), PROTOCOL),
    ("a response's head", headers_frame(1, RESPONSE), PROTOCOL),
    ("no head at all", headers_frame(1, []), PROTOCOL),
    ("a head of trailers", headers_frame(1, TRAILERS, end=True), PROTOCOL),
)
def test_a_request_that_never_becomes_a_stream(received, code):
    check_stream_failed(make_server(), received, code, has_event=False)


EITHER_STREAM = (
    ("PRIORITY too short", encode_frame(2, 0, 1, bytes(4)), SIZE),
    ("WINDOW_UPDATE of zero", frames.window_update(1, 0), PROTOCOL),
    ("the stream's window overflows", frames.window_update(1, MAX_WINDOW_SIZE), FLOW),
    ("more DATA than the stream's window", data_frame(1, bytes(FULL_FRAME)) * 4, FLOW),
    (
        "padding over the stream's window",
        data_frame(1, bytes(FULL_FRAME)) * 3 + data_frame(1, bytes(16_128), pad=256),
        FLOW,
    ),
    ("trailers that do not end it", headers_frame(1, TRAILERS), PROTOCOL),
    ("trailers with a pseudo-header field", headers_frame(1, RESPONSE, end=True), PROTOCOL),
    ("a second head", headers_frame(1, REQUEST), PROTOCOL),
    ("DATA after the end", data_frame(1, end=True) + data_frame(1, b"x"), CLOSED),
    ("an end after the end", data_frame(1, end=True) + data_frame(1, end=True), CLOSED),
    (
        "trailers after the end",
        data_frame(1, end=True) + headers_frame(1, TRAILERS, end=True),
        CLOSED,
    ),
)
WIDE = Limits(stream_window=DEFAULT_INITIAL_WINDOW_SIZE)


@parametrize_violations(*EITHER_STREAM)
def test_a_client_costs_itself_the_stream(received, code):
    check_stream_failed(make_server_with_request(WIDE), received, code, has_event=True)


@parametrize_violations(*EITHER_STREAM)
def test_a_server_costs_itself_the_stream(received, code):
    engine = make_client_with_request(WIDE)
    engine.receive_data(headers_frame(1, RESPONSE))
    check_stream_failed(engine, received, code, has_event=True)


@parametrize_violations(
    ("DATA before the head", data_frame(1, b"x"), PROTOCOL),
    (
        "DATA after an early head",
        headers_frame(1, [(b":status", b"100")]) + data_frame(1),
        PROTOCOL,
    ),
    ("an early head that ends it", headers_frame(1, [(b":status", b"103")], end=True), PROTOCOL),
    ("a head without status", headers_frame(1, RESPONSE[1:]), PROTOCOL),
    ("a head with a status that is none", headers_frame(1, [(b":status", b"ok")]), PROTOCOL),
    ("a request's head", headers_frame(1, REQUEST), PROTOCOL),
    ("content-length and no body", sized(RESPONSE, b"5", end=True), PROTOCOL),
)
def test_a_response_that_never_begins(received, code):
    check_stream_failed(make_client_with_request(), received, code, has_event=True)


BODIES = (
    ("too long", data_frame(1, b"123456"), PROTOCOL),
    ("too long in parts", data_frame(1, b"123") + data_frame(1, b"456"), PROTOCOL),
    ("too short", data_frame(1, b"1234", end=True), PROTOCOL),
    ("nothing", data_frame(1, end=True), PROTOCOL),
    (
        "too short before trailers",
        data_frame(1, b"1234") + headers_frame(1, TRAILERS, end=True),
        PROTOCOL,
    ),
)


@parametrize_violations(*BODIES)
def test_a_request_of_another_length_than_announced(received, code):
    engine = make_server()
    check_stream_failed(engine, sized(REQUEST, b"5") + received, code, has_event=True)


@parametrize_violations(*BODIES)
def test_a_response_of_another_length_than_announced(received, code):
    check_stream_failed(
        make_client_with_request(), sized(RESPONSE, b"5") + received, code, has_event=True
    )


def test_a_stream_error_leaves_the_other_streams_alone():
    engine = make_server_with_request()
    events = engine.receive_data(
        headers_frame(3) + frames.window_update(1, 0) + data_frame(3, b"x", end=True)
    )
    assert [event.stream_id for event in events] == [3, 1, 3]
    late = data_frame(1, b"late") + headers_frame(1, TRAILERS, end=True)
    assert engine.receive_data(late) == []
    assert engine.open_stream_count == 1


def test_a_response_after_a_stream_error_on_another_stream():
    engine = make_client_with_request()
    engine.receive_data(headers_frame(1, RESPONSE) + frames.window_update(1, 0))
    stream = engine.open_stream(encoder.encode(REQUEST))
    (event,) = engine.receive_data(headers_frame(stream, RESPONSE))
    assert isinstance(event, ResponseReceived)
