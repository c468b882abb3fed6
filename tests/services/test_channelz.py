"""channelz as a stock client sees it: of servers and of a mesh; pages, and what is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_channelz.v1 import channelz_pb2 as pb

from meshtrio.client.channel import connect_to
from meshtrio.client.multicallable import DynamicStub
from meshtrio.discovery.endpoint import canonical_target
from meshtrio.messages import channelz
from meshtrio.util.concurrency import background_service
from tests.support.channelz_client import (
    ChannelzTarget,
    assert_not_found,
    call_counts,
    connect_channelz,
    message_counts,
    run_without_mesh,
    stream_counts,
)
from tests.support.connection_pairs import CallbackServicer
from tests.support.grpcurl_as_user import run_grpcurl
from tests.support.mesh_processes import (
    ECHO_PLUGIN_DIRECTORY,
    PLUGINS_DIRECTORY,
    echo_plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.servers import standard_server
from tests.support.tls import TEST_CA, client_tls, server_context

READY = pb.ChannelConnectivityState.READY


def test_a_server_and_its_sockets(short_dir: Path) -> None:
    path = f"{short_dir}/s"
    began = time.time()
    with (
        run_without_mesh(PLUGINS_DIRECTORY / "echo_chain.py", Path(path)),
        connect_channelz(f"unix:{path}") as program,
    ):
        assert [program.call("a"), program.call("b"), program.call("not-found")] == [
            "a",
            "b",
            "NOT_FOUND",
        ]
        assert program.call("", "NoSuchMethod") == "UNIMPLEMENTED"
        server = program.get_server()
        # The call that asks is not over.
        assert call_counts(server.data) == (5, 2, 2)
        last, born = server.data.last_call_started_timestamp, server.data.trace.creation_timestamp
        assert began < born.ToNanoseconds() / 1e9 <= last.ToNanoseconds() / 1e9 < time.time()
        request = pb.GetServerRequest(server_id=server.ref.server_id)
        assert program.channelz.GetServer(request).server.ref == server.ref

        (listening,) = server.listen_socket
        assert program.get_socket(listening).local.uds_address.filename == path
        assert program.top_channels() == {}

        asked = pb.GetServerSocketsRequest(server_id=server.ref.server_id)
        (ref,) = program.channelz.GetServerSockets(asked).socket_ref
        socket = program.get_socket(ref)
        assert socket.ref == ref
        assert socket.remote_name.endswith(f"(pid {os.getpid()})")
        assert (socket.local.uds_address.filename, socket.remote.WhichOneof("address")) == (
            path,
            "uds_address",
        )
        # Four calls, and five questions, the last of which is being answered: the two that failed
        # have had no reply, and one of them was not even read.
        assert stream_counts(socket) == (10, 9, 0)
        assert message_counts(socket) == (7, 9)
        assert min(socket.data.local_flow_control_window.value, 0) == 0
        assert socket.data.remote_flow_control_window.value > 0
        assert socket.data.last_remote_stream_created_timestamp.seconds
        assert not socket.HasField("security")


def test_connections_come_and_go_and_their_calls_stay_counted(short_dir: Path) -> None:
    address = f"unix:{short_dir}/s"
    with (
        run_without_mesh(ECHO_PLUGIN_DIRECTORY / "echo_plugin.py", short_dir / "s"),
        connect_channelz(address) as program,
    ):
        server = program.get_server().ref
        asked = pb.GetServerSocketsRequest(server_id=server.server_id)

        def sockets() -> list[int]:
            found = program.channelz.GetServerSockets(asked)
            return [ref.socket_id for ref in found.socket_ref]

        ours = sockets()
        with ExitStack() as stack:
            others = [stack.enter_context(connect_channelz(address)) for _ in range(3)]
            assert [other.call("x") for other in others] == ["x"] * 3
            found = sockets()
            assert len(set(found)) == 4
            assert found == sorted(found)
            asked.max_results = 2
            page = program.channelz.GetServerSockets(asked)
            assert ([ref.socket_id for ref in page.socket_ref], page.end) == (found[:2], False)
            asked.start_socket_id = found[1] + 1
            page = program.channelz.GetServerSockets(asked)
            assert ([ref.socket_id for ref in page.socket_ref], page.end) == (found[2:], True)
        asked.max_results = asked.start_socket_id = 0
        wait_until(lambda: sockets() == ours)
        with pytest.raises(grpc.RpcError) as caught:
            program.channelz.GetSocket(pb.GetSocketRequest(socket_id=found[-1]))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        before = program.get_server().data.calls_succeeded
        with connect_channelz(address) as another:
            assert another.call("x") == "x"
            assert sockets()[-1] > found[-1]  # No number is used again.
        wait_until(lambda: sockets() == ours)
        after = program.get_server().data
        assert after.calls_failed == 1  # to find a socket that was gone
        assert after.calls_succeeded > before


async def test_tls_on_tcp() -> None:
    """Both ends in this process, which tells of both."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server, _ = standard_server(CallbackServicer())
    context = server_context(mutual=True)
    async with background_service(partial(server.serve, ssl_context=context), listener):
        tls = client_tls(client_ca=TEST_CA)
        address = f"tcp:127.0.0.1:{port}"
        async with connect_to(address, tls=tls) as channel:
            stub = DynamicStub(channel, channelz.DESCRIPTOR.services_by_name["Channelz"])
            (told,) = (await stub.GetServers(channelz.GetServersRequest())).server
            assert told.ref.name == f"127.0.0.1:{port}"
            asked = channelz.GetServerSocketsRequest(server_id=told.ref.server_id)
            (theirs,) = (await stub.GetServerSockets(asked)).socket_ref
            (top,) = (await stub.GetTopChannels(channelz.GetTopChannelsRequest())).channel
            assert top.data.target == canonical_target(address)
            number = top.subchannel_ref[0].subchannel_id
            asked = channelz.GetSubchannelRequest(subchannel_id=number)
            (ours,) = (await stub.GetSubchannel(asked)).subchannel.socket_ref
            ends = []
            for ref in (ours, theirs):
                asked = channelz.GetSocketRequest(socket_id=ref.socket_id)
                ends.append((await stub.GetSocket(asked)).socket)
    mine, other = ends
    assert (mine.local, mine.remote) == (other.remote, other.local)
    assert mine.remote.tcpip_address.ip_address == bytes([127, 0, 0, 1])
    assert mine.remote.tcpip_address.port == port
    for end, name in ((mine, "localhost"), (other, "client@example.org")):
        assert end.security.tls.standard_name.startswith("TLS_")
        shown = x509.load_der_x509_certificate(end.security.tls.remote_certificate)
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [each.value for each in names] == [name]
    # One is asked of before its own call, and the other after it.
    assert mine.data.streams_started + 1 == other.data.streams_started


