from __future__ import annotations

import itertools

import pytest

from meshtrio.http2.errors import ErrorCode, LocalProtocolError, StreamError
from meshtrio.http2.stream import H2Stream, StreamInput, StreamState

OPEN, LOCAL, REMOTE, CLOSED = StreamState

# Written out again from RFC 9113 §5.1, so that a slip in the engine's own table shows.
LISTED = {
    (OPEN, StreamInput.SEND): OPEN,
    (OPEN, StreamInput.SEND_END): LOCAL,
    (OPEN, StreamInput.RECEIVE): OPEN,
    (OPEN, StreamInput.RECEIVE_END): REMOTE,
    (OPEN, StreamInput.RESET): CLOSED,
    (LOCAL, StreamInput.RECEIVE): LOCAL,
    (LOCAL, StreamInput.RECEIVE_END): CLOSED,
    (LOCAL, StreamInput.RESET): CLOSED,
    (REMOTE, StreamInput.SEND): REMOTE,
    (REMOTE, StreamInput.SEND_END): CLOSED,
    (REMOTE, StreamInput.RESET): CLOSED,
}
UNLISTED = [p for p in itertools.product(StreamState, StreamInput) if p not in LISTED]
RECEIVING = (StreamInput.RECEIVE, StreamInput.RECEIVE_END)


def name(pair: tuple[StreamState, StreamInput]) -> str:
    state, event = pair
    return f"{state.name}-{event.name}"


def stream_in(state: StreamState) -> H2Stream:
    stream = H2Stream(7, send_window=10, receive_window=20)
    stream.state = state
    return stream


@pytest.mark.parametrize("pair", LISTED, ids=name)
def test_listed_pair_moves_to_its_state(pair):
    state, event = pair
    stream = stream_in(state)
    stream.process_input(event)
    assert stream.state is LISTED[pair]


@pytest.mark.parametrize("pair", [p for p in UNLISTED if p[1] in RECEIVING], ids=name)
def test_unlisted_receipt_is_the_peers_violation(pair):
    state, event = pair
    stream = stream_in(state)
    with pytest.raises(StreamError) as caught:
        stream.process_input(event)
    assert (caught.value.stream_id, caught.value.error_code) == (7, ErrorCode.STREAM_CLOSED)
    assert stream.state is state


@pytest.mark.parametrize("pair", [p for p in UNLISTED if p[1] not in RECEIVING], ids=name)
def test_unlisted_act_of_ours_is_local_misuse(pair):
    state, event = pair
    stream = stream_in(state)
    with pytest.raises(LocalProtocolError, match=f"stream 7: {event.name} in state {state.name}"):
        stream.process_input(event)
    assert stream.state is state


def test_a_new_stream_is_open_with_the_windows_it_was_given():
    stream = H2Stream(7, send_window=10, receive_window=20)
    assert stream.state is OPEN
    assert (stream.send_window, stream.receive_window) == (10, 20)
    assert not stream.headers_received
    assert stream.remaining_content_length is None
