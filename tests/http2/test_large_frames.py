"""Large DATA frames, whose parts are events as they arrive."""

from __future__ import annotations

import pytest

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.events import DataReceived, Http2Event, StreamReset
from meshtrio.http2.frames import FrameType
from meshtrio.http2.limits import Limits
from tests.support.engines import (
    answers_ping,
    data_frame,
    headers_frame,
    make_server_with_request,
    sent_frames,
)

SIZE = 200_000
PAYLOAD = bytes(range(250)) * (SIZE // 250)
FRAME = data_frame(1, PAYLOAD, end=True)
HEADER_SIZE = 9


def parts(events: list[Http2Event]) -> list[tuple[bytes, bool]]:
    assert all(isinstance(event, DataReceived) for event in events)
    return [(bytes(event.data), event.end_stream) for event in events]  # type: ignore[attr-defined]


def test_each_part_of_a_large_frame_is_an_event_and_the_last_one_ends_the_stream():
    engine, found = make_server_with_request(), []
    for start in range(0, len(FRAME), 50_000):
        found += parts(engine.receive_data(FRAME[start : start + 50_000]))
    assert b"".join(data for data, _ in found) == PAYLOAD
    assert [ends for _, ends in found] == [False] * 4 + [True]


@pytest.mark.parametrize("at", [1, 8, 9, 10, 100, SIZE - 40_000, SIZE - 1000, SIZE + 8])
def test_a_large_frame_may_be_cut_anywhere(at):
    engine = make_server_with_request()
    more = data_frame(3, b"x" * 300, end=True)
    found = engine.receive_data(FRAME[:at] + b"")
    found += engine.receive_data(FRAME[at:] + headers_frame(3) + more[:100])
    found += engine.receive_data(more[100:])
    data = [event for event in found if isinstance(event, DataReceived)]
    assert b"".join(event.data for event in data if event.stream_id == 1) == PAYLOAD
    assert [(e.data, e.end_stream) for e in data if e.stream_id == 3] == [(b"x" * 300, True)]
    assert sum(event.end_stream for event in data if event.stream_id == 1) == 1


def test_a_part_that_the_caller_has_received_elsewhere_is_passed_on_as_it_is():
    engine = make_server_with_request()
    engine.receive_data(FRAME[:1000])
    assert engine.frame_reader.partial_stream_id == 1
    assert engine.frame_reader.missing_data_size == len(FRAME) - 1000
    view = memoryview(bytearray(FRAME[1000:]))
    (event,) = engine.receive_data(view)
    assert isinstance(event, DataReceived)
    assert event.data is view
    assert event.end_stream
    assert engine.frame_reader.missing_data_size == 0


@pytest.mark.parametrize(
    "frame", [data_frame(1, PAYLOAD, pad=10), data_frame(1, b"x" * 30_000)], ids=["padded", "small"]
)
def test_other_frames_are_events_once_they_are_complete(frame: bytes):
    engine = make_server_with_request()
    assert engine.receive_data(frame[:1000]) == []
    assert engine.frame_reader.buffered_size == 1000
    assert len(engine.receive_data(frame[1000:])) == 1


def test_nothing_is_buffered_of_a_frame_in_parts():
    engine = make_server_with_request()
    engine.receive_data(FRAME[:100_000])
    assert engine.frame_reader.buffered_size == 0


def test_parts_are_no_progress_of_the_frame():
    """A peer that sends a frame byte by byte is timed out as before."""
    engine = make_server_with_request()
    for second in range(5):
        engine.receive_data(FRAME[1000 * second : 1000 * second + 1000], float(second))
        assert engine.frame_reader.incomplete_since == 0.0
    engine.receive_data(FRAME[5000:], 6.0)
    assert engine.frame_reader.incomplete_since is None


def test_a_frame_after_one_in_parts_has_a_time_of_its_own():
    engine = make_server_with_request()
    frame = data_frame(1, PAYLOAD[:100_000])
    engine.receive_data(frame[:1000], 1.0)
    engine.receive_data(frame[1000:] + frame[:1000], 2.0)
    assert engine.frame_reader.incomplete_since == 2.0
    engine.receive_data(frame[1000:], 3.0)
    assert engine.frame_reader.incomplete_since is None


def test_parts_count_for_the_windows():
    engine = make_server_with_request()
    before = engine.windows.receive
    engine.receive_data(FRAME[: HEADER_SIZE + 1000])
    assert engine.windows.receive == before - 1000
    assert engine.streams.by_id[1].receive_window == engine.limits.stream_window - 1000


def test_a_frame_larger_than_the_streams_window_fails_the_stream_only():
    engine = make_server_with_request(Limits(stream_window=100_000))
    found: list[Http2Event] = []
    for start in range(0, len(FRAME), 50_000):
        found += engine.receive_data(FRAME[start : start + 50_000])
    (reset,) = (event for event in found if isinstance(event, StreamReset))
    assert reset.error_code == ErrorCode.FLOW_CONTROL_ERROR
    assert len(sent_frames(engine, FrameType.RST_STREAM)) == 1
    assert answers_ping(engine)


def test_parts_for_a_stream_that_was_reset_meanwhile_are_dropped():
    engine: GrpcConnection = make_server_with_request()
    engine.receive_data(FRAME[:1000])
    engine.reset_stream(1, ErrorCode.CANCEL)
    engine.data_to_send()
    for start in range(1000, len(FRAME), 50_000):
        assert engine.receive_data(FRAME[start : start + 50_000]) == []
    assert not sent_frames(engine, FrameType.RST_STREAM)
    assert answers_ping(engine)
