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
    """The stub that grpcio's generator would make of the service."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.Echo = make_echo_method(channel, "unary_unary", "Echo")
        self.Slow = make_echo_method(channel, "unary_unary", "Slow")
        self.Repeat = make_echo_method(channel, "unary_stream", "Repeat")
        self.Join = make_echo_method(channel, "stream_unary", "Join")
        self.Chat = make_echo_method(channel, "stream_stream", "Chat")


def grpcio_echo_requests(*words: str) -> Iterator[pb.EchoRequest]:
    for word in words:
        yield pb.EchoRequest(message=word)


def assert_echo_methods_work(stub: GrpcioEchoStub) -> None:
    """Call a method of each kind, and Echo with small and large messages."""
    for size in (0, 1, 100_000, 3_000_000):
        text = "x" * size
        assert stub.Echo(pb.EchoRequest(message=text), timeout=60).message == text
    repeated = stub.Repeat(pb.RepeatRequest(message="r", count=1000), timeout=60)
    assert [reply.message for reply in repeated] == ["r"] * 1000
    assert stub.Join(grpcio_echo_requests("a", "b", "c"), timeout=60).message == "a b c"
    chat = stub.Chat(grpcio_echo_requests("a", "b"), timeout=60)
    assert [reply.message for reply in chat] == ["a", "b"]
