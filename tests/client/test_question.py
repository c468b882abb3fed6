"""One question on a connection of its own: answered whole, byte by byte, cut off, and wrongly."""

from __future__ import annotations

import purerpc
import pytest

from meshtrio.errors import ConnectionLostError
from meshtrio.grpc.connection import GrpcConnection as Engine
from meshtrio.http2.connection import Role
from meshtrio.http2.errors import ErrorCode
from meshtrio.messages import health
from tests.support.scripted_peer import (
    SERVING_REPLY_BYTES,
    SERVING_RESPONSE,
    call_scripted_peer,
    encode_reply,
    make_health_call,
)


async def test_the_answer_is_the_same_however_it_is_cut() -> None:
    asked = make_health_call()
    for size in (len(SERVING_REPLY_BYTES), 1, 7, len(SERVING_REPLY_BYTES), 1):
        pieces = [
            SERVING_REPLY_BYTES[at : at + size] for at in range(0, len(SERVING_REPLY_BYTES), size)
        ]
        assert await call_scripted_peer(asked, pieces) == SERVING_RESPONSE


async def test_an_answer_that_is_not_finished_is_none() -> None:
    asked = make_health_call()
    for end in range(len(SERVING_REPLY_BYTES)):
        with pytest.raises(ConnectionLostError, match="closed the connection"):
            await call_scripted_peer(asked, [SERVING_REPLY_BYTES[:end]] if end else [])


async def test_a_known_answer_is_not_taken_for_another() -> None:
    asked = make_health_call()
    not_serving = health.HealthCheckResponse(status=health.HealthCheckResponse.NOT_SERVING)
    other = encode_reply(messages=[not_serving.SerializeToString()])
    for _ in range(2):
        assert await call_scripted_peer(asked, [SERVING_REPLY_BYTES]) == SERVING_RESPONSE
        assert await call_scripted_peer(asked, [other]) == not_serving


STATUSES = {
    "unimplemented": (encode_reply(status=12), purerpc.UnimplementedError, "as it was told"),
    "no reply": (encode_reply(), purerpc.InternalError, "0 replies"),
    "two replies": (encode_reply(messages=[b"", b""]), purerpc.InternalError, "2 replies"),
    "no message": (encode_reply(messages=[b"\xff"]), purerpc.InternalError, "cannot be parsed"),
    "no gRPC": (
        encode_reply(head=[(b":status", b"503"), (b"content-type", b"text/html")]),
        purerpc.UnavailableError,
        "HTTP status 503",
    ),
}


@pytest.mark.parametrize(("bytes_", "error", "match"), STATUSES.values(), ids=STATUSES)
async def test_what_is_no_reply(bytes_: bytes, error: type[Exception], match: str) -> None:
    asked = make_health_call()
    for _ in range(2):
        with pytest.raises(error, match=match):
            await call_scripted_peer(asked, [bytes_])


async def test_a_peer_that_breaks_http2_is_told_apart() -> None:
    with pytest.raises(ConnectionLostError, match="violated HTTP/2"):
        await call_scripted_peer(make_health_call(), [b"SSH-2.0-garbage\r\n" * 100])


async def test_a_peer_that_says_why_it_goes_away() -> None:
    server = Engine(Role.SERVER)
    server.close(ErrorCode.ENHANCE_YOUR_CALM, "enough")
    with pytest.raises(ConnectionLostError, match="ENHANCE_YOUR_CALM"):
        await call_scripted_peer(make_health_call(), [server.data_to_send()])


async def test_a_peer_that_never_stops_talking_is_left() -> None:
    unknown_frames = b"\x00\x40\x00\xf0\x00\x00\x00\x00\x00" + bytes(16 * 1024)
    with pytest.raises(ConnectionLostError, match="over 65536 bytes"):
        await call_scripted_peer(
            make_health_call(), [Engine(Role.SERVER).data_to_send(), *[unknown_frames] * 10]
        )
