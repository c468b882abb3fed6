"""Methods of the echo service as stock grpcio calls them."""

from __future__ import annotations

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
