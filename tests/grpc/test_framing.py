"""Messages in DATA: prefixes, and a reader that is fed any pieces of a stream."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrio.grpc.framing import (
    MESSAGE_PREFIX_SIZE,
    MessageReader,
    MessageTooLargeError,
    frame_message,
    pack_message_prefix,
)

quick = settings(max_examples=100)

LIMIT = 100
MESSAGES = [(False, b""), (False, b"hello"), (True, b"packed"), (False, b""), (False, b"x" * LIMIT)]
STREAM = b"".join(frame_message(body, compressed=flag) for flag, body in MESSAGES)


@pytest.mark.parametrize(
    ("message", "compressed", "expected"),
    [
        pytest.param(b"", False, b"\x00\x00\x00\x00\x00", id="empty"),
        pytest.param(b"hello", False, b"\x00\x00\x00\x00\x05hello", id="plain"),
        pytest.param(b"hello", True, b"\x01\x00\x00\x00\x05hello", id="compressed"),
        pytest.param(b"x" * 258, False, b"\x00\x00\x00\x01\x02" + b"x" * 258, id="long"),
    ],
)
def test_frame_message(message, compressed, expected):
    assert frame_message(message, compressed=compressed) == expected


@pytest.mark.parametrize("message", MESSAGES, ids=["empty", "plain", "compressed", "empty2", "max"])
def test_reader_takes_one_whole_message(message):
    reader = MessageReader(LIMIT)
    flag, body = message
    assert reader.feed(frame_message(body, compressed=flag)) == [message]
    assert not reader.has_partial_message


def test_reader_takes_several_messages_at_once():
    assert MessageReader(LIMIT).feed(STREAM) == MESSAGES


def test_reader_takes_byte_by_byte():
    reader = MessageReader(LIMIT)
    found = [m for i in range(len(STREAM)) for m in reader.feed(STREAM[i : i + 1])]
    assert found == MESSAGES
    assert not reader.has_partial_message


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_reader_takes_every_split_in_two(at):
    reader = MessageReader(LIMIT)
    found = reader.feed(STREAM[:at])
    assert found == MESSAGES[: len(found)]
    assert reader.has_partial_message == (at > len(b"".join(frame_message(m) for _, m in found)))
    assert found + reader.feed(STREAM[at:]) == MESSAGES
    assert not reader.has_partial_message


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=LIMIT)), max_size=6), st.data())
@quick
def test_reader_does_not_care_how_the_stream_is_cut(messages, data):
    stream = b"".join(frame_message(body, compressed=flag) for flag, body in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, found = MessageReader(LIMIT), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == messages
    assert not reader.has_partial_message


def test_partial_from_the_first_byte_to_the_last():
    reader, framed = MessageReader(LIMIT), frame_message(b"abc")
    seen = []
    for i in range(len(framed)):
        reader.feed(framed[i : i + 1])
        seen.append(reader.has_partial_message)
    assert seen == [True] * 7 + [False]
    reader.feed(b"")
    assert not reader.has_partial_message


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([frame_message(b"x" * 101)], id="whole"),
        pytest.param([frame_message(b"x" * 101)[:5]], id="prefix alone"),
        pytest.param([b"\x00\x00", b"\x00\x00\x65"], id="prefix in two"),
        pytest.param([b"\x01\xff\xff\xff\xff"], id="as long as can be"),
        pytest.param([frame_message(b"fine") + b"\x00\x00\x00\x00\x65"], id="after another"),
    ],
)
def test_reader_refuses_a_message_over_the_limit_by_its_prefix(chunks):
    reader = MessageReader(LIMIT)
    for chunk in chunks[:-1]:
        assert reader.feed(chunk) == []
    with pytest.raises(MessageTooLargeError) as caught:
        reader.feed(chunks[-1])
    assert caught.value.limit == LIMIT
    assert caught.value.length > LIMIT


def test_reader_with_no_room_at_all_takes_empty_messages():
    reader = MessageReader(0)
    assert reader.feed(frame_message(b"") * 2) == [(False, b"")] * 2
    with pytest.raises(
        MessageTooLargeError, match="message of 1 bytes is over the limit of 0 bytes"
    ):
        reader.feed(frame_message(b"x"))


# -- large messages, received into a buffer -------------------------------------------------------

KIB, MIB = 1024, 1024 * 1024
PATTERN = bytes(range(251)) * 5000
LARGE = [(False, PATTERN[: 300 * KIB]), (False, b"small"), (False, PATTERN[7 : 7 + 200 * KIB])]


class BufferMaker:
    """Records the sizes of the buffers that a reader asks for."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, size: int) -> bytearray:
        self.sizes.append(size)
        return bytearray(size)


