"""The grpc.channelz.v1.Channelz servicer: channels, servers and sockets of this process.

Unset times are sent as 0, and unset windows as empty messages, as grpcdebug requires the fields.

Source: gRFC A14.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import purerpc
import trio

from meshtrio.messages import channelz
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.channelz_registry import ListenSocket, TraceNode
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server import Server
from meshtrio.rpc.stats import CallCounters
from meshtrio.util.text import replace_surrogates

if TYPE_CHECKING:
    # Plugins that make no calls do not import the client.
    from meshtrio.client.channel import Channel
    from meshtrio.client.subchannel import Subchannel

_SERVICE = channelz.DESCRIPTOR.services_by_name["Channelz"]
_MAX_RESULTS = 100
"""Maximum number of results in a response, and the default."""
_State = channelz.ChannelConnectivityState
_STANDARD_NAMES_VERSION = "TLSv1.3"
"""The TLS version with which OpenSSL uses the standard names of cipher suites."""

T = TypeVar("T")
M = TypeVar("M")


class ChannelzServicer:
    """Serves the channelz data of the whole process on any of its servers."""

    def __init__(self) -> None:
        self.service = service_from_descriptor(_SERVICE, self)

    async def GetTopChannels(self, request: Any) -> Any:  # noqa: N802 - the method's name
        """Raise InvalidArgumentError for a negative start or count, as all paged methods do."""
        start = request.start_channel_id
        found = channelz_registry.CHANNELS.iter_from(start)
        page, end = await _make_page(_make_channel, found, start, request.max_results)
        return channelz.GetTopChannelsResponse(channel=page, end=end)

    async def GetServers(self, request: Any) -> Any:  # noqa: N802
        start = request.start_server_id
        found = channelz_registry.SERVERS.iter_from(start)
        page, end = await _make_page(_make_server, found, start, request.max_results)
        return channelz.GetServersResponse(server=page, end=end)

    async def GetServerSockets(self, request: Any) -> Any:  # noqa: N802
        """Raise NotFoundError for an unknown id, as all methods with an id do."""
        server = _find(channelz_registry.SERVERS, "server", request.server_id)
        start = request.start_socket_id
        found = [each for each in server.connections if each.channelz_id >= start]
        found.sort(key=lambda each: each.channelz_id)
        page, end = await _make_page(_make_socket_ref, found, start, request.max_results)
        return channelz.GetServerSocketsResponse(socket_ref=page, end=end)

    async def GetServer(self, request: Any) -> Any:  # noqa: N802
        server = _find(channelz_registry.SERVERS, "server", request.server_id)
        return channelz.GetServerResponse(server=_make_server(server))

    async def GetChannel(self, request: Any) -> Any:  # noqa: N802
        channel = _find(channelz_registry.CHANNELS, "channel", request.channel_id)
        return channelz.GetChannelResponse(channel=_make_channel(channel))

    async def GetSubchannel(self, request: Any) -> Any:  # noqa: N802
        subchannel = _find(channelz_registry.SUBCHANNELS, "subchannel", request.subchannel_id)
        return channelz.GetSubchannelResponse(subchannel=_make_subchannel(subchannel))

    async def GetSocket(self, request: Any) -> Any:  # noqa: N802
        found = _find(channelz_registry.SOCKETS, "socket", request.socket_id)
        try:
            return channelz.GetSocketResponse(socket=_make_socket(found))
        except OSError:
            # It was closed, and is not removed from the table yet.
            raise _make_not_found_error("socket", request.socket_id) from None


def _find(table: channelz_registry.ChannelzTable, kind: str, number: int) -> Any:
    found = table.get(number)
    if found is None:
        raise _make_not_found_error(kind, number)
    return found


def _make_not_found_error(kind: str, number: int) -> purerpc.NotFoundError:
    return purerpc.NotFoundError(f"no {kind} {number}; it may be gone")


async def _make_page(
    make: Callable[[T], M], items: Iterable[T], start: int, max_results: int
) -> tuple[list[M], bool]:
    """Make the messages of one page, and return whether they are the last."""
    if start < 0 or max_results < 0:
        raise purerpc.InvalidArgumentError("start and max_results must not be negative")
    max_results = min(max_results or _MAX_RESULTS, _MAX_RESULTS)
    found = list(islice(items, max_results + 1))
    made = []
    for item in found[:max_results]:
        made.append(make(item))
        await trio.lowlevel.checkpoint()
    return made, len(found) <= max_results


# -- channels ----------------------------------------------------------------------------------


def _make_channel(channel: Channel) -> channelz.Channel:
    message = channelz.Channel()
    message.ref.channel_id, message.ref.name = channel.trace_node.channelz_id, channel.target
    message.data.target = channel.target
    message.data.state.state = _get_channel_state(channel)
    _fill_calls(message.data, channel.trace_node, channel.call_counters)
    refs = [_make_subchannel_ref(each.subchannel) for each in channel.picker.endpoints]
    message.subchannel_ref.extend(refs)
    return message


def _make_subchannel(subchannel: Subchannel) -> channelz.Subchannel:
    """Make the message of a subchannel, which several channels may share."""
    message = channelz.Subchannel(ref=_make_subchannel_ref(subchannel))
    message.data.target = replace_surrogates(subchannel.endpoint.address)
    message.data.state.state = _get_subchannel_state(subchannel)
    connections = sorted(subchannel.connections, key=lambda each: each.channelz_id)
    message.socket_ref.extend(map(_make_socket_ref, connections))
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


def _make_server(server: Server) -> channelz.Server:
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


def _make_socket(listener_or_connection: Connection | ListenSocket) -> channelz.Socket:
    """Make the message of a socket. Raises OSError if it is closed."""
    message = channelz.Socket()
    data = message.data
    for name in data.DESCRIPTOR.fields_by_name:
        if name.endswith(("_window", "_timestamp")):
            getattr(data, name).SetInParent()
    if isinstance(listener_or_connection, ListenSocket):
        message.ref.CopyFrom(_make_listen_socket_ref(listener_or_connection))
        _fill_address(message.local, listener_or_connection.sock.getsockname())
    else:
        message.ref.CopyFrom(_make_socket_ref(listener_or_connection))
        _fill_connection(message, listener_or_connection)
    return message


def _make_socket_ref(connection: Connection) -> channelz.SocketRef:
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
