"""What a peer may not do on pain of losing a stream, and that alone (RFC 9113 §5.4.2)."""

from __future__ import annotations

from meshtrio.wire import frames, hpack
from meshtrio.wire.connection import Connection
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.events import ResponseReceived, StreamReset
from meshtrio.wire.frames import DEFAULT_WINDOW, MAX_WINDOW, FrameType, frame
from meshtrio.wire.limits import Limits

from .peers import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    calling_client,
    data,
    headers,
    is_alive,
    rows,
    sent,
    server,
    serving_server,
)

PROTOCOL = ErrorCode.PROTOCOL_ERROR
FLOW = ErrorCode.FLOW_CONTROL_ERROR
SIZE = ErrorCode.FRAME_SIZE_ERROR
CLOSED = ErrorCode.STREAM_CLOSED
FULL_FRAME = 16_384


def sized(fields, length: bytes, *, end: bool = False) -> bytes:
    return headers(1, [*fields, (b"content-length", length)], end=end)


def check_stream_failed(engine: Connection, said: bytes, code: ErrorCode, *, told: bool) -> None:
    """`told`: whether the layer above knew of the stream, and so hears of its end."""
    engine.data_to_send()
    events = engine.receive_data(said)
    failed = [event for event in events if isinstance(event, StreamReset)]
    if told:
        (event,) = failed
        assert event is events[-1]
        assert (event.stream_id, event.code, event.by_peer) == (1, code, False)
        assert event.reason
    else:
        assert events == []
    resets = [(f.stream_id, f.number) for f in sent(engine, FrameType.RST_STREAM)]
    assert resets == [(1, code)]
    assert engine.open_streams == 0
    assert is_alive(engine)


@rows(
    ("no path", headers(1, REQUEST[:2]), PROTOCOL),
    ("a name in capitals", headers(1, [*REQUEST, (b"Key", b"v")]), PROTOCOL),
    ("a pseudo-header field too late", headers(1, [(b"k", b"v"), *REQUEST]), PROTOCOL),
    ("a header of HTTP/1.1", headers(1, [*REQUEST, (b"connection", b"close")]), PROTOCOL),
    ("a response's head", headers(1, RESPONSE), PROTOCOL),
    ("no head at all", headers(1, []), PROTOCOL),
    ("a head of trailers", headers(1, TRAILERS, end=True), PROTOCOL),
)
def test_a_request_that_never_becomes_a_stream(said, code):
    check_stream_failed(server(), said, code, told=False)


EITHER_STREAM = (
    ("PRIORITY too short", frame(2, 0, 1, bytes(4)), SIZE),
    ("WINDOW_UPDATE of zero", frames.window_update(1, 0), PROTOCOL),
    ("the stream's window overflows", frames.window_update(1, MAX_WINDOW), FLOW),
    ("more DATA than the stream's window", data(1, bytes(FULL_FRAME)) * 4, FLOW),
    (
        "padding over the stream's window",
        data(1, bytes(FULL_FRAME)) * 3 + data(1, bytes(16_128), pad=256),
        FLOW,
    ),
    ("trailers that do not end it", headers(1, TRAILERS), PROTOCOL),
    ("trailers with a pseudo-header field", headers(1, RESPONSE, end=True), PROTOCOL),
    ("a second head", headers(1, REQUEST), PROTOCOL),
    ("DATA after the end", data(1, end=True) + data(1, b"x"), CLOSED),
    ("an end after the end", data(1, end=True) + data(1, end=True), CLOSED),
    ("trailers after the end", data(1, end=True) + headers(1, TRAILERS, end=True), CLOSED),
)
WIDE = Limits(stream_window=DEFAULT_WINDOW)


@rows(*EITHER_STREAM)
def test_a_client_costs_itself_the_stream(said, code):
    check_stream_failed(serving_server(WIDE), said, code, told=True)


@rows(*EITHER_STREAM)
def test_a_server_costs_itself_the_stream(said, code):
    engine = calling_client(WIDE)
    engine.receive_data(headers(1, RESPONSE))
    check_stream_failed(engine, said, code, told=True)


@rows(
    ("DATA before the head", data(1, b"x"), PROTOCOL),
    ("DATA after an early head", headers(1, [(b":status", b"100")]) + data(1), PROTOCOL),
    ("an early head that ends it", headers(1, [(b":status", b"103")], end=True), PROTOCOL),
    ("a head without status", headers(1, RESPONSE[1:]), PROTOCOL),
    ("a head with a status that is none", headers(1, [(b":status", b"ok")]), PROTOCOL),
    ("a request's head", headers(1, REQUEST), PROTOCOL),
    ("content-length and no body", sized(RESPONSE, b"5", end=True), PROTOCOL),
)
def test_a_response_that_never_begins(said, code):
    check_stream_failed(calling_client(), said, code, told=True)


BODIES = (
    ("too long", data(1, b"123456"), PROTOCOL),
    ("too long in parts", data(1, b"123") + data(1, b"456"), PROTOCOL),
    ("too short", data(1, b"1234", end=True), PROTOCOL),
    ("nothing", data(1, end=True), PROTOCOL),
    ("too short before trailers", data(1, b"1234") + headers(1, TRAILERS, end=True), PROTOCOL),
)


@rows(*BODIES)
def test_a_request_of_another_length_than_it_said(said, code):
    engine = server()
    check_stream_failed(engine, sized(REQUEST, b"5") + said, code, told=True)


@rows(*BODIES)
def test_a_response_of_another_length_than_it_said(said, code):
    check_stream_failed(calling_client(), sized(RESPONSE, b"5") + said, code, told=True)


def test_a_stream_error_leaves_the_other_streams_alone():
    engine = serving_server()
    events = engine.receive_data(headers(3) + frames.window_update(1, 0) + data(3, b"x", end=True))
    assert [event.stream_id for event in events] == [3, 1, 3]
    late = data(1, b"late") + headers(1, TRAILERS, end=True)
    assert engine.receive_data(late) == []
    assert engine.open_streams == 1


def test_a_response_after_a_stream_error_on_another_stream():
    engine = calling_client()
    engine.receive_data(headers(1, RESPONSE) + frames.window_update(1, 0))
    stream = engine.open_stream(hpack.encode(REQUEST))
    (event,) = engine.receive_data(headers(stream, RESPONSE))
    assert isinstance(event, ResponseReceived)
