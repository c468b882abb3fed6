"""RST_STREAM by either side, what still comes after it, and streams refused unprocessed."""

from __future__ import annotations

import hpack as reference
import pytest

from meshtrio.wire import frames
from meshtrio.wire.connection import Role
from meshtrio.wire.errors import ErrorCode, LocalMisuse
from meshtrio.wire.events import ConnectionFailed, RequestReceived, StreamReset
from meshtrio.wire.frames import FrameType
from meshtrio.wire.limits import Limits

from .peers import (
    RESPONSE,
    TRAILERS,
    Frame,
    Pair,
    calling_client,
    data,
    headers,
    headers_of,
    is_alive,
    open_stream,
    respond,
    sent,
    server,
    serving_server,
)

MORE_THAN_REMEMBERED = 300
"""The engine remembers 256 of its own resets one by one."""

both_sides = pytest.mark.parametrize(
    "make", [calling_client, serving_server], ids=["client", "server"]
)


LATE = [
    pytest.param(data(1, b"late"), id="DATA"),
    pytest.param(data(1, b"late", end=True), id="DATA with the end"),
    pytest.param(headers(1, TRAILERS, end=True), id="HEADERS"),
    pytest.param(frames.window_update(1, 5), id="WINDOW_UPDATE"),
    pytest.param(frames.window_update(1, 0), id="WINDOW_UPDATE of zero"),
    pytest.param(frames.rst_stream(1, ErrorCode.CANCEL), id="RST_STREAM"),
    pytest.param(frames.frame(FrameType.PRIORITY, 0, 1, b"\0\0\0\0\7"), id="PRIORITY"),
]


def resets(engine) -> list[tuple[int, int]]:
    """(stream, code) of the RST_STREAM frames sent."""
    return [(f.stream_id, f.number) for f in sent(engine, FrameType.RST_STREAM)]


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
    assert events == [StreamReset(1, code, by_peer=True, reason=reason)]
    assert engine.open_streams == 0
    with pytest.raises(LocalMisuse):
        engine.send_data(1, b"more")
    assert is_alive(engine)


@both_sides
def test_a_reset_by_the_peer_is_not_answered(make):
    engine = make()
    engine.data_to_send()
    engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    engine.reset_stream(1, ErrorCode.CANCEL)
    assert sent(engine) == []


@both_sides
def test_a_second_reset_by_the_peer_is_nothing_new(make):
    engine = make()
    engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    assert engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL)) == []
    assert is_alive(engine)


def test_a_reset_after_the_whole_response_still_ends_the_request():
    """A server that needs no more of the request says so with NO_ERROR (RFC 9113 §8.1)."""
    engine = calling_client()
    engine.receive_data(headers(1, RESPONSE) + headers(1, TRAILERS, end=True))
    (event,) = engine.receive_data(frames.rst_stream(1, ErrorCode.NO_ERROR))
    assert event == StreamReset(1, ErrorCode.NO_ERROR, by_peer=True, reason="NO_ERROR")


@pytest.mark.parametrize("late", LATE)
def test_a_client_drops_what_comes_after_the_peers_reset(late):
    """As from grpc-java at a deadline: RST_STREAM, then the trailers that were queued."""
    engine = calling_client()
    engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    engine.data_to_send()
    assert engine.receive_data(late * 3) == []
    assert sent(engine) == []
    assert is_alive(engine)


@pytest.mark.parametrize("late", LATE)
def test_a_server_answers_once_what_comes_after_the_peers_reset(late):
    """RFC 9113 §5.1 calls it a stream error; it may cost no other stream, nor much traffic."""
    engine = serving_server()
    engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    engine.data_to_send()
    assert engine.receive_data(late * 3) == []
    assert resets(engine) in ([], [(1, ErrorCode.STREAM_CLOSED)])
    assert is_alive(engine)


@both_sides
def test_what_comes_after_many_resets_by_the_peer_is_dropped(make):
    engine = make(Limits(max_concurrent_streams=2 * MORE_THAN_REMEMBERED, reset_burst=10_000))
    ids = range(1, 2 * MORE_THAN_REMEMBERED, 2)
    for stream_id in ids[1:]:
        if engine.role is Role.CLIENT:
            open_stream(engine)
        else:
            engine.receive_data(headers(stream_id))
    engine.receive_data(b"".join(frames.rst_stream(i, ErrorCode.CANCEL) for i in ids))
    for stream_id in ids:
        assert engine.receive_data(headers(stream_id, TRAILERS, end=True)) == []
    assert is_alive(engine)


