"""What a peer may not do on pain of losing the connection (RFC 9113 §5.4.1)."""

from __future__ import annotations

import pytest

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2 import frames
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.events import ConnectionFailed, DataReceived, RequestReceived
from meshtrio.http2.frames import (
    DEFAULT_INITIAL_WINDOW_SIZE,
    MAX_WINDOW_SIZE,
    FrameType,
    Setting,
    encode_frame,
)
from meshtrio.http2.limits import Limits
from tests.support.engines import (
    REQUEST,
    RESPONSE,
    data_frame,
    headers_frame,
    headers_frame_of_block,
    make_client,
    make_client_with_request,
    make_server,
    parametrize_violations,
    parse_frames,
)

PROTOCOL = ErrorCode.PROTOCOL_ERROR
FLOW = ErrorCode.FLOW_CONTROL_ERROR
SIZE = ErrorCode.FRAME_SIZE_ERROR
COMPRESSION = ErrorCode.COMPRESSION_ERROR
CALM = ErrorCode.ENHANCE_YOUR_CALM
FULL_FRAME = 16_384


def setting(key: int, value: int) -> bytes:
    return frames.settings({key: value})


def check_connection_failed(
    engine: GrpcConnection, received: bytes, code: ErrorCode, last: int
) -> None:
    engine.data_to_send()
    *_, event = engine.receive_data(received)
    assert isinstance(event, ConnectionFailed)
    assert event.error_code == code
    assert event.reason
    goaway = parse_frames(engine.data_to_send())[-1]
    assert (goaway.type, goaway.stream_id) == (FrameType.GOAWAY, 0)
    assert goaway.payload == (
        last.to_bytes(4, "big") + code.to_bytes(4, "big") + event.reason.encode()
    )
    assert engine.closed
    assert engine.receive_data(frames.ping(b"12345678", ack=False)) == []


EITHER_SIDE = (
    ("frame too large", encode_frame(0xFF, 0, 0, bytes(Limits().max_frame_size + 1)), SIZE),
    ("DATA on stream 0", data_frame(0, b"x"), PROTOCOL),
    ("DATA on an idle stream", data_frame(9, b"x"), PROTOCOL),
    ("DATA on an even stream", data_frame(2, b"x"), PROTOCOL),
    ("DATA with padding past its end", encode_frame(0, frames.PADDED, 1, b"\5abcd"), PROTOCOL),
    ("DATA with padding and nothing", encode_frame(0, frames.PADDED, 1, b""), PROTOCOL),
    ("HEADERS on stream 0", headers_frame(0), PROTOCOL),
    ("HEADERS on an even stream", headers_frame(2), PROTOCOL),
    ("HEADERS with padding past its end", headers_frame_of_block(1, b"\5abcd", flags=8), PROTOCOL),
    ("HEADERS too short for priority", headers_frame_of_block(1, b"\0\0\0\0", flags=32), SIZE),
    (
        "HEADERS that depend on themselves",
        headers_frame_of_block(1, b"\x80\0\0\1\7", flags=32),
        PROTOCOL,
    ),
    ("HEADERS that cannot be decoded", headers_frame_of_block(1, b"\xff\xff"), COMPRESSION),
    ("PRIORITY on stream 0", encode_frame(2, 0, 0, b"\0\0\0\1\7"), PROTOCOL),
    ("PRIORITY on itself", encode_frame(2, 0, 1, b"\x80\0\0\1\7"), PROTOCOL),
    ("PRIORITY of an idle stream too short", encode_frame(2, 0, 9, bytes(4)), SIZE),
    ("RST_STREAM on stream 0", frames.rst_stream(0, 8), PROTOCOL),
    ("RST_STREAM on an idle stream", frames.rst_stream(9, 8), PROTOCOL),
    ("RST_STREAM too short", encode_frame(3, 0, 1, b"\0\0\0"), SIZE),
    ("RST_STREAM too long", encode_frame(3, 0, 1, bytes(5)), SIZE),
    ("SETTINGS on a stream", encode_frame(4, 0, 1), PROTOCOL),
    ("SETTINGS length is not a multiple of 6", encode_frame(4, 0, 0, bytes(7)), SIZE),
    ("SETTINGS ACK with a payload", encode_frame(4, frames.ACK, 0, bytes(6)), SIZE),
    ("ENABLE_PUSH of two", setting(Setting.ENABLE_PUSH, 2), PROTOCOL),
    ("INITIAL_WINDOW_SIZE too large", setting(4, 2**31), FLOW),
    ("MAX_FRAME_SIZE too small", setting(5, 16_383), PROTOCOL),
    ("MAX_FRAME_SIZE too large", setting(5, 2**24), PROTOCOL),
    ("PUSH_PROMISE", encode_frame(5, frames.END_HEADERS, 1, b"\0\0\0\2"), PROTOCOL),
    ("PING on a stream", encode_frame(6, 0, 1, bytes(8)), PROTOCOL),
    ("PING too short", encode_frame(6, 0, 0, bytes(7)), SIZE),
    ("PING too long", encode_frame(6, frames.ACK, 0, bytes(9)), SIZE),
    ("GOAWAY on a stream", encode_frame(7, 0, 1, bytes(8)), PROTOCOL),
    ("GOAWAY too short", encode_frame(7, 0, 0, bytes(7)), SIZE),
    ("WINDOW_UPDATE too short", encode_frame(8, 0, 0, bytes(3)), SIZE),
    ("WINDOW_UPDATE of a stream too long", encode_frame(8, 0, 1, bytes(5)), SIZE),
    ("WINDOW_UPDATE of zero", frames.window_update(0, 0), PROTOCOL),
    ("WINDOW_UPDATE on an idle stream", frames.window_update(9, 1), PROTOCOL),
    ("the connection's window overflows", frames.window_update(0, MAX_WINDOW_SIZE), FLOW),
    ("the connection's window overflows by one", frames.window_update(0, 2**31 - 65_535), FLOW),
    (
        "a setting makes a stream's window overflow",
        frames.window_update(1, MAX_WINDOW_SIZE - DEFAULT_INITIAL_WINDOW_SIZE)
        + setting(4, DEFAULT_INITIAL_WINDOW_SIZE + 1),
        FLOW,
    ),
    ("CONTINUATION without HEADERS", encode_frame(9, frames.END_HEADERS, 1, b""), PROTOCOL),
    (
        "block interrupted by PING",
        encode_frame(1, 0, 1) + frames.ping(b"12345678", ack=False),
        PROTOCOL,
    ),
    ("block interrupted by DATA", encode_frame(1, 0, 1) + data_frame(1), PROTOCOL),
    ("block interrupted by another", encode_frame(1, 0, 1) + headers_frame(1), PROTOCOL),
    (
        "block interrupted by an unknown frame",
        encode_frame(1, 0, 1) + encode_frame(0xFF, 0, 1),
        PROTOCOL,
    ),
    ("block continued on another stream", encode_frame(1, 0, 1) + encode_frame(9, 4, 3), PROTOCOL),
)


