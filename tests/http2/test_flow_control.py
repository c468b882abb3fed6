"""Flow control at both levels, both ways: RFC 9113 §5.2 and §6.9."""

from __future__ import annotations

import pytest

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2 import frames
from meshtrio.http2.connection import Role
from meshtrio.http2.events import DataReceived, WindowUpdated
from meshtrio.http2.frames import (
    DEFAULT_INITIAL_WINDOW_SIZE,
    MAX_WINDOW_SIZE,
    FrameType,
    Setting,
)
from meshtrio.http2.limits import Limits
from tests.support.engines import (
    RESPONSE,
    EnginePair,
    Frame,
    data_frame,
    headers_frame,
    make_client,
    make_client_with_request,
    make_server_with_request,
    send_request,
    send_response,
    sent_frames,
)

BIG = b"x" * 100_000
SMALL_LIMITS = Limits(
    stream_window=DEFAULT_INITIAL_WINDOW_SIZE, connection_window=DEFAULT_INITIAL_WINDOW_SIZE
)


def narrow_client(window: int) -> GrpcConnection:
    """A client whose stream 1 may send `window` bytes, and whose connection may send more."""
    return make_client_with_request(settings={Setting.INITIAL_WINDOW_SIZE: window})


def set_window(engine: GrpcConnection, window: int) -> None:
    engine.receive_data(frames.settings({Setting.INITIAL_WINDOW_SIZE: window}))
    engine.data_to_send()


def updates(engine: GrpcConnection) -> list[tuple[int, int]]:
    """(stream, increment) of the windows given back."""
    return [(f.stream_id, f.last_word) for f in sent_frames(engine, FrameType.WINDOW_UPDATE)]


# -- sending -------------------------------------------------------------------------------------


def test_a_streams_window_limits_what_is_taken():
    engine = narrow_client(10)
    assert engine.send_data(1, b"0123456789abc", end_stream=True) == 10
    assert sent_frames(engine) == [Frame(FrameType.DATA, 0, 1, b"0123456789")]
    assert engine.send_data(1, b"abc", end_stream=True) == 0
    assert sent_frames(engine) == []
    assert engine.receive_data(frames.window_update(1, 3)) == [WindowUpdated(1)]
    assert engine.send_data(1, b"abc", end_stream=True) == 3
    assert sent_frames(engine) == [Frame(FrameType.DATA, frames.END_STREAM, 1, b"abc")]


def test_the_connections_window_limits_all_streams_together():
    engine = make_client(settings={Setting.INITIAL_WINDOW_SIZE: 200_000})
    first, second = send_request(engine), send_request(engine)
    assert engine.send_data(first, BIG[:60_000]) == 60_000
    assert engine.send_data(second, BIG) == DEFAULT_INITIAL_WINDOW_SIZE - 60_000
    assert engine.send_data(first, b"x") == 0
    assert engine.receive_data(frames.window_update(0, 7)) == [WindowUpdated(0)]
    assert engine.send_data(first, BIG) == 7


def test_a_blocked_stream_does_not_block_another():
    engine = narrow_client(10)
    engine.send_data(1, BIG)
    assert engine.send_data(send_request(engine), BIG) == 10


def test_the_end_alone_needs_no_window():
    engine = narrow_client(0)
    set_window(engine, 5)
    assert engine.send_data(1, b"12345") == 5
    set_window(engine, 0)
    engine.data_to_send()
    assert engine.send_data(1, b"", end_stream=True) == 0
    assert sent_frames(engine) == [Frame(FrameType.DATA, frames.END_STREAM, 1, b"")]


def test_nothing_to_send_sends_nothing():
    engine = narrow_client(10)
    assert engine.send_data(1, b"") == 0
    assert sent_frames(engine) == []


def test_a_window_goes_below_zero_when_the_setting_shrinks():
    engine = narrow_client(10)
    engine.send_data(1, b"12345678")
    set_window(engine, 3)
    assert engine.send_data(1, b"x") == 0
    engine.receive_data(frames.window_update(1, 5))
    assert engine.send_data(1, b"x") == 0, "the window stands at zero, having been -5"
    engine.receive_data(frames.window_update(1, 2))
    assert engine.send_data(1, b"abc") == 2


