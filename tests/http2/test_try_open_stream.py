"""A whole request in one call of the engine: the same frames as by parts, or nothing at all."""

from __future__ import annotations

import pytest

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.frames import Setting
from meshtrio.http2.hpack import encoder
from tests.support.engines import REQUEST, make_client, make_server, send_request

BLOCK = encoder.encode(REQUEST)


def send_by_parts(engine: GrpcConnection, data: bytes) -> None:
    stream_id = engine.open_stream(BLOCK)
    assert engine.send_data(stream_id, data, end_stream=True) == len(data)


@pytest.mark.parametrize("size", [0, 1, 16_384])
def test_it_sends_what_the_parts_would(size: int) -> None:
    whole, parts = make_client(), make_client()
    for engine in (whole, parts):
        send_request(engine)
    assert whole.try_open_stream_with_data(BLOCK, b"d" * size) == 3
    send_by_parts(parts, b"d" * size)
    assert whole.data_to_send() == parts.data_to_send()
    assert whole.windows.send == parts.windows.send
    assert whole.streams.by_id[3].send_window == parts.streams.by_id[3].send_window
    assert whole.abuse_limits.control_bucket.credits == parts.abuse_limits.control_bucket.credits
    assert not whole.is_send_open(3)
    assert whole.is_half_closed_local(3)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({Setting.INITIAL_WINDOW_SIZE: 10}, 11),
        ({}, 16_385),
        ({Setting.HEADER_TABLE_SIZE: 0}, 1),
        ({Setting.MAX_CONCURRENT_STREAMS: 1}, 1),
    ],
    ids=["window", "frame size", "table size update", "no free slot"],
)
def test_what_does_not_fit_is_not_begun(settings: dict[int, int], size: int) -> None:
    engine = make_client(settings=settings)
    if Setting.MAX_CONCURRENT_STREAMS in settings:
        send_request(engine)
    engine.data_to_send()
    before, open_streams = engine.windows.send, engine.open_stream_count
    assert engine.try_open_stream_with_data(BLOCK, b"d" * size) == 0
    assert engine.data_to_send() == b""
    assert engine.windows.send == before
    assert engine.open_stream_count == open_streams


def test_the_window_of_the_connection_counts_too() -> None:
    engine = make_client(settings={Setting.INITIAL_WINDOW_SIZE: 100_000})
    while engine.windows.send >= 16_384:
        assert engine.try_open_stream_with_data(BLOCK, b"d" * 16_384)
    assert engine.try_open_stream_with_data(BLOCK, b"d" * 16_384) == 0
    assert engine.try_open_stream_with_data(BLOCK, b"d" * engine.windows.send)


def test_a_long_header_block_is_left_to_the_parts() -> None:
    block = encoder.encode([*REQUEST, (b"long", b"x" * 20_000)])
    assert make_client().try_open_stream_with_data(block, b"d") == 0


@pytest.mark.parametrize("closed", [False, True])
def test_a_connection_that_takes_no_streams_gets_none(closed: bool) -> None:
    engine = make_client()
    if closed:
        engine.close()
    else:
        engine.receive_data(frames.goaway(0, ErrorCode.NO_ERROR))
    engine.data_to_send()
    assert engine.try_open_stream_with_data(BLOCK, b"d") == 0
    assert engine.data_to_send() == b""


def test_a_server_opens_none() -> None:
    assert make_server().try_open_stream_with_data(BLOCK, b"d") == 0