@parametrize_violations(*EITHER_SIDE)
def test_a_client_costs_itself_the_connection(received, code):
    engine = make_server()
    engine.receive_data(headers_frame(1))
    check_connection_failed(engine, received, code, last=1)


@parametrize_violations(*EITHER_SIDE)
def test_a_server_costs_itself_the_connection(received, code):
    engine = make_client_with_request()
    engine.receive_data(headers_frame(1, RESPONSE))
    check_connection_failed(engine, received, code, last=0)


@parametrize_violations(
    ("another protocol", b"GET / HTTP/1.1\r\n", PROTOCOL),
    ("HTTP/1.1 at the last byte", frames.PREFACE[:-1] + b"\r", PROTOCOL),
    ("no preface", frames.settings({}), PROTOCOL),
    ("no SETTINGS after the preface", frames.PREFACE + headers_frame(1), PROTOCOL),
    ("PING before SETTINGS", frames.PREFACE + frames.ping(b"12345678", ack=False), PROTOCOL),
)
def test_a_client_that_begins_wrongly(received, code):
    check_connection_failed(GrpcConnection(Role.SERVER), received, code, last=0)


@parametrize_violations(
    ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n", SIZE),
    ("a client's preface", frames.PREFACE, SIZE),
    ("PING before SETTINGS", frames.ping(b"12345678", ack=False), PROTOCOL),
    ("HEADERS before SETTINGS", headers_frame(1, RESPONSE), PROTOCOL),
)
def test_a_server_that_begins_wrongly(received, code):
    check_connection_failed(GrpcConnection(Role.CLIENT), received, code, last=0)


def test_a_server_may_not_enable_push():
    check_connection_failed(make_client(), setting(Setting.ENABLE_PUSH, 1), PROTOCOL, last=0)
    assert make_server(settings={Setting.ENABLE_PUSH: 1}).closed is False


@pytest.mark.parametrize("make", [make_client, make_server])
def test_a_window_too_large_with_no_stream_that_it_could_overflow(make):
    check_connection_failed(make(), setting(4, 2**31), FLOW, last=0)
    assert make(settings={Setting.INITIAL_WINDOW_SIZE: MAX_WINDOW_SIZE}).closed is False


def test_a_server_may_not_answer_what_was_not_asked():
    check_connection_failed(
        make_client_with_request(), headers_frame(3, RESPONSE), PROTOCOL, last=0
    )


def test_more_data_than_the_connections_window():
    """Half of it is always open, so one frame must be longer than that half to go beyond it."""
    for size, fits in ((32_768, True), (32_769, False)):
        engine = make_server(
            Limits(connection_window=DEFAULT_INITIAL_WINDOW_SIZE, max_frame_size=40_000)
        )
        engine.receive_data(headers_frame(1) + data_frame(1, bytes(32_767)))
        if fits:
            assert [type(e) for e in engine.receive_data(data_frame(1, bytes(size)))] == [
                DataReceived
            ]
        else:
            check_connection_failed(engine, data_frame(1, bytes(size)), FLOW, last=1)


@pytest.mark.parametrize("size", [1024, 32 * 1024])
def test_a_header_list_over_the_absolute_limit(size):
    limits = Limits(
        max_header_list_size=1024, absolute_max_header_list_size=size, max_frame_size=40_000
    )
    engine = make_server(limits)
    too_large = headers_frame(1, [*REQUEST, (b"n", b"v" * size)])
    check_connection_failed(engine, too_large, CALM, last=0)


def test_what_came_before_a_violation_is_still_told():
    events = make_server().receive_data(headers_frame(1) + data_frame(0) + headers_frame(3))
    assert [type(event) for event in events] == [RequestReceived, ConnectionFailed]
