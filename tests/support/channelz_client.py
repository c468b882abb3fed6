"""A stock client of channelz, and programs to ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import grpc
import pytest
from echo.v1.echo_pb2 import EchoReply, EchoRequest
from grpc_channelz.v1 import channelz_pb2 as pb
from grpc_channelz.v1.channelz_pb2_grpc import ChannelzStub

from tests.support.mesh_processes import wait_for_server

OWN_CONNECTION_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
Counts = tuple[int, int, int]


@attrs.frozen
class ChannelzTarget:
    """A plugin without a mesh, or a mesh, and a stock client of it."""

    channel: grpc.Channel

    @property
    def channelz(self) -> ChannelzStub:
        return ChannelzStub(self.channel)

    def call(self, message: str, method: str = "Echo") -> str:
        """Return the reply of Echo, or the name of the status."""
        serve = self.channel.unary_unary(
            f"/echo.v1.EchoService/{method}",
            request_serializer=EchoRequest.SerializeToString,
            response_deserializer=EchoReply.FromString,
        )
        try:
            return str(serve(EchoRequest(message=message), timeout=60).message)
        except grpc.RpcError as exc:
            return str(exc.code().name)

    def top_channels(self) -> dict[str, pb.Channel]:
        """By their targets."""
        reply = self.channelz.GetTopChannels(pb.GetTopChannelsRequest())
        assert reply.end
        return {channel.data.target: channel for channel in reply.channel}

    def get_server(self) -> pb.Server:
        (server,) = self.channelz.GetServers(pb.GetServersRequest()).server
        return server

    def get_subchannel(self, ref: pb.SubchannelRef) -> pb.Subchannel:
        request = pb.GetSubchannelRequest(subchannel_id=ref.subchannel_id)
        return self.channelz.GetSubchannel(request).subchannel

    def get_socket(self, ref: pb.SocketRef) -> pb.Socket:
        return self.channelz.GetSocket(pb.GetSocketRequest(socket_id=ref.socket_id)).socket

    def get_subchannel_and_socket(self, channel: pb.Channel) -> tuple[pb.Subchannel, pb.Socket]:
        """The one subchannel of a channel, and its one socket."""
        (ref,) = channel.subchannel_ref
        subchannel = self.get_subchannel(ref)
        (socket,) = subchannel.socket_ref
        return subchannel, self.get_socket(socket)


@contextmanager
def run_without_mesh(program: Path, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a plugin without a mesh, which may be killed in the block."""
    environment = {**os.environ, "PLUGIN_SOCKET": str(path)}
    with subprocess.Popen([sys.executable, str(program)], env=environment) as process:
        try:
            wait_for_server(path)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) in (0, -signal.SIGKILL)


@contextmanager
def connect_channelz(address: str) -> Iterator[ChannelzTarget]:
    with grpc.insecure_channel(address, options=OWN_CONNECTION_OPTIONS) as channel:
        # A socket is there before it is listened on.
        grpc.channel_ready_future(channel).result(timeout=60)
        yield ChannelzTarget(channel)


def call_counts(data: Any) -> Counts:
    return data.calls_started, data.calls_succeeded, data.calls_failed


def stream_counts(socket: pb.Socket) -> Counts:
    data = socket.data
    return data.streams_started, data.streams_succeeded, data.streams_failed


def message_counts(socket: pb.Socket) -> tuple[int, int]:
    return socket.data.messages_sent, socket.data.messages_received


def assert_not_found(stub: ChannelzStub, number: int) -> None:
    for ask, request in (
        (stub.GetChannel, pb.GetChannelRequest(channel_id=number)),
        (stub.GetSubchannel, pb.GetSubchannelRequest(subchannel_id=number)),
        (stub.GetServer, pb.GetServerRequest(server_id=number)),
        (stub.GetServerSockets, pb.GetServerSocketsRequest(server_id=number)),
        (stub.GetSocket, pb.GetSocketRequest(socket_id=number)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            ask(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