def test_a_setting_opens_every_streams_window_by_the_difference():
    engine = narrow_client(10)
    other = send_request(engine)
    engine.send_data(1, b"12345678")
    set_window(engine, 15)
    assert engine.send_data(1, BIG) == 7
    assert engine.send_data(other, BIG) == 15
    assert engine.send_data(send_request(engine), BIG) == 15


def test_the_setting_says_nothing_of_the_connections_window():
    engine = narrow_client(200_000)
    set_window(engine, 300_000)
    assert engine.send_data(1, BIG) == DEFAULT_INITIAL_WINDOW_SIZE


def test_windows_may_grow_as_far_as_they_go():
    engine = narrow_client(0)
    for stream, window in ((0, DEFAULT_INITIAL_WINDOW_SIZE), (1, 0)):
        events = engine.receive_data(frames.window_update(stream, MAX_WINDOW_SIZE - window))
        assert events == [WindowUpdated(stream)]
    assert engine.send_data(1, BIG) == len(BIG)


def test_a_setting_may_open_a_window_as_far_as_it_goes():
    engine = narrow_client(5)
    engine.receive_data(frames.window_update(1, MAX_WINDOW_SIZE - 6))
    set_window(engine, 6)
    assert not engine.closed


@pytest.mark.parametrize("kind", [bytes, memoryview])
@pytest.mark.parametrize(
    ("length", "sizes"),
    [
        (16_384, [16_384]),
        (16_385, [16_384, 1]),
        (32_768, [16_384, 16_384]),
        (40_000, [16_384, 16_384, 7_232]),
    ],
)
def test_data_is_sent_in_frames_of_the_peers_size(kind, length, sizes):
    engine = make_client_with_request()
    body = bytes(i % 251 for i in range(length))
    assert engine.send_data(1, kind(body), end_stream=True) == length
    found = sent_frames(engine)
    assert [len(frame.payload) for frame in found] == sizes
    assert [frame.flags for frame in found] == [0] * (len(sizes) - 1) + [frames.END_STREAM]
    assert b"".join(frame.payload for frame in found) == body


def test_a_larger_frame_size_of_the_peer_is_used():
    engine = make_client_with_request(settings={Setting.MAX_FRAME_SIZE: 50_000})
    engine.send_data(1, BIG[:60_000])
    assert [len(frame.payload) for frame in sent_frames(engine)] == [50_000, 10_000]


# -- receiving -----------------------------------------------------------------------------------


def test_a_stream_is_allowed_more_from_half_a_window_on():
    engine = make_server_with_request(Limits(stream_window=100_000))
    engine.receive_data(data_frame(1, bytes(16_384)) * 4)
    engine.data_to_send()
    allowed = 100_000 - 4 * 16_384
    assert not engine.set_receive_window(1, allowed + 49_999)
    assert updates(engine) == []
    assert engine.set_receive_window(1, allowed + 50_000)
    assert updates(engine) == [(1, 50_000)]
    assert not engine.set_receive_window(1, allowed + 60_000)
    assert updates(engine) == []


def test_what_was_allowed_is_not_taken_back():
    engine = make_server_with_request(Limits(stream_window=100_000))
    assert not engine.set_receive_window(1, 10)
    engine.receive_data(data_frame(1, bytes(16_384)) * 6)
    assert not engine.closed


def test_no_window_grows_beyond_the_largest():
    engine = make_server_with_request(SMALL_LIMITS)
    assert engine.set_receive_window(1, 2 * MAX_WINDOW_SIZE)
    assert updates(engine) == [(1, MAX_WINDOW_SIZE - SMALL_LIMITS.stream_window)]


def test_what_is_allowed_can_be_used():
    engine = make_server_with_request(SMALL_LIMITS)
    for _ in range(10):
        events = engine.receive_data(data_frame(1, bytes(16_000)) * 4)
        assert [type(event) for event in events] == [DataReceived] * 4
        engine.set_receive_window(1, SMALL_LIMITS.stream_window)
        assert (1, 64_000) in updates(engine)


