"""What a client's resets cost: deadlines and give-ups are free, rapid resets are not."""

from __future__ import annotations

import pytest

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.http2 import frames
from meshtrio.http2.abuse_limits import AbuseLimits
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.events import ConnectionFailed
from meshtrio.http2.hpack import encoder
from meshtrio.http2.limits import Limits
from meshtrio.http2.stream import H2Stream
from meshtrio.http2.streams import ResetStreams
from tests.support.engines import (
    REQUEST,
    RESPONSE,
    headers_frame,
    make_client_with_request,
    make_server,
    send_request,
)

LIMITS = Limits(reset_burst=100, reset_rate=10, control_burst=100, control_rate=10)
CANCEL = ErrorCode.CANCEL


def request(stream_id: int, timeout: bytes | None = None) -> bytes:
    fields = REQUEST if timeout is None else (*REQUEST, (b"grpc-timeout", timeout))
    return headers_frame(stream_id, fields, end=True)


@pytest.mark.parametrize(
    ("lived", "has_deadline", "answered", "cost"),
    [
        (0.0, False, False, 1.0),
        (0.009, False, False, 1.0),
        (0.01, False, False, 0.0),
        (5.0, False, False, 0.0),
        (0.0, True, False, 0.1),
        (0.02, True, False, 0.0),
        (0.0, False, True, 0.0),
        (0.0, True, True, 0.0),
    ],
)
def test_the_cost_of_a_reset(lived, has_deadline, answered, cost):
    stream = H2Stream(1, 0, 0, has_deadline=has_deadline, response_started=answered)
    limits = AbuseLimits(Limits(reset_grace=0.01), is_client=False)
    assert limits.reset_cost(stream, now=lived) == cost


def reset_calls(
    engine: GrpcConnection, rounds: int, in_flight: int, seconds: float, timeout=None
) -> int:
    """Have `in_flight` calls given up after `seconds`, again and again; give the rounds that the
    connection lived through."""
    now, stream_id = 100.0, 1
    for number in range(rounds):
        ids = range(stream_id, stream_id + 2 * in_flight, 2)
        engine.receive_data(b"".join(request(i, timeout) for i in ids), now=now)
        now += seconds
        engine.receive_data(b"".join(frames.rst_stream(i, CANCEL) for i in ids), now=now)
        engine.data_to_send()
        if engine.closed:
            return number
        stream_id = ids[-1] + 2
    return rounds


@pytest.mark.parametrize("timeout", [None, b"150m"], ids=["no deadline", "deadline"])
def test_calls_that_run_into_their_deadlines_are_no_attack(timeout):
    assert reset_calls(make_server(LIMITS), 50, 400, 0.15, timeout) == 50


def test_a_server_that_was_late_to_read_does_not_take_deadlines_for_an_attack():
    """The loop stood still: the requests and their resets arrive in one read."""
    engine = make_server(Limits())
    now = 100.0
    for number in range(20):
        ids = range(1 + 800 * number, 1 + 800 * (number + 1), 2)
        both = b"".join(request(i, b"150m") + frames.rst_stream(i, CANCEL) for i in ids)
        now += 0.15
        engine.receive_data(both, now=now)
    assert not engine.closed


@pytest.mark.parametrize(
    ("timeout", "resets"), [(None, 101), (b"1n", 1011), (b"150m", 1011), (b"1H", 1011)]
)
def test_rapid_resets_end_the_connection_whatever_their_deadlines(timeout, resets):
    """10,000 a second; with a deadline each costs a tenth of one without."""
    engine = make_server(LIMITS)
    now, stream_id = 100.0, 1
    while not engine.closed and stream_id < 40_000:
        both = request(stream_id, timeout) + frames.rst_stream(stream_id, CANCEL)
        events = engine.receive_data(both, now=now)
        now, stream_id = now + 0.0001, stream_id + 2
    assert engine.closed
    assert stream_id == 2 * resets + 1
    assert isinstance(events[-1], ConnectionFailed)
    assert events[-1].error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_streams_whose_response_has_begun_may_be_reset():
    """A client that takes the first message of a stream and leaves, as `break` does."""
    engine = make_server(Limits(reset_burst=1, reset_rate=0))
    for stream_id in range(1, 2001, 2):
        engine.receive_data(request(stream_id), now=1.0)
        engine.send_headers(stream_id, encoder.encode(RESPONSE))
        engine.receive_data(frames.rst_stream(stream_id, CANCEL), now=1.0)
        engine.data_to_send()
    assert not engine.closed


def test_a_reset_that_crosses_the_end_of_its_stream_is_free():
    engine = make_server(Limits(reset_burst=1, reset_rate=0, control_burst=2, control_rate=0))
    for stream_id in range(1, 2001, 2):
        engine.receive_data(request(stream_id), now=1.0)
        engine.send_headers(stream_id, encoder.encode(RESPONSE), end_stream=True)
        engine.receive_data(frames.rst_stream(stream_id, CANCEL), now=1.0)
        engine.data_to_send()
    assert not engine.closed


def test_resets_of_one_stream_again_and_again_end_the_connection():
    engine = make_server(LIMITS)
    engine.receive_data(request(2**31 - 1), now=1.0)
    engine.receive_data(frames.rst_stream(2**31 - 1, CANCEL) * 102, now=1.0)
    assert engine.closed


def test_a_client_is_flooded_with_resets():
    engine = make_client_with_request(LIMITS)
    engine.receive_data(frames.rst_stream(1, CANCEL) * 102, now=1.0)
    assert engine.closed


def test_a_client_bears_any_number_of_streams_that_the_server_resets():
    engine = make_client_with_request(LIMITS)
    for _ in range(2000):
        stream_id = send_request(engine)
        engine.receive_data(frames.rst_stream(stream_id, CANCEL), now=1.0)
        engine.data_to_send()
    assert not engine.closed


def test_a_client_bears_any_number_of_malformed_responses():
    """Each fails its own call; the client opens as many streams as it likes."""
    engine = make_client_with_request(LIMITS)
    for _ in range(2000):
        stream_id = send_request(engine)
        engine.receive_data(headers_frame(stream_id, [(b":status", b"none")]), now=1.0)
        engine.data_to_send()
    assert not engine.closed


def test_the_answer_to_a_late_frame_is_given_once():
    streams = ResetStreams()
    streams.add(1, reply_due=True)
    streams.add(3)
    assert [streams.pop_reply_due(i) for i in (1, 1, 3, 5)] == [True, False, False, False]
