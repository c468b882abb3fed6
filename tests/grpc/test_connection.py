"""Whole calls between two engines, however their bytes are cut or spoiled.

The rest of the connection is in test_lifecycle.py, test_headers.py, test_flow_control.py,
test_resets.py and test_violations.py.
"""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrio.grpc.connection import GrpcConnection
from meshtrio.grpc.headers import (
    parse_request_headers,
    parse_response_headers,
    parse_trailers,
)
from meshtrio.http2 import frames
from meshtrio.http2.connection import Role
from meshtrio.http2.events import (
    ConnectionFailed,
    DataReceived,
    Http2Event,
    RequestReceived,
    ResponseReceived,
    SettingsReceived,
    TrailersReceived,
    WindowUpdated,
)
from meshtrio.http2.hpack import encoder
from meshtrio.http2.limits import Limits
from tests.support.engines import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    EnginePair,
    HeaderFields,
    send_request,
    send_response,
)

SMALL_FRAMES = Limits(max_frame_size=frames.DEFAULT_MAX_FRAME_SIZE)


@attrs.frozen
class Head:
    fields: HeaderFields
    end: bool = False
    stream: int = 1


@attrs.frozen
class Data:
    body: bytes
    end: bool = False
    stream: int = 1


@attrs.frozen
class End:
    fields: HeaderFields = TRAILERS
    stream: int = 1


Act = Head | Data | End


@attrs.frozen
class Call:
    """The actions of each side in a call, in order."""

    up: list[Act]
    down: list[Act]


LONG_HEAD = (*REQUEST, (b"x-long", b"v" * 17_000))
ONE_STATUS = ((b":status", b"200"), (b"grpc-status", b"12"), (b"grpc-message", b"no such method"))
FAILED = ((b"grpc-status", b"5"), (b"grpc-message", b"no %C3%A9"), (b"k-bin", b"AA"))

CALLS = {
    "unary": Call(
        [Head(REQUEST), Data(b"ask", end=True)],
        [Head(RESPONSE), Data(b"answer"), End()],
    ),
    "server stream": Call(
        [Head(REQUEST), Data(b"ask", end=True)],
        [Head(RESPONSE), Data(b"1"), Data(b"22"), Data(b"333"), End()],
    ),
    "client stream": Call(
        [Head(REQUEST), Data(b"1"), Data(b"22"), Data(b"333"), Data(b"", end=True)],
        [Head(RESPONSE), Data(b"answer"), End()],
    ),
    "both stream": Call(
        [Head(REQUEST), Data(b"1"), Data(b"2"), Data(b"3", end=True)],
        [Head(RESPONSE), Data(b"a"), Data(b"b"), Data(b"c"), End(FAILED)],
    ),
    "empty streams": Call([Head(REQUEST, end=True)], [Head(RESPONSE), End()]),
    "trailers only": Call([Head(REQUEST), Data(b"ask", end=True)], [Head(ONE_STATUS, end=True)]),
    "no trailers": Call([Head(REQUEST), End(())], [Head(RESPONSE), Data(b"odd", end=True)]),
    "two at once": Call(
        [Head(REQUEST), Head(REQUEST, stream=3), Data(b"3", True, 3), Data(b"1", True)],
        [Head(RESPONSE, stream=3), Head(RESPONSE), Data(b"3", stream=3), End(), End(stream=3)],
    ),
    "over several frames": Call(
        [Head(LONG_HEAD), Data(b"u" * 16_385, end=True)],
        [Head(RESPONSE), Data(b"d" * 33_000), End()],
    ),
}
SHORT = [name for name in CALLS if name != "over several frames"]


def send_acts(engine: GrpcConnection, acts: list[Act]) -> None:
    for act in acts:
        if isinstance(act, Data):
            assert engine.send_data(act.stream, act.body, end_stream=act.end) == len(act.body)
            continue
        block, end = encoder.encode(act.fields), isinstance(act, End) or act.end
        if isinstance(act, Head) and engine.role is Role.CLIENT:
            assert engine.open_stream(block, end_stream=end) == act.stream
        else:
            engine.send_headers(act.stream, block, end_stream=end)


def expected_events(acts: list[Act], role: Role) -> list[Http2Event]:
    """The events that `acts` should become at the other side, after its preface's two."""
    # A client has opened its stream by then.
    events: list[Http2Event] = [SettingsReceived(role is Role.SERVER), WindowUpdated(0)]
    for act in acts:
        if isinstance(act, Data):
            events += data_events(act)
        elif isinstance(act, End):
            events.append(TrailersReceived(act.stream, parse_trailers(tuple(act.fields))))
        elif role is Role.CLIENT:
            events.append(RequestReceived(act.stream, parse_request_headers(act.fields), act.end))
        else:
            events.append(ResponseReceived(act.stream, parse_response_headers(act.fields), act.end))
    return events


def data_events(act: Data) -> list[Http2Event]:
    size = frames.DEFAULT_MAX_FRAME_SIZE
    pieces = [act.body[i : i + size] for i in range(0, len(act.body), size)] or [b""]
    ends = [False] * (len(pieces) - 1) + [act.end]
    return [DataReceived(act.stream, piece, end) for piece, end in zip(pieces, ends, strict=True)]