def test_nothing_is_allowed_to_a_stream_that_will_not_use_it():
    engine = make_server_with_request()
    engine.receive_data(data_frame(1, bytes(16_384), end=True))
    assert not engine.set_receive_window(1, 10**6)
    assert not engine.set_receive_window(99, 10**6)
    assert updates(engine) == []


def test_the_connections_window_is_given_back_as_bytes_arrive():
    engine = make_server_with_request(Limits(stream_window=100_000, connection_window=100_000))
    engine.receive_data(data_frame(1, bytes(16_384)) * 3)
    assert updates(engine) == []
    engine.receive_data(data_frame(1, bytes(848)))
    assert updates(engine) == [(0, 50_000)]
    engine.receive_data(data_frame(1, bytes(16_384)) * 3)
    assert updates(engine) == []


def test_an_unread_stream_stops_its_own_sender_only():
    pair = EnginePair(server_limits=SMALL_LIMITS)
    unread, other = send_request(pair.client), send_request(pair.client)
    assert pair.client.send_data(unread, BIG) == DEFAULT_INITIAL_WINDOW_SIZE
    pair.exchange()
    assert pair.client.send_data(unread, BIG) == 0
    for _ in range(5):
        # Of the connection's window, half is always there.
        assert pair.client.send_data(other, BIG[:30_000]) == 30_000
        _, events = pair.exchange()
        assert sum(len(event.data) for event in events) == 30_000
        pair.server.set_receive_window(other, SMALL_LIMITS.stream_window)
        pair.exchange()


def test_a_large_transfer_goes_through_narrow_windows():
    pair = EnginePair(server_limits=SMALL_LIMITS)
    stream, left, got = send_request(pair.client), b"0123456789" * 30_000, b""
    while left:
        taken = pair.client.send_data(stream, left, end_stream=True)
        left = left[taken:]
        _, events = pair.exchange()
        for event in events:
            got += getattr(event, "data", b"")
        pair.server.set_receive_window(stream, SMALL_LIMITS.stream_window)
        pair.exchange()
    assert got == b"0123456789" * 30_000
    send_response(pair.server, stream, end=True)
    pair.exchange()
    assert (pair.client.open_stream_count, pair.server.open_stream_count) == (0, 0)


@pytest.mark.parametrize(
    ("payload", "pad"), [(b"", 1), (b"", 256), (b"body", 1), (b"body", 100)], ids=repr
)
def test_padding_is_taken_off(payload, pad):
    engine = make_server_with_request()
    assert engine.receive_data(data_frame(1, payload, pad=pad)) == [DataReceived(1, payload, False)]


def test_padding_counts_and_is_given_back_with_the_rest():
    engine = make_server_with_request(
        Limits(stream_window=DEFAULT_INITIAL_WINDOW_SIZE, connection_window=MAX_WINDOW_SIZE)
    )
    padded = data_frame(1, b"body", pad=256)
    assert len(engine.receive_data(padded * 128)) == 128
    engine.set_receive_window(1, DEFAULT_INITIAL_WINDOW_SIZE)
    assert updates(engine) == [(1, 128 * (256 + len(b"body")))]


def test_data_for_a_forgotten_stream_still_counts_for_the_connection():
    engine = make_client_with_request(Limits(connection_window=DEFAULT_INITIAL_WINDOW_SIZE))
    engine.receive_data(headers_frame(1, RESPONSE))
    engine.reset_stream(1, 8)
    engine.data_to_send()
    assert engine.receive_data(data_frame(1, bytes(16_384)) * 2) == []
    assert updates(engine) == [(0, 32_768)]


def test_the_windows_announced_may_be_used_to_the_last_byte():
    limits = Limits(stream_window=100_000, connection_window=100_000)
    server = GrpcConnection(Role.SERVER, limits)
    client = GrpcConnection(Role.CLIENT)
    client.receive_data(server.data_to_send())
    stream = send_request(client)
    assert client.send_data(stream, BIG + b"more") == 100_000
    server.receive_data(client.data_to_send())
    assert not server.closed