# -- asking ------------------------------------------------------------------------------------


def test_what_is_not_there_is_not_found(caller: ChannelzTarget, target: str) -> None:
    assert caller.call(f"open a {target}") == "ok"
    for number in (0, -1, 2**40):
        assert_not_found(caller.channelz, number)
    # A number of another kind is no better.
    channel = caller.top_channels()[canonical_target(target)].ref.channel_id
    with pytest.raises(grpc.RpcError) as caught:
        caller.channelz.GetSocket(pb.GetSocketRequest(socket_id=channel))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_pages(caller: ChannelzTarget, target: str) -> None:
    for number in range(5):
        assert caller.call(f"open {number} {target}") == "ok"
    found: list[int] = []
    ends = []
    while not any(ends):
        start = found[-1] + 1 if found else 0
        request = pb.GetTopChannelsRequest(start_channel_id=start, max_results=2)
        page = caller.channelz.GetTopChannels(request)
        found += [channel.ref.channel_id for channel in page.channel]
        ends.append(page.end)
    assert (len(found), ends) == (5, [False, False, True])
    assert found == sorted(set(found))
    request = pb.GetTopChannelsRequest(start_channel_id=found[3], max_results=2)
    page = caller.channelz.GetTopChannels(request)
    assert ([each.ref.channel_id for each in page.channel], page.end) == (found[3:], True)
    beyond = pb.GetTopChannelsRequest(start_channel_id=found[-1] + 1)
    page = caller.channelz.GetTopChannels(beyond)
    assert (list(page.channel), page.end) == ([], True)
    servers = caller.channelz.GetServers(pb.GetServersRequest(start_server_id=2**40))
    assert (list(servers.server), servers.end) == ([], True)
    for bad in ({"max_results": -1}, {"start_channel_id": -1}):
        with pytest.raises(grpc.RpcError) as caught:
            caller.channelz.GetTopChannels(pb.GetTopChannelsRequest(**bad))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_grpcdebug_reads_unasked_is_there(caller: ChannelzTarget, target: str) -> None:
    """It takes for granted that these fields are set, times that never were among them."""
    assert caller.call(f"open a {target}") == "ok"
    assert caller.call("call a x") == "ok"
    channel, server = caller.top_channels()[canonical_target(target)], caller.get_server()
    subchannel, connection = caller.get_subchannel_and_socket(channel)
    for data in (channel.data, subchannel.data):
        assert data.HasField("state")
        assert data.trace.HasField("creation_timestamp")
        assert all(event.HasField("timestamp") for event in data.trace.events)
    assert server.data.HasField("last_call_started_timestamp")
    listening = caller.get_socket(server.listen_socket[0])
    for found in (connection, listening):
        assert found.HasField("local")
        times = [name for name in pb.SocketData.DESCRIPTOR.fields_by_name if "timestamp" in name]
        for name in (*times, "local_flow_control_window", "remote_flow_control_window"):
            assert found.data.HasField(name), name
    assert len(times) == 4


