"""What a peer may not do on pain of losing the connection (RFC 9113 §5.4.1)."""

from __future__ import annotations

import pytest

from meshtrio.wire import frames
from meshtrio.wire.connection import Connection, Role
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.events import ConnectionFailed, DataReceived, RequestReceived
from meshtrio.wire.frames import DEFAULT_WINDOW, MAX_WINDOW, FrameType, Setting, frame
from meshtrio.wire.limits import Limits

from .peers import (
    REQUEST,
    RESPONSE,
    calling_client,
    client,
    cut,
    data,
    headers,
    headers_of,
    rows,
    server,
)

PROTOCOL = ErrorCode.PROTOCOL_ERROR
FLOW = ErrorCode.FLOW_CONTROL_ERROR
SIZE = ErrorCode.FRAME_SIZE_ERROR
COMPRESSION = ErrorCode.COMPRESSION_ERROR
CALM = ErrorCode.ENHANCE_YOUR_CALM
FULL_FRAME = 16_384


def setting(key: int, value: int) -> bytes:
    return frames.settings({key: value})


def check_connection_failed(engine: Connection, said: bytes, code: ErrorCode, last: int) -> None:
    engine.data_to_send()
    *_, event = engine.receive_data(said)
    assert isinstance(event, ConnectionFailed)
    assert event.code == code
    assert event.reason
    goaway = cut(engine.data_to_send())[-1]
    assert (goaway.type, goaway.stream_id) == (FrameType.GOAWAY, 0)
    assert goaway.payload == (
        last.to_bytes(4, "big") + code.to_bytes(4, "big") + event.reason.encode()
    )
    assert engine.closed
    assert engine.receive_data(frames.ping(b"12345678", ack=False)) == []


EITHER_SIDE = (
    ("frame too large", frame(0xFF, 0, 0, bytes(Limits().max_frame_size + 1)), SIZE),
    ("DATA on stream 0", data(0, b"x"), PROTOCOL),
    ("DATA on an idle stream", data(9, b"x"), PROTOCOL),
    ("DATA on an even stream", data(2, b"x"), PROTOCOL),
    ("DATA with padding past its end", frame(0, frames.PADDED, 1, b"\5abcd"), PROTOCOL),
    ("DATA with padding and nothing", frame(0, frames.PADDED, 1, b""), PROTOCOL),
    ("HEADERS on stream 0", headers(0), PROTOCOL),
    ("HEADERS on an even stream", headers(2), PROTOCOL),
    ("HEADERS with padding past its end", headers_of(1, b"\5abcd", flags=8), PROTOCOL),
    ("HEADERS too short for priority", headers_of(1, b"\0\0\0\0", flags=32), SIZE),
    ("HEADERS that depend on themselves", headers_of(1, b"\x80\0\0\1\7", flags=32), PROTOCOL),
    ("HEADERS that cannot be decoded", headers_of(1, b"\xff\xff"), COMPRESSION),
    ("PRIORITY on stream 0", frame(2, 0, 0, b"\0\0\0\1\7"), PROTOCOL),
    ("PRIORITY on itself", frame(2, 0, 1, b"\x80\0\0\1\7"), PROTOCOL),
    ("PRIORITY of an idle stream too short", frame(2, 0, 9, bytes(4)), SIZE),
    ("RST_STREAM on stream 0", frames.rst_stream(0, 8), PROTOCOL),
    ("RST_STREAM on an idle stream", frames.rst_stream(9, 8), PROTOCOL),
    ("RST_STREAM too short", frame(3, 0, 1, b"\0\0\0"), SIZE),
    ("RST_STREAM too long", frame(3, 0, 1, bytes(5)), SIZE),
    ("SETTINGS on a stream", frame(4, 0, 1), PROTOCOL),
    ("SETTINGS of a broken length", frame(4, 0, 0, bytes(7)), SIZE),
    ("SETTINGS ACK with a payload", frame(4, frames.ACK, 0, bytes(6)), SIZE),
    ("ENABLE_PUSH of two", setting(Setting.ENABLE_PUSH, 2), PROTOCOL),
    ("INITIAL_WINDOW_SIZE too large", setting(4, 2**31), FLOW),
    ("MAX_FRAME_SIZE too small", setting(5, 16_383), PROTOCOL),
    ("MAX_FRAME_SIZE too large", setting(5, 2**24), PROTOCOL),
    ("PUSH_PROMISE", frame(5, frames.END_HEADERS, 1, b"\0\0\0\2"), PROTOCOL),
    ("PING on a stream", frame(6, 0, 1, bytes(8)), PROTOCOL),
    ("PING too short", frame(6, 0, 0, bytes(7)), SIZE),
    ("PING too long", frame(6, frames.ACK, 0, bytes(9)), SIZE),
    ("GOAWAY on a stream", frame(7, 0, 1, bytes(8)), PROTOCOL),
    ("GOAWAY too short", frame(7, 0, 0, bytes(7)), SIZE),
    ("WINDOW_UPDATE too short", frame(8, 0, 0, bytes(3)), SIZE),
    ("WINDOW_UPDATE of a stream too long", frame(8, 0, 1, bytes(5)), SIZE),
    ("WINDOW_UPDATE of zero", frames.window_update(0, 0), PROTOCOL),
    ("WINDOW_UPDATE on an idle stream", frames.window_update(9, 1), PROTOCOL),
    ("the connection's window overflows", frames.window_update(0, MAX_WINDOW), FLOW),
    ("the connection's window overflows by one", frames.window_update(0, 2**31 - 65_535), FLOW),
    (
        "a setting makes a stream's window overflow",
        frames.window_update(1, MAX_WINDOW - DEFAULT_WINDOW) + setting(4, DEFAULT_WINDOW + 1),
        FLOW,
    ),
    ("CONTINUATION without HEADERS", frame(9, frames.END_HEADERS, 1, b""), PROTOCOL),
    ("block interrupted by PING", frame(1, 0, 1) + frames.ping(b"12345678", ack=False), PROTOCOL),
    ("block interrupted by DATA", frame(1, 0, 1) + data(1), PROTOCOL),
    ("block interrupted by another", frame(1, 0, 1) + headers(1), PROTOCOL),
    ("block interrupted by an unknown frame", frame(1, 0, 1) + frame(0xFF, 0, 1), PROTOCOL),
    ("block continued on another stream", frame(1, 0, 1) + frame(9, 4, 3), PROTOCOL),
)


