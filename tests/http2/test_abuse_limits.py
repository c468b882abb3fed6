"""Token buckets, and the floods they stop in the engine."""

from __future__ import annotations

import pytest
from hpack import Encoder

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2 import frames
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.events import ConnectionFailed
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.frames import FrameType
from meshtrio.http2.hpack import encoder
from meshtrio.http2.hpack.decoder import HeaderDecoder
from meshtrio.http2.limits import Limits
from meshtrio.util.token_bucket import TokenBucket

HEAD = encoder.encode(
    [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/a.B/C"),
        (b"content-type", b"application/grpc"),
    ]
)
LIMITS = Limits(control_burst=100, control_rate=10, reset_burst=100, reset_rate=10)


def test_a_burst_then_the_rate() -> None:
    budget = TokenBucket(burst=3, rate=2)
    assert [budget.try_acquire(10.0) for _ in range(4)] == [True, True, True, False]
    assert [budget.try_acquire(10.5), budget.try_acquire(10.5)] == [True, False]
    assert [budget.try_acquire(100.0) for _ in range(4)] == [True, True, True, False]


def test_what_is_earned_stays_within_the_burst() -> None:
    budget = TokenBucket(burst=2, rate=0)
    assert [budget.try_acquire(0), budget.try_acquire(0), budget.try_acquire(0)] == [
        True,
        True,
        False,
    ]
    budget.credits += 10
    assert [budget.try_acquire(0), budget.try_acquire(0), budget.try_acquire(0)] == [
        True,
        True,
        False,
    ]


def server() -> GrpcConnection:
    engine = GrpcConnection(Role.SERVER, LIMITS)
    engine.receive_data(frames.PREFACE + frames.settings({}))
    engine.data_to_send()
    return engine


def opened(stream_id: int, *, end: bool = False) -> bytes:
    return frames.encode_header_block(stream_id, HEAD, end_stream=end, max_frame_size=16_384)


FLOODS = {
    "PING": lambda n: frames.ping(b"12345678", ack=False),
    "PING answers": lambda n: frames.ping(b"12345678", ack=True),
    "SETTINGS": lambda n: frames.settings({}),
    "PRIORITY": lambda n: frames.encode_frame(FrameType.PRIORITY, 0, 1, bytes(5)),
    "WINDOW_UPDATE": lambda n: frames.window_update(0, 1),
    "unknown frames": lambda n: frames.encode_frame(0x77, 0, 0),
    "empty DATA": lambda n: frames.encode_frame(FrameType.DATA, 0, 1),
    "GOAWAY": lambda n: frames.goaway(0, 0),
    "rapid reset": lambda n: opened(2 * n + 3) + frames.rst_stream(2 * n + 3, 8),
    "reset by violation": lambda n: opened(2 * n + 3) + frames.window_update(2 * n + 3, 0),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_the_connection(flood: str) -> None:
    engine = server()
    engine.receive_data(opened(1))
    for number in range(1000):
        events = engine.receive_data(FLOODS[flood](number), now=1.0)
        if engine.closed:
            break
    assert engine.closed
    assert number == LIMITS.control_burst == LIMITS.reset_burst
    assert isinstance(events[-1], ConnectionFailed)
    assert events[-1].error_code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("flood", FLOODS)
def test_the_same_at_an_honest_pace_does_not(flood: str) -> None:
    engine = server()
    engine.receive_data(opened(1))
    for number in range(1000):
        engine.receive_data(FLOODS[flood](number), now=number * 0.2)
    assert not engine.closed


def test_pings_beside_data_are_earned() -> None:
    """As many as grpc-go sends to estimate a bandwidth."""
    engine = server()
    engine.receive_data(opened(1))
    for _ in range(1000):
        data = frames.encode_frame(FrameType.DATA, 0, 1, b"x")
        engine.receive_data(data + frames.ping(b"12345678", ack=False))
    assert not engine.closed


def test_calls_that_end_as_they_should_earn_resets() -> None:
    engine = server()
    for number in range(1, 1000, 4):
        engine.receive_data(opened(number, end=True))
        engine.send_headers(number, HEAD, end_stream=True)
        engine.receive_data(opened(number + 2) + frames.rst_stream(number + 2, 8))
    assert not engine.closed


def test_what_is_begun_and_not_finished_is_told() -> None:
    engine = GrpcConnection(Role.SERVER)
    settings = frames.settings({})
    engine.receive_data(frames.PREFACE, now=5.0)
    assert engine.frame_reader.incomplete_since is None
    engine.receive_data(settings[:4], now=6.0)
    engine.receive_data(settings[4:-1], now=7.0)
    assert engine.frame_reader.incomplete_since == 6.0
    engine.receive_data(settings[-1:], now=8.0)
    assert engine.frame_reader.incomplete_since is None
    engine.receive_data(frames.encode_frame(FrameType.HEADERS, 0, 1, HEAD), now=9.0)
    assert engine.frame_reader.incomplete_since == 9.0
    engine.receive_data(
        frames.encode_frame(FrameType.CONTINUATION, frames.END_HEADERS, 1), now=10.0
    )
    assert engine.frame_reader.incomplete_since is None


def test_a_download_to_a_peer_that_updates_often_goes_on() -> None:
    engine, now = server(), 1.0
    engine.receive_data(opened(1) + frames.window_update(0, 2**30) + frames.window_update(1, 2**30))
    for _ in range(64):
        engine.send_data(1, bytes(1 << 20))
        engine.data_to_send()
        updates = frames.window_update(1, 4096) + frames.window_update(0, 4096)
        engine.receive_data(updates * 256, now=now)
        now += 0.005
    assert not engine.closed


def test_what_was_refused_stays_refused() -> None:
    engine = server()
    engine.receive_data(opened(1))
    engine.refuse_new_streams()
    engine.receive_data(opened(3))
    engine.close()
    reader = FrameReader(expect_preface=False, max_frame_size=2**20, max_block_size=2**20)
    sent = reader.feed(frames.settings({}) + engine.data_to_send())
    last_ids = [payload[:4] for type_, _, _, payload in sent if type_ == FrameType.GOAWAY]
    assert last_ids == [b"\0\0\0\1"] * 2


def test_what_is_remembered_of_heads_is_bounded() -> None:
    encoder, decoder = Encoder(), HeaderDecoder(32 * 1024)
    entry = ("a", "v" * 3868)
    decoder.decode(encoder.encode([entry], huffman=False), tuple)
    for number in range(100):
        block = encoder.encode([entry] * 7, huffman=False)
        decoder.decode(block + encoder.encode([(b"n", b"%d" % number)]), tuple)
    assert len(decoder._cache) == 0


def test_a_single_frame_is_held_to_the_limit_of_blocks() -> None:
    limits = Limits(max_header_list_size=1024, absolute_max_header_list_size=1024)
    engine = GrpcConnection(Role.SERVER, limits)
    large = frames.encode_header_block(
        1, b"\x20" * 2000 + HEAD, end_stream=False, max_frame_size=16_384
    )
    events = engine.receive_data(frames.PREFACE + frames.settings({}) + large)
    assert isinstance(events[-1], ConnectionFailed)
    assert events[-1].error_code == ErrorCode.ENHANCE_YOUR_CALM
