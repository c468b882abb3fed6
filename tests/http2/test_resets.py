"""RST_STREAM by either side, what still comes after it, and streams refused unprocessed."""

from __future__ import annotations

import hpack as reference
import pytest

from meshtrio.http2 import frames
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode, LocalProtocolError
from meshtrio.http2.events import ConnectionFailed, RequestReceived, StreamReset
from meshtrio.http2.frames import FrameType
from meshtrio.http2.limits import Limits
from tests.support.engines import (
    RESPONSE,
    TRAILERS,
    EnginePair,
    Frame,
    answers_ping,
    data_frame,
    headers_frame,
    headers_frame_of_block,
    make_client_with_request,
    make_server,
    make_server_with_request,
    send_request,
    send_response,
    sent_frames,
)

MORE_THAN_REMEMBERED = 300
"""The engine remembers 256 of its own resets one by one."""

both_sides = pytest.mark.parametrize(
    "make", [make_client_with_request, make_server_with_request], ids=["client", "server"]
)


LATE = [
    pytest.param(data_frame(1, b"late"), id="DATA"),
    pytest.param(data_frame(1, b"late", end=True), id="DATA with the end"),
    pytest.param(headers_frame(1, TRAILERS, end=True), id="HEADERS"),
    pytest.param(frames.window_update(1, 5), id="WINDOW_UPDATE"),
    pytest.param(frames.window_update(1, 0), id="WINDOW_UPDATE of zero"),
    pytest.param(frames.rst_stream(1, ErrorCode.CANCEL), id="RST_STREAM"),
    pytest.param(frames.encode_frame(FrameType.PRIORITY, 0, 1, b"\0\0\0\0\7"), id="PRIORITY"),
]


def resets(engine) -> list[tuple[int, int]]:
    """(stream, code) of the RST_STREAM frames sent."""
    return [(f.stream_id, f.last_word) for f in sent_frames(engine, FrameType.RST_STREAM)]


# -- by the peer ---------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (ErrorCode.NO_ERROR, "NO_ERROR"),
        (ErrorCode.CANCEL, "CANCEL"),
        (ErrorCode.REFUSED_STREAM, "REFUSED_STREAM"),
        (0xDEAD, "error code 0xdead"),
    ],
)
def test_a_reset_by_the_peer_ends_the_stream(make, code, reason):
    engine = make()
    events = engine.receive_data(frames.rst_stream(1, code))
    assert events == [StreamReset(1, code, remote_reset=True, reason=reason)]
    assert engine.open_stream_count == 0
    with pytest.raises(LocalProtocolError):
        engine.send_data(1, b"more")
    assert answers_ping(engine)


@both_sides
def test_a_reset_by_the_peer_is_not_answered(make):
    engine = make()
    engine.data_to_send()
    engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    engine.reset_stream(1, ErrorCode.CANCEL)
    assert sent_frames(engine) == []


@both_sides
def test_a_second_reset_by_the_peer_is_nothing_new(make):
    engine = make()
    engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    assert engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL)) == []
    assert answers_ping(engine)


def test_a_reset_after_the_whole_response_still_ends_the_request():
    """A server that needs no more of the request says so with NO_ERROR (RFC 9113 §8.1)."""
    engine = make_client_with_request()
    engine.receive_data(headers_frame(1, RESPONSE) + headers_frame(1, TRAILERS, end=True))
    (event,) = engine.receive_data(frames.rst_stream(1, ErrorCode.NO_ERROR))
    assert event == StreamReset(1, ErrorCode.NO_ERROR, remote_reset=True, reason="NO_ERROR")


@pytest.mark.parametrize("late", LATE)
def test_a_client_drops_what_comes_after_the_peers_reset(late):
    """As from grpc-java at a deadline: RST_STREAM, then the trailers that were queued."""
    engine = make_client_with_request()
    engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    engine.data_to_send()
    assert engine.receive_data(late * 3) == []
    assert sent_frames(engine) == []
    assert answers_ping(engine)


@pytest.mark.parametrize("late", LATE)
def test_a_server_answers_once_what_comes_after_the_peers_reset(late):
    """RFC 9113 §5.1 calls it a stream error; it may cost no other stream, nor much traffic."""
    engine = make_server_with_request()
    engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    engine.data_to_send()
    assert engine.receive_data(late * 3) == []
    assert resets(engine) in ([], [(1, ErrorCode.STREAM_CLOSED)])
    assert answers_ping(engine)