@attrs.frozen
class Replay:
    """One side about to hear `data`, which should become `events`."""

    role: Role
    data: bytes
    events: list[Http2Event]
    acts: list[Act]

    def engine(self) -> GrpcConnection:
        """A fresh one; a client has made its request already."""
        engine = GrpcConnection(self.role, SMALL_FRAMES)
        if self.role is Role.CLIENT:
            send_acts(engine, self.acts)
        return engine


def replay(name: str, role: Role) -> Replay:
    call = CALLS[name]
    client, server = (GrpcConnection(role, SMALL_FRAMES) for role in Role)
    send_acts(client, call.up)
    up = client.data_to_send()
    if role is Role.SERVER:
        return Replay(role, up, expected_events(call.up, Role.CLIENT), [])
    server.receive_data(up)
    send_acts(server, call.down)
    return Replay(role, server.data_to_send(), expected_events(call.down, Role.SERVER), call.up)


roles = pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
calls = pytest.mark.parametrize("name", CALLS)
short_calls = pytest.mark.parametrize("name", SHORT)


@calls
def test_a_call_between_two_engines(name):
    call, pair = CALLS[name], EnginePair(SMALL_FRAMES, SMALL_FRAMES)
    send_acts(pair.client, call.up)
    _, at_server = pair.exchange()
    assert at_server == expected_events(call.up, Role.CLIENT)[2:]
    send_acts(pair.server, call.down)
    at_client, _ = pair.exchange()
    assert at_client == expected_events(call.down, Role.SERVER)[2:]
    assert (pair.client.open_stream_count, pair.server.open_stream_count) == (0, 0)


@roles
@calls
def test_a_call_fed_whole(name, role):
    case = replay(name, role)
    assert case.engine().receive_data(case.data) == case.events


@roles
@calls
def test_a_call_fed_byte_by_byte(name, role):
    case = replay(name, role)
    engine, events = case.engine(), []
    for i in range(len(case.data)):
        events += engine.receive_data(case.data[i : i + 1])
    assert events == case.events


@roles
@short_calls
def test_a_call_cut_at_each_offset(name, role):
    """Cut short, it gives the events up to there and no failure; the rest then gives the rest."""
    case = replay(name, role)
    for offset in range(len(case.data) + 1):
        engine = case.engine()
        events = engine.receive_data(case.data[:offset])
        assert events == case.events[: len(events)]
        assert not engine.closed
        assert events + engine.receive_data(case.data[offset:]) == case.events


@roles
def test_a_long_call_cut_near_its_frames_edges(role):
    case = replay("over several frames", role)
    edges = {0, len(case.data)}
    for edge in range(0, len(case.data), frames.DEFAULT_MAX_FRAME_SIZE):
        edges |= {edge + i for i in range(-200, 200)}
    for offset in edges & set(range(len(case.data) + 1)):
        engine = case.engine()
        events = engine.receive_data(case.data[:offset])
        assert events + engine.receive_data(case.data[offset:]) == case.events


@st.composite
def _cut_replays(draw):
    case = replay(draw(st.sampled_from(list(CALLS))), draw(st.sampled_from(Role)))
    cuts = sorted(draw(st.lists(st.integers(0, len(case.data)), max_size=30)))
    spans = zip([0, *cuts], [*cuts, len(case.data)], strict=True)
    return case, [case.data[start:end] for start, end in spans]


@given(_cut_replays())
@settings(max_examples=100)
def test_any_split_gives_the_same_events(drawn):
    case, chunks = drawn
    engine = case.engine()
    assert [e for chunk in chunks for e in engine.receive_data(chunk)] == case.events


@st.composite
def _mutated_replays(draw):
    """A valid byte stream with a few bytes flipped, inserted or deleted."""
    case = replay(draw(st.sampled_from(SHORT)), draw(st.sampled_from(Role)))
    data = bytearray(case.data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["flip", "insert", "delete"]))
        if kind == "flip":
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=20))
        else:
            del data[at : at + draw(st.integers(1, 20))]
    return case, bytes(data)


@given(_mutated_replays())
@settings(max_examples=500)
def test_any_mutation_ends_in_events(drawn):
    case, data = drawn
    engine = case.engine()
    events = engine.receive_data(data)
    assert all(isinstance(event, Http2Event) for event in events)
    failed = [event for event in events if isinstance(event, ConnectionFailed)]
    assert failed == (events[-1:] if engine.closed else [])


@given(st.sampled_from(Role), st.lists(st.binary(max_size=60), max_size=6))
@settings(max_examples=300)
def test_garbage_in_frames_ends_in_events(role, payloads):
    """Frames of a right layout get past the reader, which a random byte stream seldom does."""
    pair = EnginePair()
    stream = send_request(pair.client)
    pair.exchange()
    send_response(pair.server)
    pair.exchange()
    engine = pair.client if role is Role.CLIENT else pair.server
    for payload in payloads:
        type_, flags, *rest = payload.ljust(2, b"\0")
        data = frames.encode_frame(type_ % 11, flags, stream if flags & 0x80 else 0, bytes(rest))
        assert all(isinstance(event, Http2Event) for event in engine.receive_data(data))
