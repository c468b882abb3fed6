"""One question on a connection of its own: answered whole, byte by byte, cut off, and wrongly."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

import purerpc
import pytest
import trio

from meshtrio.client.question import Question
from meshtrio.errors import ConnectionLostError
from meshtrio.messages import health
from meshtrio.rpc.dynamic import method_of
from meshtrio.rpc.transport import SocketTransport
from meshtrio.structured import open_nursery_of_one
from meshtrio.wire import hpack
from meshtrio.wire.connection import Connection as Engine
from meshtrio.wire.connection import Role
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.events import RequestReceived
from meshtrio.wire.grpc import frame_message

CHECK = method_of(health.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"])
SERVING = health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING)
HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]


def question(service: str = "") -> Question:
    return Question(CHECK, health.HealthCheckRequest(service=service))


def said(*, messages: Iterable[bytes] = (), status: int = 0, head: Any = HEAD) -> bytes:
    """What a server says in answer to the first stream of a connection."""
    client, server = Engine(Role.CLIENT), Engine(Role.SERVER)
    request = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x/y")]
    client.open_stream(hpack.encode([*request, (b":authority", b"x")]), end_stream=True)
    (event,) = [
        e for e in server.receive_data(client.data_to_send()) if isinstance(e, RequestReceived)
    ]
    server.send_headers(event.stream_id, hpack.encode(head))
    for message in messages:
        server.send_data(event.stream_id, frame_message(message))
    trailers = [(b"grpc-status", b"%d" % status), (b"grpc-message", b"as it was told")]
    server.send_headers(event.stream_id, hpack.encode(trailers), end_stream=True)
    return server.data_to_send()


async def answered(asked: Question, pieces: Iterable[bytes]) -> Any:
    """Ask a peer that says these pieces, one after another, and closes."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def speak() -> None:
        with theirs:
            for piece in pieces:
                theirs.sendall(piece)
                await trio.testing.wait_all_tasks_blocked()

    with trio.fail_after(30):
        async with open_nursery_of_one() as nursery:
            nursery.start_soon(speak)
            try:
                return await asked.ask(SocketTransport(ours))
            finally:
                assert ours.fileno() == -1


GOOD = said(messages=[SERVING.SerializeToString()])


async def test_the_answer_is_the_same_however_it_is_cut() -> None:
    asked = question()
    for size in (len(GOOD), 1, 7, len(GOOD), 1):
        pieces = [GOOD[at : at + size] for at in range(0, len(GOOD), size)]
        assert await answered(asked, pieces) == SERVING


async def test_an_answer_that_is_not_finished_is_none() -> None:
    asked = question()
    for end in range(len(GOOD)):
        with pytest.raises(ConnectionLostError, match="closed the connection"):
            await answered(asked, [GOOD[:end]] if end else [])


async def test_a_known_answer_is_not_taken_for_another() -> None:
    asked = question()
    not_serving = health.HealthCheckResponse(status=health.HealthCheckResponse.NOT_SERVING)
    other = said(messages=[not_serving.SerializeToString()])
    for _ in range(2):
        assert await answered(asked, [GOOD]) == SERVING
        assert await answered(asked, [other]) == not_serving


STATUSES = {
    "unimplemented": (said(status=12), purerpc.UnimplementedError, "as it was told"),
    "no reply": (said(), purerpc.InternalError, "0 replies"),
    "two replies": (said(messages=[b"", b""]), purerpc.InternalError, "2 replies"),
    "no message": (said(messages=[b"\xff"]), purerpc.InternalError, "cannot be parsed"),
    "no gRPC": (
        said(head=[(b":status", b"503"), (b"content-type", b"text/html")]),
        purerpc.UnavailableError,
        "HTTP status 503",
    ),
}


@pytest.mark.parametrize(("bytes_", "error", "match"), STATUSES.values(), ids=STATUSES)
async def test_what_is_no_reply(bytes_: bytes, error: type[Exception], match: str) -> None:
    asked = question()
    for _ in range(2):
        with pytest.raises(error, match=match):
            await answered(asked, [bytes_])


async def test_a_peer_that_breaks_http2_is_told_apart() -> None:
    with pytest.raises(ConnectionLostError, match="broke HTTP/2"):
        await answered(question(), [b"SSH-2.0-garbage\r\n" * 100])


async def test_a_peer_that_says_why_it_goes_away() -> None:
    server = Engine(Role.SERVER)
    server.close(ErrorCode.ENHANCE_YOUR_CALM, "enough")
    with pytest.raises(ConnectionLostError, match="ENHANCE_YOUR_CALM"):
        await answered(question(), [server.data_to_send()])


async def test_a_peer_that_never_stops_talking_is_left() -> None:
    unknown_frames = b"\x00\x40\x00\xf0\x00\x00\x00\x00\x00" + bytes(16 * 1024)
    with pytest.raises(ConnectionLostError, match="over 65536 bytes"):
        await answered(question(), [Engine(Role.SERVER).data_to_send(), *[unknown_frames] * 10])