# -- a mesh ------------------------------------------------------------------------------------


def test_a_mesh_tells_of_the_calls_it_passes_on(short_dir: Path) -> None:
    with (
        serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh,
        connect_channelz(f"unix:{mesh.socket}") as program,
    ):
        assert [program.call("a"), program.call("b")] == ["a", "b"]
        assert program.call("", "NoSuchMethod") == "UNIMPLEMENTED"
        channel = program.top_channels()["mesh:///plugin.echo"]
        assert channel.data.state.state == READY
        assert call_counts(channel.data) == (3, 2, 1)
        subchannel, socket = program.get_subchannel_and_socket(channel)
        assert subchannel.data.target == f"unix:{mesh.runtime_dir}/echo-0.sock"
        # What the plugin was asked about itself went there, too.
        assert call_counts(subchannel.data)[2] >= 1
        assert socket.remote.uds_address.filename == f"{mesh.runtime_dir}/echo-0.sock"
        server = program.get_server()
        assert call_counts(server.data)[2] == 1
        assert [ref.name for ref in server.listen_socket] == [str(mesh.socket)]

        killed = mesh.ps()[0]["pid"]
        os.kill(killed, signal.SIGKILL)

        def told() -> list[str]:
            now = program.top_channels()["mesh:///plugin.echo"]
            return [event.description for event in now.data.trace.events]

        wait_until(lambda: len(told()) == 3)
        assert f"{subchannel.data.target} removed: " in told()[1]
        assert "SIGKILL" in told()[1]
        assert program.call("c") == "c"


def test_a_plugins_own_channelz_is_asked_through_the_mesh(short_dir: Path) -> None:
    with (
        serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh,
        connect_channelz(f"unix:{mesh.socket}") as program,
    ):
        target = (("x-mesh-target", "plugin.echo"),)
        reply = program.channelz.GetServers(pb.GetServersRequest(), metadata=target)
        (server,) = reply.server
        assert [ref.name for ref in server.listen_socket] == [f"{mesh.runtime_dir}/echo-0.sock"]


def test_grpcurl_reads_it(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        assert "grpc.channelz.v1.Channelz" in run_grpcurl(mesh.socket, "list").split()
        service = "grpc.channelz.v1.Channelz"
        (server,) = json.loads(run_grpcurl(mesh.socket, f"{service}/GetServers"))["server"]
        data = json.dumps({"socket_id": server["listenSocket"][0]["socketId"]})
        socket = json.loads(run_grpcurl(mesh.socket, f"{service}/GetSocket", data=data))["socket"]
        assert socket["local"] == {"udsAddress": {"filename": str(mesh.socket)}}
