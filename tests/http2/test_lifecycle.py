"""How a connection begins and ends: prefaces, SETTINGS, PING, GOAWAY, and who may open streams."""

from __future__ import annotations

import pytest

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2 import frames
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode, LocalProtocolError
from meshtrio.http2.events import (
    GoAwayReceived,
    PingAckReceived,
    RequestReceived,
    SettingsReceived,
    StreamReset,
)
from meshtrio.http2.frames import FrameType, Setting
from meshtrio.http2.hpack import encoder
from meshtrio.http2.limits import Limits
from tests.support.engines import (
    REQUEST,
    RESPONSE,
    EnginePair,
    Frame,
    answers_ping,
    data_frame,
    headers_frame,
    make_client,
    make_client_with_request,
    make_server,
    make_server_with_request,
    parse_frames,
    send_request,
    send_response,
    sent_frames,
)

LIMITS = Limits(
    max_concurrent_streams=7,
    stream_window=100_000,
    connection_window=200_000,
    max_frame_size=20_000,
    max_header_list_size=3_000,
)
COMMON = {
    Setting.INITIAL_WINDOW_SIZE: 100_000,
    Setting.MAX_FRAME_SIZE: 20_000,
    Setting.MAX_HEADER_LIST_SIZE: 3_000,
}

both_sides = pytest.mark.parametrize("make", [make_client, make_server], ids=["client", "server"])


def settings_in(frame: Frame) -> dict[int, int]:
    return dict(frames.iter_settings(frame.payload))


# -- prefaces and settings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "extra"),
    [
        pytest.param(Role.CLIENT, {Setting.ENABLE_PUSH: 0}, id="client"),
        pytest.param(Role.SERVER, {Setting.MAX_CONCURRENT_STREAMS: 7}, id="server"),
    ],
)
def test_the_preface_announces_the_limits(role, extra):
    preface = GrpcConnection(role, LIMITS).data_to_send()
    assert preface.startswith(frames.PREFACE) is (role is Role.CLIENT)
    first, second = parse_frames(preface)
    assert (first.type, first.flags, first.stream_id) == (FrameType.SETTINGS, 0, 0)
    assert settings_in(first) == COMMON | extra
    assert (second.type, second.stream_id) == (FrameType.WINDOW_UPDATE, 0)
    assert second.last_word == 200_000 - frames.DEFAULT_INITIAL_WINDOW_SIZE


def test_no_window_update_where_the_default_is_meant():
    engine = GrpcConnection(
        Role.SERVER, Limits(connection_window=frames.DEFAULT_INITIAL_WINDOW_SIZE)
    )
    assert [frame.type for frame in sent_frames(engine)] == [FrameType.SETTINGS]


@both_sides
def test_settings_are_acknowledged_and_told(make):
    engine = make()
    events = engine.receive_data(frames.settings({Setting.MAX_FRAME_SIZE: 20_000, 0xF0: 9}))
    assert events == [SettingsReceived()]
    assert sent_frames(engine) == [Frame(FrameType.SETTINGS, frames.ACK, 0, b"")]


@both_sides
def test_a_settings_ack_is_nothing_to_tell(make):
    engine = make()
    assert engine.receive_data(frames.SETTINGS_ACK) == []
    assert sent_frames(engine) == []


def test_what_was_sent_is_sent_once():
    engine = make_server()
    engine.ping(b"12345678")
    assert engine.data_to_send()
    assert engine.data_to_send() == b""


@both_sides
@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(frames.encode_frame(0xA, 0xFF, 0, b"what?"), id="unknown type"),
        pytest.param(frames.encode_frame(0xFF, 0, 99, b""), id="unknown type on an idle stream"),
        pytest.param(frames.encode_frame(FrameType.PRIORITY, 0, 9, b"\0\0\0\1\7"), id="PRIORITY"),
    ],
)
def test_frames_that_mean_nothing_are_passed_over(make, frame):
    engine = make()
    assert engine.receive_data(frame) == []
    assert sent_frames(engine) == []
    assert answers_ping(engine)