@both_sides
def test_what_comes_after_many_resets_by_the_peer_is_dropped(make):
    engine = make(Limits(max_concurrent_streams=2 * MORE_THAN_REMEMBERED, reset_burst=10_000))
    ids = range(1, 2 * MORE_THAN_REMEMBERED, 2)
    for stream_id in ids[1:]:
        if engine.role is Role.CLIENT:
            send_request(engine)
        else:
            engine.receive_data(headers_frame(stream_id))
    engine.receive_data(b"".join(frames.rst_stream(i, ErrorCode.CANCEL) for i in ids))
    for stream_id in ids:
        assert engine.receive_data(headers_frame(stream_id, TRAILERS, end=True)) == []
    assert answers_ping(engine)


def test_the_table_follows_a_late_block():
    """A block for a stream that is gone may still add to the dynamic table."""
    engine, encoder = make_client_with_request(), reference.Encoder()
    send_request(engine)
    engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    fields = [*RESPONSE, (b"x-indexed", b"value")]
    assert engine.receive_data(headers_frame_of_block(1, encoder.encode(fields))) == []
    (event,) = engine.receive_data(headers_frame_of_block(3, encoder.encode(fields)))
    assert event.headers.metadata == (("x-indexed", "value"),)


# -- by us ---------------------------------------------------------------------------------------


@both_sides
def test_a_reset_of_ours_is_sent_once(make):
    engine = make()
    engine.data_to_send()
    engine.reset_stream(1, ErrorCode.CANCEL)
    engine.reset_stream(1, ErrorCode.INTERNAL_ERROR)
    assert sent_frames(engine) == [Frame(FrameType.RST_STREAM, 0, 1, b"\0\0\0\x08")]
    assert engine.open_stream_count == 0
    with pytest.raises(LocalProtocolError):
        engine.send_data(1, b"more")


def test_what_is_over_or_never_was_is_not_reset():
    engine = make_server()
    engine.receive_data(headers_frame(1, end=True))
    send_response(engine, end=True)
    engine.data_to_send()
    engine.reset_stream(1, ErrorCode.CANCEL)
    engine.reset_stream(3, ErrorCode.CANCEL)
    assert sent_frames(engine) == []


@both_sides
@pytest.mark.parametrize("late", LATE)
def test_what_crosses_our_reset_is_ignored(make, late):
    engine = make()
    engine.reset_stream(1, ErrorCode.CANCEL)
    engine.data_to_send()
    assert engine.receive_data(late) == []
    assert sent_frames(engine) == []
    assert answers_ping(engine)


@pytest.mark.parametrize("late", LATE)
def test_what_crosses_our_reset_is_ignored_after_many_more_resets(late):
    engine = make_server(Limits(max_concurrent_streams=MORE_THAN_REMEMBERED))
    ids = range(1, 2 * MORE_THAN_REMEMBERED, 2)
    engine.receive_data(b"".join(headers_frame(i) for i in ids))
    for stream_id in ids:
        engine.reset_stream(stream_id, ErrorCode.CANCEL)
    assert engine.receive_data(late) == []
    assert all(engine.receive_data(data_frame(i, b"late")) == [] for i in ids)
    assert answers_ping(engine)


def test_what_crosses_our_many_resets_is_ignored_by_a_client():
    engine = make_client_with_request()
    ids = [1]
    for _ in range(MORE_THAN_REMEMBERED):
        engine.reset_stream(ids[-1], ErrorCode.CANCEL)
        ids.append(send_request(engine))
    for stream_id in ids[:-1]:
        late = headers_frame(stream_id, RESPONSE) + data_frame(stream_id, b"late", end=True)
        assert engine.receive_data(late) == []
    (event,) = engine.receive_data(headers_frame(ids[-1], RESPONSE))
    assert event.stream_id == ids[-1]


def test_a_stream_that_ended_among_many_resets_takes_no_more():
    """Being lenient to those that were reset long ago does not reach those that ended lately."""
    engine = make_server()
    ended = 2 * MORE_THAN_REMEMBERED + 1
    for stream_id in range(1, ended + 100, 2):
        engine.receive_data(headers_frame(stream_id, end=True))
        if stream_id == ended:
            send_response(engine, stream_id, end=True)
        else:
            engine.reset_stream(stream_id, ErrorCode.CANCEL)
    assert engine.receive_data(headers_frame(1)) == []
    (event,) = engine.receive_data(headers_frame(ended))
    assert isinstance(event, ConnectionFailed)
    assert event.error_code == ErrorCode.STREAM_CLOSED


def test_what_is_remembered_of_resets_is_bounded():
    engine = make_server()
    for stream_id in range(1, 4001, 2):
        engine.receive_data(headers_frame(stream_id))
        engine.reset_stream(stream_id, ErrorCode.CANCEL)
        engine.data_to_send()
    assert len(engine.streams.resets._recently_reset) <= 256
    assert engine.open_stream_count == 0