@given(st.lists(st.tuples(st.integers(1, 120 * KIB), st.booleans()), max_size=20))
@quick
def test_it_does_not_matter_which_parts_are_received_into_the_buffer(cuts):
    stream = b"".join(frame_message(body) for _, body in LARGE)
    reader, found, position = MessageReader(MIB), [], 0
    for size, is_direct in [*cuts, (len(stream), False)]:
        buffer = reader.open_buffer(size) if is_direct else None
        if buffer is None:
            found += reader.feed(stream[position : position + size])
            position += size
        else:
            filled = buffer[: (len(buffer) + 1) // 2]
            filled[:] = stream[position : position + len(filled)]
            found += reader.feed(filled)
            position += len(filled)
    assert found == LARGE
    assert not reader.has_partial_message


def test_a_memoryview_of_something_else_is_copied():
    reader, framed = MessageReader(MIB), bytearray(frame_message(PATTERN[: 100 * KIB]))
    view = memoryview(framed)
    assert reader.feed(view[: 50 * KIB]) == []
    rest = bytes(view[50 * KIB :])
    view[:] = bytes(len(view))
    assert reader.feed(rest) == [(False, PATTERN[: 100 * KIB])]


def test_a_buffer_has_the_messages_size_and_ends_with_it():
    make_buffer = BufferMaker()
    reader = MessageReader(MIB, make_buffer)
    reader.feed(pack_message_prefix(False, 500 * KIB))
    buffer = reader.open_buffer(MIB)
    assert buffer is not None
    assert len(buffer) == 500 * KIB
    assert reader.feed(buffer[:-1]) == []
    last = reader.open_buffer(MIB)
    assert last is not None
    assert len(last) == 1
    ((_, message),) = reader.feed(last)
    assert message is buffer.obj
    assert make_buffer.sizes == [500 * KIB]
    assert reader.open_buffer(MIB) is None


@pytest.mark.parametrize(
    "received",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(pack_message_prefix(False, MIB)[:4], id="part of a prefix"),
        pytest.param(pack_message_prefix(True, MIB), id="compressed"),
        pytest.param(pack_message_prefix(False, 63 * KIB), id="small"),
        pytest.param(pack_message_prefix(False, 100 * KIB) + bytes(50 * KIB), id="nearly complete"),
    ],
)
def test_other_messages_have_no_buffer(received):
    make_buffer = BufferMaker()
    reader = MessageReader(MIB, make_buffer)
    reader.feed(received)
    assert reader.open_buffer(MIB) is None
    assert make_buffer.sizes == []


def test_memory_is_not_allocated_for_what_is_only_announced():
    make_buffer = BufferMaker()
    reader = MessageReader(2**32, make_buffer)
    reader.feed(pack_message_prefix(False, 80 * MIB))
    for _ in range(9):
        assert reader.open_buffer(MIB) is None
        reader.feed(bytes(MIB))
    assert make_buffer.sizes == []
    reader.feed(bytes(MIB))
    assert reader.open_buffer(MIB) is not None
    assert make_buffer.sizes == [80 * MIB]


def test_a_message_that_was_completed_before_one_over_the_limit_is_not_lost():
    reader = MessageReader(100 * KIB)
    body = PATTERN[: 100 * KIB]
    reader.feed(frame_message(body)[:MESSAGE_PREFIX_SIZE])
    assert reader.open_buffer(MIB) is not None
    with pytest.raises(MessageTooLargeError) as caught:
        reader.feed(body + frame_message(b"fine") + pack_message_prefix(False, MIB))
    assert caught.value.complete_messages == [(False, body), (False, b"fine")]
