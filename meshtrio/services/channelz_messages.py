"""Builds the channelz messages of channels, subchannels, servers and sockets.

Unset times are sent as 0, and unset windows as empty messages, as grpcdebug requires the fields.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from meshtrio.messages import channelz
from meshtrio.rpc.channelz_registry import ListenSocket, TraceNode
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.server import Server
from meshtrio.rpc.stats import CallCounters
from meshtrio.util.text import replace_surrogates

if TYPE_CHECKING:
    # Plugins that make no calls do not import the client.
    from meshtrio.client.channel import Channel
    from meshtrio.client.subchannel import Subchannel

_State = channelz.ChannelConnectivityState
_STANDARD_NAMES_VERSION = "TLSv1.3"
"""The TLS version with which OpenSSL uses the standard names of cipher suites."""


# -- channels ----------------------------------------------------------------------------------


def make_channel(channel: Channel) -> channelz.Channel:
    message = channelz.Channel()
    message.ref.channel_id, message.ref.name = channel.trace_node.channelz_id, channel.target
    message.data.target = channel.target
    message.data.state.state = _get_channel_state(channel)
    _fill_calls(message.data, channel.trace_node, channel.call_counters)
    refs = [_make_subchannel_ref(each.subchannel) for each in channel.picker.endpoints]
    message.subchannel_ref.extend(refs)
    return message


def make_subchannel(subchannel: Subchannel) -> channelz.Subchannel:
    """Make the message of a subchannel, which several channels may share."""
    message = channelz.Subchannel(ref=_make_subchannel_ref(subchannel))
    message.data.target = replace_surrogates(subchannel.endpoint.address)
    message.data.state.state = _get_subchannel_state(subchannel)
    connections = sorted(subchannel.connections, key=lambda each: each.channelz_id)
    message.socket_ref.extend(map(make_socket_ref, connections))
    calls = _sum_calls(subchannel.past_counters, connections)
    _fill_calls(message.data, subchannel.trace_node, calls)
    return message


def _make_subchannel_ref(subchannel: Subchannel) -> channelz.SubchannelRef:
    return channelz.SubchannelRef(
        subchannel_id=subchannel.trace_node.channelz_id,
        name=replace_surrogates(subchannel.endpoint.address),
    )


def _get_subchannel_state(subchannel: Subchannel) -> Any:
    """Return the state of a subchannel; it is never IDLE, as it reconnects by itself."""
    if subchannel.connection is not None and subchannel.connection.is_usable:
        return _State.READY
    return _State.TRANSIENT_FAILURE if subchannel.connect_error else _State.CONNECTING


def _get_channel_state(channel: Channel) -> Any:
    """Return the best state of the channel's endpoints; ejected ones do not count as READY.

    A channel that never had an endpoint is CONNECTING.
    """
    if any(each.is_ready for each in channel.picker.endpoints):
        return _State.READY
    states = [_get_subchannel_state(each.subchannel) for each in channel.picker.endpoints]
    if _State.CONNECTING in states or not channel.trace_node.events_logged:
        return _State.CONNECTING
    return _State.TRANSIENT_FAILURE


# -- servers -----------------------------------------------------------------------------------


def make_server(server: Server) -> channelz.Server:
    message = channelz.Server()
    message.ref.server_id = server.trace_node.channelz_id
    calls = _sum_calls(server.past_counters, server.connections)
    _fill_calls(message.data, server.trace_node, calls)
    if server.listen_socket is not None and server.listen_socket.sock.fileno() >= 0:
        message.listen_socket.append(_make_listen_socket_ref(server.listen_socket))
        message.ref.name = message.listen_socket[0].name
    return message


def _make_listen_socket_ref(listen_socket: ListenSocket) -> channelz.SocketRef:
    return channelz.SocketRef(
        socket_id=listen_socket.channelz_id,
        name=_format_socket_address(listen_socket.sock.getsockname()),
    )


# -- sockets -----------------------------------------------------------------------------------


def make_socket(listener_or_connection: Connection | ListenSocket) -> channelz.Socket:
    """Make the message of a socket. Raises OSError if it is closed."""
    message = channelz.Socket()
    data = message.data
    for required in (
        data.local_flow_control_window,
        data.remote_flow_control_window,
        data.last_local_stream_created_timestamp,
        data.last_remote_stream_created_timestamp,
        data.last_message_sent_timestamp,
        data.last_message_received_timestamp,
    ):
        required.SetInParent()
    if isinstance(listener_or_connection, ListenSocket):
        message.ref.CopyFrom(_make_listen_socket_ref(listener_or_connection))
        _fill_address(message.local, listener_or_connection.sock.getsockname())
    else:
        message.ref.CopyFrom(make_socket_ref(listener_or_connection))
        _fill_connection(message, listener_or_connection)
    return message


def make_socket_ref(connection: Connection) -> channelz.SocketRef:
    """Make a reference named by the remote end: the client on a server, the address on a client."""
    if connection.is_client:
        try:
            name = _format_socket_address(connection.transport.sock.getpeername())
        except OSError:
            name = ""
    else:
        name = _format_peer(connection)
    return channelz.SocketRef(socket_id=connection.channelz_id, name=name)


def _format_peer(connection: Connection) -> str:
    tls = connection.transport.ssl_object
    if tls is not None and tls.cipher() is None:
        return ""  # Unknown before the handshake.
    peer = connection.peer
    return peer.address if peer.uid is None and not peer.subject else str(peer)


def _fill_connection(message: channelz.Socket, connection: Connection) -> None:
    sock = connection.transport.sock
    _fill_address(message.local, sock.getsockname())
    _fill_address(message.remote, sock.getpeername())
    message.remote_name = "" if connection.is_client else message.ref.name
    _fill_security(message, connection)
    data, statistics = message.data, connection.statistics()
    data.streams_started = statistics.streams.started
    data.streams_succeeded = statistics.streams.succeeded
    data.streams_failed = statistics.streams.failed
    data.messages_sent, data.messages_received = statistics.messages
    data.keep_alives_sent = connection.counters.keepalives_sent
    last_started = data.last_remote_stream_created_timestamp
    if connection.is_client:
        last_started = data.last_local_stream_created_timestamp
    _fill_timestamp(last_started, statistics.calls.last_started)
    windows = connection.windows
    data.local_flow_control_window.value = windows.send
    data.remote_flow_control_window.value = windows.receive


def _fill_security(message: channelz.Socket, connection: Connection) -> None:
    tls = connection.transport.ssl_object
    if tls is None or (cipher := tls.cipher()) is None:
        return
    security, (name, version, _) = message.security.tls, cipher
    if version == _STANDARD_NAMES_VERSION:
        security.standard_name = name
    else:
        security.other_name = name
    security.remote_certificate = tls.getpeercert(binary_form=True) or b""


def _fill_address(message: channelz.Address, name: Any) -> None:
    """Fill in an address as the socket module returns it: a path, or a tuple of host and port."""
    if not isinstance(name, tuple):
        message.uds_address.filename = _format_socket_address(name)
        return
    host, port = name[:2]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    message.tcpip_address.ip_address = socket.inet_pton(family, host.partition("%")[0])
    message.tcpip_address.port = port


def _format_socket_address(name: Any) -> str:
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # An abstract socket begins with a zero byte, conventionally written as @.
    text = name.decode(errors="replace").replace("\0", "@", 1) if isinstance(name, bytes) else name
    return replace_surrogates(text)


# -- all ---------------------------------------------------------------------------------------


def _sum_calls(past: CallCounters, connections: Iterable[Connection]) -> CallCounters:
    total = CallCounters()
    for calls in (past, *(each.statistics().calls for each in connections)):
        total.add_calls(calls)
    return total


def _fill_calls(
    data: channelz.ChannelData | channelz.ServerData, trace_node: TraceNode, calls: CallCounters
) -> None:
    data.calls_started = calls.started
    data.calls_succeeded = calls.succeeded
    data.calls_failed = calls.failed
    _fill_timestamp(data.last_call_started_timestamp, calls.last_started)
    _fill_timestamp(data.trace.creation_timestamp, trace_node.created_at)
    data.trace.num_events_logged = trace_node.events_logged
    for event in list(trace_node.events):
        message = data.trace.events.add(
            description=replace_surrogates(event.description), severity=int(event.severity)
        )
        _fill_timestamp(message.timestamp, event.timestamp)
        if event.subchannel_id:
            message.subchannel_ref.subchannel_id = event.subchannel_id


def _fill_timestamp(field: Any, unix_time: float) -> None:
    field.SetInParent()
    field.seconds, field.nanos = divmod(int(unix_time * 1e9), 10**9)
