"""A peer that answers one health call with bytes that the test chose."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

import trio

from meshtrio.grpc.connection import GrpcConnection as Engine
from meshtrio.grpc.framing import frame_message
from meshtrio.http2.connection import Role
from meshtrio.http2.events import RequestReceived
from meshtrio.http2.hpack import encoder
from meshtrio.messages import health
from meshtrio.rpc.one_shot_call import OneShotCall
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.transport.transport import Transport
from meshtrio.util.concurrency import open_collapsing_nursery

CHECK = method_from_descriptor(
    health.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
)


SERVING_RESPONSE = health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING)


RESPONSE_HEADERS = [(b":status", b"200"), (b"content-type", b"application/grpc")]


def make_health_call(service: str = "") -> OneShotCall:
    return OneShotCall(CHECK, health.HealthCheckRequest(service=service))


def encode_reply(
    *, messages: Iterable[bytes] = (), status: int = 0, head: Any = RESPONSE_HEADERS
) -> bytes:
    """Encode what a server sends on the first stream of a connection."""
    client, server = Engine(Role.CLIENT), Engine(Role.SERVER)
    request = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x/y")]
    client.open_stream(encoder.encode([*request, (b":authority", b"x")]), end_stream=True)
    (event,) = [
        e for e in server.receive_data(client.data_to_send()) if isinstance(e, RequestReceived)
    ]
    server.send_headers(event.stream_id, encoder.encode(head))
    for message in messages:
        server.send_data(event.stream_id, frame_message(message))
    trailers = [(b"grpc-status", b"%d" % status), (b"grpc-message", b"as it was told")]
    server.send_headers(event.stream_id, encoder.encode(trailers), end_stream=True)
    return server.data_to_send()


async def call_scripted_peer(asked: OneShotCall, pieces: Iterable[bytes]) -> Any:
    """Call a peer that sends these pieces, one after another, and closes."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def speak() -> None:
        with theirs:
            for piece in pieces:
                theirs.sendall(piece)
                await trio.testing.wait_all_tasks_blocked()

    with trio.fail_after(30):
        async with open_collapsing_nursery() as nursery:
            nursery.start_soon(speak)
            try:
                return await asked.call(Transport(ours))
            finally:
                assert ours.fileno() == -1


SERVING_REPLY_BYTES = encode_reply(messages=[SERVING_RESPONSE.SerializeToString()])
