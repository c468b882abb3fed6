"""gzip of messages: round trips, bombs and what is not gzip."""

from __future__ import annotations

import contextlib
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.grpc.framing import DecompressionError, MessageTooLargeError, compress, decompress


@given(st.binary())
def test_round_trip(data: bytes) -> None:
    assert decompress(compress(data), len(data)) == data
    assert gzip.decompress(compress(data)) == data
    assert decompress(gzip.compress(data), len(data)) == data


def test_a_bomb_is_stopped_at_the_limit() -> None:
    bomb = compress(b"\0" * 100_000_000)
    with pytest.raises(MessageTooLargeError):
        decompress(bomb, 1000)


def test_a_message_of_just_the_limit() -> None:
    assert len(decompress(compress(b"x" * 1000), 1000)) == 1000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not gzip",
        compress(b"cut")[:-1],
        compress(b"one") + compress(b"two"),
        compress(b"x") + b"y",
    ],
)
def test_what_is_not_one_gzip_member(data: bytes) -> None:
    with pytest.raises(DecompressionError):
        decompress(data, 1000)


@given(st.binary(max_size=200), st.integers(0, 1000))
def test_any_bytes_end_in_a_message_or_one_of_two_errors(data: bytes, limit: int) -> None:
    with contextlib.suppress(DecompressionError, MessageTooLargeError):
        assert len(decompress(data, limit)) <= limit
