"""A whole response in one call of the engine: the same frames as by parts, or nothing at all."""

from __future__ import annotations

import pytest

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2 import frames
from meshtrio.http2.frames import Setting
from meshtrio.http2.hpack import encoder
from tests.support.engines import (
    RESPONSE,
    data_frame,
    make_server,
    make_server_with_request,
    send_response,
)

HEADERS, TRAILERS = encoder.encode(RESPONSE), encoder.encode([(b"grpc-status", b"0")])


def send_by_parts(engine: GrpcConnection, data: bytes) -> None:
    engine.send_headers(1, HEADERS)
    if data:
        engine.send_data(1, data)
    engine.send_headers(1, TRAILERS, end_stream=True)


@pytest.mark.parametrize("size", [0, 1, 16_384])
@pytest.mark.parametrize("ends", [False, True])
def test_it_sends_what_the_parts_would(size: int, ends: bool) -> None:
    whole, parts = make_server_with_request(), make_server_with_request()
    for engine in (whole, parts):
        if ends:
            engine.receive_data(data_frame(1, b"x", end=True))
    assert whole.try_send_message(1, b"d" * size, HEADERS, TRAILERS, False)
    send_by_parts(parts, b"d" * size)
    assert whole.data_to_send() == parts.data_to_send()
    assert whole.windows.send == parts.windows.send
    assert whole.open_stream_count == parts.open_stream_count == (0 if ends else 1)
    assert whole.abuse_limits.control_bucket.credits == parts.abuse_limits.control_bucket.credits
    assert not whole.is_send_open(1)


@pytest.mark.parametrize(
    ("settings", "size"),
    [({Setting.INITIAL_WINDOW_SIZE: 10}, 11), ({}, 16_385), ({Setting.HEADER_TABLE_SIZE: 0}, 1)],
    ids=["window", "frame size", "table size update"],
)
def test_what_does_not_fit_is_not_begun(settings: dict[int, int], size: int) -> None:
    engine = make_server_with_request(settings=settings)
    before = engine.windows.send
    assert not engine.try_send_message(1, b"d" * size, HEADERS, TRAILERS, False)
    assert engine.data_to_send() == b""
    assert engine.windows.send == before
    assert engine.is_send_open(1)
    send_by_parts(engine, b"d")


def test_a_response_that_has_begun_is_not_begun_again() -> None:
    engine = make_server_with_request()
    send_response(engine)
    engine.data_to_send()
    assert not engine.try_send_message(1, b"d", HEADERS, TRAILERS, False)
    assert engine.data_to_send() == b""


def test_a_stream_that_is_not_open_gets_none() -> None:
    engine = make_server_with_request()
    engine.receive_data(frames.rst_stream(1, 8))
    assert not engine.try_send_message(1, b"d", HEADERS, TRAILERS, False)
    assert not make_server().try_send_message(3, b"d", HEADERS, TRAILERS, False)
    assert engine.data_to_send() == b""