def test_the_reserved_bit_of_a_stream_id_is_ignored():
    events = make_server().receive_data(headers_frame(1 | 1 << 31))
    assert [(type(e), e.stream_id) for e in events] == [(RequestReceived, 1)]


# -- PING ----------------------------------------------------------------------------------------


@both_sides
def test_a_ping_is_answered_with_its_own_payload(make):
    engine = make()
    assert engine.receive_data(frames.ping(b"\0\1\2\3\4\5\6\7", ack=False)) == []
    assert sent_frames(engine) == [Frame(FrameType.PING, frames.ACK, 0, b"\0\1\2\3\4\5\6\7")]


@both_sides
def test_a_ping_of_ours_comes_back_as_an_event(make):
    engine = make()
    engine.ping(b"knocking")
    assert sent_frames(engine) == [Frame(FrameType.PING, 0, 0, b"knocking")]
    events = engine.receive_data(frames.ping(b"knocking", ack=True))
    assert events == [PingAckReceived(b"knocking")]
    assert sent_frames(engine) == []


# -- opening streams -----------------------------------------------------------------------------


def test_a_client_opens_odd_streams_in_order():
    engine = make_client()
    assert [send_request(engine) for _ in range(3)] == [1, 3, 5]
    assert [f.stream_id for f in sent_frames(engine, FrameType.HEADERS)] == [1, 3, 5]
    assert engine.open_stream_count == 3


def test_a_client_opens_a_hundred_streams_before_it_knows_the_servers_limit():
    engine = GrpcConnection(Role.CLIENT)
    for _ in range(100):
        send_request(engine)
    assert not engine.can_open_stream
    engine.receive_data(frames.settings({}))
    assert engine.can_open_stream


def test_a_client_keeps_to_the_servers_limit():
    engine = make_client(settings={Setting.MAX_CONCURRENT_STREAMS: 2})
    send_request(engine)
    send_request(engine)
    assert not engine.can_open_stream
    assert not engine.exhausted
    with pytest.raises(LocalProtocolError):
        send_request(engine)
    engine.reset_stream(1, ErrorCode.CANCEL)
    assert send_request(engine) == 5
    engine.receive_data(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 3}))
    assert send_request(engine) == 7
    engine.receive_data(frames.settings({Setting.MAX_FRAME_SIZE: 20_000}))
    assert not engine.can_open_stream


def test_a_client_runs_out_of_stream_ids():
    engine = make_client()
    engine.streams.next_id = frames.MAX_STREAM_ID
    assert not engine.exhausted
    assert send_request(engine) == frames.MAX_STREAM_ID
    assert engine.exhausted
    assert not engine.can_open_stream


@pytest.mark.parametrize(
    "misuse",
    [
        pytest.param(lambda engine: send_request(engine), id="open a stream"),
        pytest.param(lambda engine: send_response(engine, 3), id="head on an idle stream"),
        pytest.param(lambda engine: engine.send_data(3, b"x"), id="data on an idle stream"),
        pytest.param(lambda engine: send_response(engine, 0), id="head on stream 0"),
    ],
)
def test_a_server_that_misuses_its_engine_is_told(misuse):
    engine = make_server_with_request()
    engine.data_to_send()
    with pytest.raises(LocalProtocolError):
        misuse(engine)
    assert sent_frames(engine) == []


def test_either_side_can_send_until_it_has_ended():
    pair = EnginePair()
    stream = pair.client.open_stream(encoder.encode(REQUEST))
    pair.exchange()
    pair.server.send_headers(stream, encoder.encode(RESPONSE))
    pair.client.send_data(stream, b"x", end_stream=True)
    assert (pair.client.is_send_open(stream), pair.server.is_send_open(stream)) == (False, True)
    pair.exchange()
    assert pair.server.is_send_open(stream)
    send_response(pair.server, stream, end=True)
    assert not pair.server.is_send_open(stream)
    assert not pair.server.is_send_open(99)