def test_the_table_follows_a_late_block():
    """A block for a stream that is gone may still add to the dynamic table."""
    engine, encoder = calling_client(), reference.Encoder()
    open_stream(engine)
    engine.receive_data(frames.rst_stream(1, ErrorCode.CANCEL))
    fields = [*RESPONSE, (b"x-indexed", b"value")]
    assert engine.receive_data(headers_of(1, encoder.encode(fields))) == []
    (event,) = engine.receive_data(headers_of(3, encoder.encode(fields)))
    assert event.head.metadata == (("x-indexed", "value"),)


# -- by us ---------------------------------------------------------------------------------------


@both_sides
def test_a_reset_of_ours_is_sent_once(make):
    engine = make()
    engine.data_to_send()
    engine.reset_stream(1, ErrorCode.CANCEL)
    engine.reset_stream(1, ErrorCode.INTERNAL_ERROR)
    assert sent(engine) == [Frame(FrameType.RST_STREAM, 0, 1, b"\0\0\0\x08")]
    assert engine.open_streams == 0
    with pytest.raises(LocalMisuse):
        engine.send_data(1, b"more")


def test_what_is_over_or_never_was_is_not_reset():
    engine = server()
    engine.receive_data(headers(1, end=True))
    respond(engine, end=True)
    engine.data_to_send()
    engine.reset_stream(1, ErrorCode.CANCEL)
    engine.reset_stream(3, ErrorCode.CANCEL)
    assert sent(engine) == []


@both_sides
@pytest.mark.parametrize("late", LATE)
def test_what_crosses_our_reset_is_ignored(make, late):
    engine = make()
    engine.reset_stream(1, ErrorCode.CANCEL)
    engine.data_to_send()
    assert engine.receive_data(late) == []
    assert sent(engine) == []
    assert is_alive(engine)


@pytest.mark.parametrize("late", LATE)
def test_what_crosses_our_reset_is_ignored_after_many_more_resets(late):
    engine = server(Limits(max_concurrent_streams=MORE_THAN_REMEMBERED))
    ids = range(1, 2 * MORE_THAN_REMEMBERED, 2)
    engine.receive_data(b"".join(headers(i) for i in ids))
    for stream_id in ids:
        engine.reset_stream(stream_id, ErrorCode.CANCEL)
    assert engine.receive_data(late) == []
    assert all(engine.receive_data(data(i, b"late")) == [] for i in ids)
    assert is_alive(engine)


def test_what_crosses_our_many_resets_is_ignored_by_a_client():
    engine = calling_client()
    ids = [1]
    for _ in range(MORE_THAN_REMEMBERED):
        engine.reset_stream(ids[-1], ErrorCode.CANCEL)
        ids.append(open_stream(engine))
    for stream_id in ids[:-1]:
        late = headers(stream_id, RESPONSE) + data(stream_id, b"late", end=True)
        assert engine.receive_data(late) == []
    (event,) = engine.receive_data(headers(ids[-1], RESPONSE))
    assert event.stream_id == ids[-1]


def test_a_stream_that_ended_among_many_resets_takes_no_more():
    """Being lenient to those that were reset long ago does not reach those that ended lately."""
    engine = server()
    ended = 2 * MORE_THAN_REMEMBERED + 1
    for stream_id in range(1, ended + 100, 2):
        engine.receive_data(headers(stream_id, end=True))
        if stream_id == ended:
            respond(engine, stream_id, end=True)
        else:
            engine.reset_stream(stream_id, ErrorCode.CANCEL)
    assert engine.receive_data(headers(1)) == []
    (event,) = engine.receive_data(headers(ended))
    assert isinstance(event, ConnectionFailed)
    assert event.code == ErrorCode.STREAM_CLOSED


def test_what_is_remembered_of_resets_is_bounded():
    engine = server()
    for stream_id in range(1, 4001, 2):
        engine.receive_data(headers(stream_id))
        engine.reset_stream(stream_id, ErrorCode.CANCEL)
        engine.data_to_send()
    assert len(engine._reset_streams._recent) <= 256
    assert engine.open_streams == 0