def test_a_reset_crosses_a_reset():
    pair = EnginePair()
    stream = send_request(pair.client)
    pair.exchange()
    pair.client.reset_stream(stream, ErrorCode.CANCEL)
    pair.server.reset_stream(stream, ErrorCode.INTERNAL_ERROR)
    assert pair.exchange() == ([], [])
    assert not pair.client.closed
    assert not pair.server.closed


# -- refused -------------------------------------------------------------------------------------


def test_streams_above_the_limit_are_refused_one_by_one():
    engine = make_server(Limits(max_concurrent_streams=2))
    events = engine.receive_data(b"".join(headers_frame(i) for i in (1, 3, 5, 7)))
    assert [(type(e), e.stream_id) for e in events] == [(RequestReceived, 1), (RequestReceived, 3)]
    assert resets(engine) == [(5, ErrorCode.REFUSED_STREAM), (7, ErrorCode.REFUSED_STREAM)]
    assert engine.open_stream_count == 2


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda e: e.reset_stream(1, ErrorCode.CANCEL), id="we reset"),
        pytest.param(lambda e: e.receive_data(frames.rst_stream(1, 8)), id="the peer resets"),
        pytest.param(lambda e: send_response(e, end=True), id="it ends"),
    ],
)
def test_a_stream_that_is_over_makes_room(leave):
    engine = make_server(Limits(max_concurrent_streams=1))
    engine.receive_data(headers_frame(1, end=True))
    leave(engine)
    (event,) = engine.receive_data(headers_frame(3))
    assert (type(event), event.stream_id) == (RequestReceived, 3)


def test_the_rest_of_a_refused_call_is_ignored():
    engine = make_server_with_request(Limits(max_concurrent_streams=1))
    engine.receive_data(headers_frame(3))
    engine.data_to_send()
    assert engine.receive_data(data_frame(3, b"body") + data_frame(3, b"", end=True)) == []
    assert sent_frames(engine) == []
    assert answers_ping(engine)


def test_a_stream_refused_is_not_opened_by_trying_again():
    engine = make_server_with_request(Limits(max_concurrent_streams=1))
    engine.receive_data(headers_frame(3))
    engine.reset_stream(1, ErrorCode.CANCEL)
    engine.data_to_send()
    assert engine.receive_data(headers_frame(3)) == []
    assert engine.open_stream_count == 0


# -- closed in another way -----------------------------------------------------------------------


@pytest.mark.parametrize("late", [data_frame(1, b"x"), headers_frame(1)], ids=["DATA", "HEADERS"])
def test_a_stream_that_is_over_takes_no_more(late):
    """Nothing of ours could have crossed, so the peer has lost count (RFC 9113 §5.1, closed)."""
    engine = make_server()
    engine.receive_data(headers_frame(1, end=True))
    send_response(engine, end=True)
    (event,) = engine.receive_data(late)
    assert isinstance(event, ConnectionFailed)
    assert event.error_code == ErrorCode.STREAM_CLOSED


@pytest.mark.parametrize("late", LATE)
def test_a_client_drops_what_comes_after_the_end(late):
    """A server that loses count of one stream fails no other call."""
    engine = make_client_with_request()
    other = send_request(engine)
    engine.send_data(1, b"", end_stream=True)
    engine.receive_data(headers_frame(1, RESPONSE) + headers_frame(1, TRAILERS, end=True))
    engine.data_to_send()
    assert engine.receive_data(late * 3) == []
    assert sent_frames(engine) == []
    (event,) = engine.receive_data(headers_frame(other, RESPONSE))
    assert event.stream_id == other


def test_a_client_does_not_bear_a_flood_of_what_comes_after_the_end():
    engine = make_client_with_request(Limits(control_burst=100, control_rate=0))
    engine.send_data(1, b"", end_stream=True)
    engine.receive_data(headers_frame(1, RESPONSE) + headers_frame(1, TRAILERS, end=True))
    *_, event = engine.receive_data(headers_frame(1, TRAILERS, end=True) * 200)
    assert isinstance(event, ConnectionFailed)
    assert event.error_code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "late", [frames.window_update(1, 5), frames.rst_stream(1, 0)], ids=["WINDOW_UPDATE", "RST"]
)
def test_a_stream_that_is_over_may_still_be_spoken_of(late):
    engine = make_server()
    engine.receive_data(headers_frame(1, end=True))
    send_response(engine, end=True)
    assert engine.receive_data(late) == []
    assert answers_ping(engine)