@pytest.mark.parametrize("end", [True, False], ids=["peer has ended", "peer has not ended"])
def test_nothing_is_sent_after_our_own_end(end):
    engine = make_server()
    engine.receive_data(headers_frame(1, end=end))
    send_response(engine, end=True)
    with pytest.raises(LocalProtocolError):
        engine.send_data(1, b"more")
    with pytest.raises(LocalProtocolError):
        engine.send_headers(1, encoder.encode(RESPONSE))


# -- GOAWAY --------------------------------------------------------------------------------------


def test_goaway_lets_a_client_finish_but_open_nothing():
    engine = make_client_with_request()
    events = engine.receive_data(frames.goaway(1, ErrorCode.NO_ERROR, b"bye"))
    assert events == [GoAwayReceived(1, ErrorCode.NO_ERROR, b"bye")]
    assert engine.exhausted
    with pytest.raises(LocalProtocolError):
        send_request(engine)
    events = engine.receive_data(headers_frame(1, RESPONSE) + data_frame(1, b"x", end=True))
    assert [event.stream_id for event in events] == [1, 1]
    assert not engine.closed


@pytest.mark.parametrize(
    ("received_ids", "last_ids"), [([9, 3], [9, 3]), ([3, 9], [3, 3]), ([0, 1], [0, 0])]
)
def test_the_last_stream_of_goaway_never_rises(received_ids, last_ids):
    engine = make_client()
    events = [e for last in received_ids for e in engine.receive_data(frames.goaway(last, 0))]
    assert [event.last_stream_id for event in events] == last_ids
    assert engine.streams.peer_last_stream_id == min(received_ids)


def test_a_shutdown_in_two_steps():
    """A call that crosses the announcement is served; one after the refusal is not (§6.8)."""
    pair = EnginePair()
    send_request(pair.client)
    pair.server.start_graceful_shutdown()
    at_client, at_server = pair.exchange()
    assert at_client == [GoAwayReceived(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR, b"")]
    assert [event.stream_id for event in at_server] == [1]

    pair.server.receive_data(headers_frame(3))
    pair.server.refuse_new_streams()
    assert pair.server.receive_data(headers_frame(5)) == []
    frames_sent = sent_frames(pair.server)
    assert frames_sent[0][:3] == (FrameType.GOAWAY, 0, 0)
    assert frames_sent[0].payload == b"\0\0\0\3\0\0\0\0"
    assert (frames_sent[1].stream_id, frames_sent[1].last_word) == (5, ErrorCode.REFUSED_STREAM)
    for stream in (1, 3):
        send_response(pair.server, stream, end=True)
    assert [frame.stream_id for frame in sent_frames(pair.server)] == [1, 3]


def test_a_refused_call_learns_that_it_is_safe_to_retry():
    pair = EnginePair()
    pair.server.refuse_new_streams()
    stream = send_request(pair.client)
    at_client, at_server = pair.exchange()
    assert at_server == []
    assert StreamReset(stream, ErrorCode.REFUSED_STREAM, True, "REFUSED_STREAM") in at_client


@pytest.mark.parametrize(
    ("make", "last"),
    [(make_client_with_request, 0), (make_server_with_request, 1)],
    ids=["client", "server"],
)
def test_close_says_why_and_ends_everything(make, last):
    engine = make()
    engine.data_to_send()
    engine.close(ErrorCode.INTERNAL_ERROR, "é" * 200)
    (frame,) = sent_frames(engine)
    assert frame[:3] == (FrameType.GOAWAY, 0, 0)
    assert frame.payload[:8] == last.to_bytes(4, "big") + b"\0\0\0\2"
    assert frame.payload[8:] == ("é" * 100).encode()
    assert (engine.closed, engine.exhausted, engine.open_stream_count) == (True, True, 0)


def test_a_closed_connection_is_deaf_and_dumb():
    engine = make_server_with_request()
    engine.close()
    engine.data_to_send()
    assert engine.receive_data(headers_frame(3) + b"garbage") == []
    engine.close(ErrorCode.INTERNAL_ERROR)
    engine.reset_stream(1, ErrorCode.CANCEL)
    assert not engine.set_receive_window(1, 10**6)
    assert sent_frames(engine) == []
    with pytest.raises(LocalProtocolError):
        send_response(engine)
