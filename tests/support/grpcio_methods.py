"""Methods of the echo service as stock grpcio calls them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from echo.v1 import echo_pb2 as pb


def make_echo_method(channel: grpc.Channel, kind: str, name: str) -> Any:
    """Make a method; `kind` is that of grpcio, such as "unary_unary"."""
    return getattr(channel, kind)(
        f"/echo.v1.EchoService/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=pb.EchoReply.FromString,
    )


class GrpcioEchoStub:
    """What generated grpcio code would make of the service."""

    def __init__(self, channel: grpc.Channel) -> None:
        def method(kind: str, name: str) -> object:
            return getattr(channel, kind)(
                f"/echo.v1.EchoService/{name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=pb.EchoReply.FromString,
            )

        self.Echo = method("unary_unary", "Echo")
        self.Slow = method("unary_unary", "Slow")
        self.Repeat = method("unary_stream", "Repeat")
        self.Join = method("stream_unary", "Join")
        self.Chat = method("stream_stream", "Chat")


def grpcio_echo_requests(*words: str) -> Iterator[pb.EchoRequest]:
    for word in words:
        yield pb.EchoRequest(message=word)
