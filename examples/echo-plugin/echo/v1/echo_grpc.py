"""The services of echo/v1/echo.proto; made by protoc-gen-meshtrio, not to be edited."""

from __future__ import annotations

from collections.abc import AsyncIterator

import echo.v1.echo_pb2 as echo_v1_echo__pb2

from meshtrio import stubs


class EchoServiceServicer(stubs.Servicer):
    @property
    def service(self) -> stubs.Service:
        service = stubs.Service("echo.v1.EchoService")
        service.add_method(
            "Echo",
            self.Echo,
            stubs.signature(
                echo_v1_echo__pb2.EchoRequest,
                echo_v1_echo__pb2.EchoReply,
                stream_in=False,
                stream_out=False,
            ),
        )
        service.add_method(
            "Slow",
            self.Slow,
            stubs.signature(
                echo_v1_echo__pb2.SlowRequest,
                echo_v1_echo__pb2.EchoReply,
                stream_in=False,
                stream_out=False,
            ),
        )
        service.add_method(
            "Repeat",
            self.Repeat,
            stubs.signature(
                echo_v1_echo__pb2.RepeatRequest,
                echo_v1_echo__pb2.EchoReply,
                stream_in=False,
                stream_out=True,
            ),
        )
        service.add_method(
            "Join",
            self.Join,
            stubs.signature(
                echo_v1_echo__pb2.EchoRequest,
                echo_v1_echo__pb2.EchoReply,
                stream_in=True,
                stream_out=False,
            ),
        )
        service.add_method(
            "Chat",
            self.Chat,
            stubs.signature(
                echo_v1_echo__pb2.EchoRequest,
                echo_v1_echo__pb2.EchoReply,
                stream_in=True,
                stream_out=True,
            ),
        )
        return service

    async def Echo(self, message: echo_v1_echo__pb2.EchoRequest) -> echo_v1_echo__pb2.EchoReply:
        """Gives the message back."""
        raise NotImplementedError

    async def Slow(self, message: echo_v1_echo__pb2.SlowRequest) -> echo_v1_echo__pb2.EchoReply:
        """Gives the message back after a delay; the way to see deadlines and cancellation at work."""
        raise NotImplementedError

    def Repeat(self, message: echo_v1_echo__pb2.RepeatRequest) -> AsyncIterator[echo_v1_echo__pb2.EchoReply]:
        """Gives the message back `count` times."""
        raise NotImplementedError

    async def Join(self, messages: AsyncIterator[echo_v1_echo__pb2.EchoRequest]) -> echo_v1_echo__pb2.EchoReply:
        """Gives all messages back as one, joined by spaces."""
        raise NotImplementedError

    def Chat(self, messages: AsyncIterator[echo_v1_echo__pb2.EchoRequest]) -> AsyncIterator[echo_v1_echo__pb2.EchoReply]:
        """Gives each message back as it comes."""
        raise NotImplementedError


class EchoServiceStub:
    def __init__(self, channel: stubs.Channel) -> None:
        self.Echo: stubs.UnaryUnary[echo_v1_echo__pb2.EchoRequest, echo_v1_echo__pb2.EchoReply] = channel.unary_unary(
            "/echo.v1.EchoService/Echo",
            echo_v1_echo__pb2.EchoRequest,
            echo_v1_echo__pb2.EchoReply,
        )
        """Gives the message back."""
        self.Slow: stubs.UnaryUnary[echo_v1_echo__pb2.SlowRequest, echo_v1_echo__pb2.EchoReply] = channel.unary_unary(
            "/echo.v1.EchoService/Slow",
            echo_v1_echo__pb2.SlowRequest,
            echo_v1_echo__pb2.EchoReply,
        )
        """Gives the message back after a delay; the way to see deadlines and cancellation at work."""
        self.Repeat: stubs.UnaryStream[echo_v1_echo__pb2.RepeatRequest, echo_v1_echo__pb2.EchoReply] = channel.unary_stream(
            "/echo.v1.EchoService/Repeat",
            echo_v1_echo__pb2.RepeatRequest,
            echo_v1_echo__pb2.EchoReply,
        )
        """Gives the message back `count` times."""
        self.Join: stubs.StreamUnary[echo_v1_echo__pb2.EchoRequest, echo_v1_echo__pb2.EchoReply] = channel.stream_unary(
            "/echo.v1.EchoService/Join",
            echo_v1_echo__pb2.EchoRequest,
            echo_v1_echo__pb2.EchoReply,
        )
        """Gives all messages back as one, joined by spaces."""
        self.Chat: stubs.StreamStream[echo_v1_echo__pb2.EchoRequest, echo_v1_echo__pb2.EchoReply] = channel.stream_stream(
            "/echo.v1.EchoService/Chat",
            echo_v1_echo__pb2.EchoRequest,
            echo_v1_echo__pb2.EchoReply,
        )
        """Gives each message back as it comes."""