def test_a_reset_crosses_a_reset():
    pair = Pair()
    stream = open_stream(pair.client)
    pair.exchange()
    pair.client.reset_stream(stream, ErrorCode.CANCEL)
    pair.server.reset_stream(stream, ErrorCode.INTERNAL_ERROR)
    assert pair.exchange() == ([], [])
    assert not pair.client.closed
    assert not pair.server.closed


# -- refused -------------------------------------------------------------------------------------


def test_streams_above_the_limit_are_refused_one_by_one():
    engine = server(Limits(max_concurrent_streams=2))
    events = engine.receive_data(b"".join(headers(i) for i in (1, 3, 5, 7)))
    assert [(type(e), e.stream_id) for e in events] == [(RequestReceived, 1), (RequestReceived, 3)]
    assert resets(engine) == [(5, ErrorCode.REFUSED_STREAM), (7, ErrorCode.REFUSED_STREAM)]
    assert engine.open_streams == 2


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda e: e.reset_stream(1, ErrorCode.CANCEL), id="we reset"),
        pytest.param(lambda e: e.receive_data(frames.rst_stream(1, 8)), id="the peer resets"),
        pytest.param(lambda e: respond(e, end=True), id="it ends"),
    ],
)
def test_a_stream_that_is_over_makes_room(leave):
    engine = server(Limits(max_concurrent_streams=1))
    engine.receive_data(headers(1, end=True))
    leave(engine)
    (event,) = engine.receive_data(headers(3))
    assert (type(event), event.stream_id) == (RequestReceived, 3)


def test_the_rest_of_a_refused_call_is_ignored():
    engine = serving_server(Limits(max_concurrent_streams=1))
    engine.receive_data(headers(3))
    engine.data_to_send()
    assert engine.receive_data(data(3, b"body") + data(3, b"", end=True)) == []
    assert sent(engine) == []
    assert is_alive(engine)


def test_a_stream_refused_is_not_opened_by_trying_again():
    engine = serving_server(Limits(max_concurrent_streams=1))
    engine.receive_data(headers(3))
    engine.reset_stream(1, ErrorCode.CANCEL)
    engine.data_to_send()
    assert engine.receive_data(headers(3)) == []
    assert engine.open_streams == 0


# -- closed in another way -----------------------------------------------------------------------


@pytest.mark.parametrize("late", [data(1, b"x"), headers(1)], ids=["DATA", "HEADERS"])
def test_a_stream_that_is_over_takes_no_more(late):
    """Nothing of ours could have crossed, so the peer has lost count (RFC 9113 §5.1, closed)."""
    engine = server()
    engine.receive_data(headers(1, end=True))
    respond(engine, end=True)
    (event,) = engine.receive_data(late)
    assert isinstance(event, ConnectionFailed)
    assert event.code == ErrorCode.STREAM_CLOSED


@pytest.mark.parametrize("late", LATE)
def test_a_client_drops_what_comes_after_the_end(late):
    """A server that loses count of one stream fails no other call."""
    engine = calling_client()
    other = open_stream(engine)
    engine.send_data(1, b"", end_stream=True)
    engine.receive_data(headers(1, RESPONSE) + headers(1, TRAILERS, end=True))
    engine.data_to_send()
    assert engine.receive_data(late * 3) == []
    assert sent(engine) == []
    (event,) = engine.receive_data(headers(other, RESPONSE))
    assert event.stream_id == other


def test_a_client_does_not_bear_a_flood_of_what_comes_after_the_end():
    engine = calling_client(Limits(control_burst=100, control_rate=0))
    engine.send_data(1, b"", end_stream=True)
    engine.receive_data(headers(1, RESPONSE) + headers(1, TRAILERS, end=True))
    *_, event = engine.receive_data(headers(1, TRAILERS, end=True) * 200)
    assert isinstance(event, ConnectionFailed)
    assert event.code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "late", [frames.window_update(1, 5), frames.rst_stream(1, 0)], ids=["WINDOW_UPDATE", "RST"]
)
def test_a_stream_that_is_over_may_still_be_spoken_of(late):
    engine = server()
    engine.receive_data(headers(1, end=True))
    respond(engine, end=True)
    assert engine.receive_data(late) == []
    assert is_alive(engine)
