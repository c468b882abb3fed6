"""Answers to health checks that are lenient with HTTP/2, as real servers give them."""

from __future__ import annotations

import purerpc
import pytest

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.hpack import encoder
from tests.support.scripted_peer import (
    RESPONSE_HEADERS,
    SERVING_REPLY_BYTES,
    SERVING_RESPONSE,
    call_scripted_peer,
    make_health_call,
)


def trailers_only(*fields: tuple[bytes, bytes]) -> bytes:
    block = encoder.encode([*RESPONSE_HEADERS, *fields])
    return frames.settings({}) + frames.encode_header_block(
        1, block, end_stream=True, max_frame_size=16_384
    )


@pytest.mark.parametrize(
    "fields",
    [
        [(b"grpc-status", b"12 "), (b"grpc-message", b"unknown service: ")],
        [(b"grpc-status", b"12"), (b"grpc-message", b"\xff%"), (b"x", b"\tv ")],
        [(b"grpc-status", b"12"), (b"grpc-status-details-bin", b"*"), (b"x-bin", b"A")],
    ],
)
@pytest.mark.parametrize("reset", [False, True])
async def test_a_server_without_health_says_so_in_its_own_way(
    fields: list[tuple[bytes, bytes]], reset: bool
) -> None:
    answer = trailers_only(*fields)
    if reset:
        answer += frames.rst_stream(1, ErrorCode.NO_ERROR)
    for pieces in ([answer], [answer[i : i + 1] for i in range(len(answer))]):
        with pytest.raises(purerpc.UnimplementedError):
            await call_scripted_peer(make_health_call(), pieces)


@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.CANCEL])
async def test_a_reset_behind_the_answer_is_none(code: ErrorCode) -> None:
    """net/http resets a request that its handler has not read."""
    reset = frames.rst_stream(1, code)
    assert (
        await call_scripted_peer(make_health_call(), [SERVING_REPLY_BYTES + reset])
        == SERVING_RESPONSE
    )
