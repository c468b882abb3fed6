from __future__ import annotations

import itertools

import pytest

from meshtrio.wire.errors import ErrorCode, LocalMisuse, StreamViolation
from meshtrio.wire.stream import Input, Stream, StreamState

OPEN, LOCAL, REMOTE, CLOSED = StreamState

# Written out again from RFC 9113 §5.1, so that a slip in the engine's own table shows.
LISTED = {
    (OPEN, Input.SEND): OPEN,
    (OPEN, Input.SEND_END): LOCAL,
    (OPEN, Input.RECEIVE): OPEN,
    (OPEN, Input.RECEIVE_END): REMOTE,
    (OPEN, Input.RESET): CLOSED,
    (LOCAL, Input.RECEIVE): LOCAL,
    (LOCAL, Input.RECEIVE_END): CLOSED,
    (LOCAL, Input.RESET): CLOSED,
    (REMOTE, Input.SEND): REMOTE,
    (REMOTE, Input.SEND_END): CLOSED,
    (REMOTE, Input.RESET): CLOSED,
}
UNLISTED = [p for p in itertools.product(StreamState, Input) if p not in LISTED]
RECEIVING = (Input.RECEIVE, Input.RECEIVE_END)


def name(pair: tuple[StreamState, Input]) -> str:
    state, event = pair
    return f"{state.name}-{event.name}"


def stream_in(state: StreamState) -> Stream:
    stream = Stream(7, send_window=10, receive_window=20)
    stream.state = state
    return stream


@pytest.mark.parametrize("pair", LISTED, ids=name)
def test_listed_pair_moves_to_its_state(pair):
    state, event = pair
    stream = stream_in(state)
    stream.advance(event)
    assert stream.state is LISTED[pair]


@pytest.mark.parametrize("pair", [p for p in UNLISTED if p[1] in RECEIVING], ids=name)
def test_unlisted_receipt_is_the_peers_violation(pair):
    state, event = pair
    stream = stream_in(state)
    with pytest.raises(StreamViolation) as caught:
        stream.advance(event)
    assert (caught.value.stream_id, caught.value.code) == (7, ErrorCode.STREAM_CLOSED)
    assert stream.state is state


@pytest.mark.parametrize("pair", [p for p in UNLISTED if p[1] not in RECEIVING], ids=name)
def test_unlisted_act_of_ours_is_local_misuse(pair):
    state, event = pair
    stream = stream_in(state)
    with pytest.raises(LocalMisuse, match=f"stream 7: {event.name} in state {state.name}"):
        stream.advance(event)
    assert stream.state is state


def test_a_new_stream_is_open_with_the_windows_it_was_given():
    stream = Stream(7, send_window=10, receive_window=20)
    assert stream.state is OPEN
    assert (stream.send_window, stream.receive_window) == (10, 20)
    assert not stream.head_received
    assert stream.body_left is None