@rows(*EITHER_SIDE)
def test_a_client_costs_itself_the_connection(said, code):
    engine = server()
    engine.receive_data(headers(1))
    check_connection_failed(engine, said, code, last=1)


@rows(*EITHER_SIDE)
def test_a_server_costs_itself_the_connection(said, code):
    engine = calling_client()
    engine.receive_data(headers(1, RESPONSE))
    check_connection_failed(engine, said, code, last=0)


@rows(
    ("another protocol", b"GET / HTTP/1.1\r\n", PROTOCOL),
    ("HTTP/1.1 at the last byte", frames.PREFACE[:-1] + b"\r", PROTOCOL),
    ("no preface", frames.settings({}), PROTOCOL),
    ("no SETTINGS after the preface", frames.PREFACE + headers(1), PROTOCOL),
    ("PING before SETTINGS", frames.PREFACE + frames.ping(b"12345678", ack=False), PROTOCOL),
)
def test_a_client_that_begins_wrongly(said, code):
    check_connection_failed(Connection(Role.SERVER), said, code, last=0)


@rows(
    ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n", SIZE),
    ("a client's preface", frames.PREFACE, SIZE),
    ("PING before SETTINGS", frames.ping(b"12345678", ack=False), PROTOCOL),
    ("HEADERS before SETTINGS", headers(1, RESPONSE), PROTOCOL),
)
def test_a_server_that_begins_wrongly(said, code):
    check_connection_failed(Connection(Role.CLIENT), said, code, last=0)


def test_a_server_may_not_enable_push():
    check_connection_failed(client(), setting(Setting.ENABLE_PUSH, 1), PROTOCOL, last=0)
    assert server(settings={Setting.ENABLE_PUSH: 1}).closed is False


@pytest.mark.parametrize("make", [client, server])
def test_a_window_too_large_with_no_stream_that_it_could_overflow(make):
    check_connection_failed(make(), setting(4, 2**31), FLOW, last=0)
    assert make(settings={Setting.INITIAL_WINDOW_SIZE: MAX_WINDOW}).closed is False


def test_a_server_may_not_answer_what_was_not_asked():
    check_connection_failed(calling_client(), headers(3, RESPONSE), PROTOCOL, last=0)


def test_more_data_than_the_connections_window():
    """Half of it is always open, so one frame must be longer than that half to go beyond it."""
    for size, fits in ((32_768, True), (32_769, False)):
        engine = server(Limits(connection_window=DEFAULT_WINDOW, max_frame_size=40_000))
        engine.receive_data(headers(1) + data(1, bytes(32_767)))
        if fits:
            assert [type(e) for e in engine.receive_data(data(1, bytes(size)))] == [DataReceived]
        else:
            check_connection_failed(engine, data(1, bytes(size)), FLOW, last=1)


@pytest.mark.parametrize("size", [1024, 32 * 1024])
def test_a_header_list_over_the_absolute_limit(size):
    limits = Limits(
        max_header_list_size=1024, absolute_max_header_list_size=size, max_frame_size=40_000
    )
    engine = server(limits)
    too_large = headers(1, [*REQUEST, (b"n", b"v" * size)])
    check_connection_failed(engine, too_large, CALM, last=0)


def test_what_came_before_a_violation_is_still_told():
    events = server().receive_data(headers(1) + data(0) + headers(3))
    assert [type(event) for event in events] == [RequestReceived, ConnectionFailed]
