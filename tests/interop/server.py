"""gRPC's interop test service on meshtrio: `python -m tests.interop.server PORT [CERT]`."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import purerpc
import trio

from meshtrio.http2.limits import Limits
from meshtrio.rpc.errors import error_for_status
from tests.interop.grpc_testing import interop_pb2 as pb
from tests.interop.grpc_testing.interop_grpc import TestServiceServicer
from tests.support.servers import standard_server

INITIAL = "x-grpc-test-echo-initial"
TRAILING = "x-grpc-test-echo-trailing-bin"
MIB = 1024 * 1024


def payload(size: int) -> pb.Payload:
    return pb.Payload(body=bytes(size))


def echo_metadata(request: Any) -> None:
    """The custom_metadata case: one key comes back with the head, one with the status."""
    pairs = request.custom_metadata
    request.initial_metadata = [pair for pair in pairs if pair[0] == INITIAL]
    request.trailing_metadata = [pair for pair in pairs if pair[0] == TRAILING]


def raise_if_asked(message: Any) -> None:
    if message.HasField("response_status") and message.response_status.code:
        status = message.response_status
        raise error_for_status(status.code, status.message)


def check_compressed(message: Any, request: Any) -> None:
    if message.HasField("expect_compressed"):
        expected = message.expect_compressed.value
        if expected is not request.message_compressed:
            raise purerpc.InvalidArgumentError("the message was not compressed as it said")


class TestService(TestServiceServicer):
    async def EmptyCall(self, message: Any, request: Any) -> Any:
        echo_metadata(request)
        return pb.Empty()

    async def UnaryCall(self, message: Any, request: Any) -> Any:
        echo_metadata(request)
        raise_if_asked(message)
        check_compressed(message, request)
        request.compression = "gzip"
        request.compress = message.response_compressed.value
        return pb.SimpleResponse(payload=payload(message.response_size))

    async def StreamingOutputCall(self, message: Any, request: Any) -> AsyncIterator[Any]:
        request.compression = "gzip"
        async for reply in self._outputs(message, request):
            yield reply

    async def StreamingInputCall(self, messages: AsyncIterator[Any], request: Any) -> Any:
        size = 0
        async for message in messages:
            check_compressed(message, request)
            size += len(message.payload.body)
        return pb.StreamingInputCallResponse(aggregated_payload_size=size)

    async def FullDuplexCall(
        self, messages: AsyncIterator[Any], request: Any
    ) -> AsyncIterator[Any]:
        echo_metadata(request)
        async for message in messages:
            raise_if_asked(message)
            async for reply in self._outputs(message, request):
                yield reply

    async def _outputs(self, message: Any, request: Any) -> AsyncIterator[Any]:
        for parameters in message.response_parameters:
            await trio.sleep(parameters.interval_us / 1e6)
            request.compress = parameters.compressed.value
            yield pb.StreamingOutputCallResponse(payload=payload(parameters.size))


async def main(port: int, frame_size: int, certificate: str | None = None) -> None:
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", port), backlog=100)
    limits = Limits(max_message_size=16 * MIB, max_frame_size=frame_size)
    server, _ = standard_server(TestService(), limits=limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, listener, ssl_context=context))
        print(listener.getsockname()[1], flush=True)


if __name__ == "__main__":
    logging.basicConfig()
    trio.run(main, *map(int, sys.argv[1:3]), *sys.argv[3:])
