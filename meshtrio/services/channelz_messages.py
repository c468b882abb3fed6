"""What channelz tells of one channel, subchannel, server or socket.

Times that there are none of are set to 0: the field itself has to be there for grpcdebug, as have
the windows.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from meshtrio.messages import channelz
from meshtrio.rpc.census import Door, Entry
from meshtrio.rpc.connection import Connection
from meshtrio.rpc.server import Server
from meshtrio.rpc.tally import Tally, calls_of, messages_of, streams_of
from meshtrio.texts import whole

if TYPE_CHECKING:
    # A plugin that calls nobody has not imported the client.
    from meshtrio.client.channel import Channel
    from meshtrio.client.link import Link

_State = channelz.ChannelConnectivityState
_READS_AS_STANDARD = "TLSv1.3"
"""From this version on OpenSSL has the standard's names for cipher suites."""


# -- channels ----------------------------------------------------------------------------------


def channel_message(channel: Channel) -> channelz.Channel:
    message = channelz.Channel()
    message.ref.channel_id, message.ref.name = channel.entry.number, channel.target
    message.data.target = channel.target
    message.data.state.state = _state_of_channel(channel)
    _tell_calls(message.data, channel.entry, channel.calls)
    for subchannel in channel.subchannels:
        message.subchannel_ref.append(_subchannel_ref(subchannel.link))
    return message


def subchannel_message(link: Link) -> channelz.Subchannel:
    """A link is one subchannel, whichever channels use it."""
    message = channelz.Subchannel(ref=_subchannel_ref(link))
    message.data.target = whole(link.endpoint.address)
    message.data.state.state = _state_of_link(link)
    calls = Tally()
    calls.add(link.past)
    for connection in sorted(link.connections, key=lambda each: each.number):
        calls.add(calls_of(connection))
        message.socket_ref.append(socket_ref(connection))
    _tell_calls(message.data, link.entry, calls)
    return message


def _subchannel_ref(link: Link) -> channelz.SubchannelRef:
    return channelz.SubchannelRef(
        subchannel_id=link.entry.number, name=whole(link.endpoint.address)
    )


def _state_of_link(link: Link) -> Any:
    """It is never idle: it connects without being asked to, and again."""
    if link.usable:
        return _State.READY
    return _State.TRANSIENT_FAILURE if link.error else _State.CONNECTING


def _state_of_channel(channel: Channel) -> Any:
    """The best that any of its endpoints is in; one that is ejected, or not well, counts for none.

    A channel that never had an endpoint waits for the first.
    """
    if any(subchannel.ready for subchannel in channel.subchannels):
        return _State.READY
    states = [_state_of_link(subchannel.link) for subchannel in channel.subchannels]
    if _State.CONNECTING in states or not channel.entry.logged:
        return _State.CONNECTING
    return _State.TRANSIENT_FAILURE


# -- servers -----------------------------------------------------------------------------------


def server_message(server: Server) -> channelz.Server:
    message = channelz.Server()
    message.ref.server_id = server.entry.number
    calls = Tally()
    calls.add(server.past)
    for connection in list(server.connections):
        calls.add(calls_of(connection))
    _tell_calls(message.data, server.entry, calls)
    if server.door is not None and not server.door.closed:
        message.listen_socket.append(_door_ref(server.door))
        message.ref.name = message.listen_socket[0].name
    return message


def _door_ref(door: Door) -> channelz.SocketRef:
    return channelz.SocketRef(socket_id=door.number, name=_text(door.sock.getsockname()))


# -- sockets -----------------------------------------------------------------------------------


def socket_message(found: Connection | Door) -> channelz.Socket:
    """Raises OSError where it is closed by now."""
    message = channelz.Socket()
    data = message.data
    for window in (data.local_flow_control_window, data.remote_flow_control_window):
        window.SetInParent()
    for time in (
        data.last_local_stream_created_timestamp,
        data.last_remote_stream_created_timestamp,
        data.last_message_sent_timestamp,
        data.last_message_received_timestamp,
    ):
        time.SetInParent()
    if isinstance(found, Door):
        message.ref.CopyFrom(_door_ref(found))
        _tell_address(message.local, found.sock.getsockname())
    else:
        message.ref.CopyFrom(socket_ref(found))
        _tell_connection(message, found)
    return message


def socket_ref(connection: Connection) -> channelz.SocketRef:
    """Named by who is at the other end: on a server who has connected, on a client what to."""
    if connection.is_client:
        try:
            name = _text(connection.transport.sock.getpeername())
        except OSError:
            name = ""
    else:
        name = _who(connection)
    return channelz.SocketRef(socket_id=connection.number, name=name)


def _who(connection: Connection) -> str:
    tls = connection.transport.tls
    if tls is not None and tls.cipher() is None:
        return ""  # Before the handshake nobody knows.
    peer = connection.peer
    return peer.address if peer.uid is None and not peer.subject else str(peer)


def _tell_connection(message: channelz.Socket, connection: Connection) -> None:
    sock = connection.transport.sock
    _tell_address(message.local, sock.getsockname())
    _tell_address(message.remote, sock.getpeername())
    message.remote_name = "" if connection.is_client else message.ref.name
    _tell_security(message, connection)
    data, streams = message.data, streams_of(connection)
    data.streams_started = streams.started
    data.streams_succeeded = streams.succeeded
    data.streams_failed = streams.failed
    data.messages_sent, data.messages_received = messages_of(connection)
    data.keep_alives_sent = connection.tally.keepalives
    local, remote = (
        data.last_local_stream_created_timestamp,
        data.last_remote_stream_created_timestamp,
    )
    _tell_time(local if connection.is_client else remote, calls_of(connection).last_started)
    may_send, may_receive = connection.engine.windows
    data.local_flow_control_window.value = may_send
    data.remote_flow_control_window.value = may_receive


def _tell_security(message: channelz.Socket, connection: Connection) -> None:
    tls = connection.transport.tls
    suite = None if tls is None else tls.cipher()
    if tls is None or suite is None:
        return
    told, (name, version, _) = message.security.tls, suite
    if version == _READS_AS_STANDARD:
        told.standard_name = name
    else:
        told.other_name = name
    told.remote_certificate = tls.getpeercert(binary_form=True) or b""


def _tell_address(message: channelz.Address, name: Any) -> None:
    """`name` is what the socket module gives: a path, or host and port."""
    if not isinstance(name, tuple):
        message.uds_address.filename = _text(name)
        return
    host, port = name[:2]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    message.tcpip_address.ip_address = socket.inet_pton(family, host.partition("%")[0])
    message.tcpip_address.port = port


def _text(name: Any) -> str:
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # One that is no file begins with a zero byte, which is written so.
    text = name.decode(errors="replace").replace("\0", "@", 1) if isinstance(name, bytes) else name
    return whole(text)


# -- all ---------------------------------------------------------------------------------------


def _tell_calls(
    data: channelz.ChannelData | channelz.ServerData, entry: Entry, calls: Tally
) -> None:
    data.calls_started = calls.started
    data.calls_succeeded = calls.succeeded
    data.calls_failed = calls.failed
    _tell_time(data.last_call_started_timestamp, calls.last_started)
    _tell_time(data.trace.creation_timestamp, entry.born)
    data.trace.num_events_logged = entry.logged
    for event in list(entry.events):
        told = data.trace.events.add(description=whole(event.text), severity=int(event.severity))
        _tell_time(told.timestamp, event.at)
        if event.child:
            told.subchannel_ref.subchannel_id = event.child


def _tell_time(field: Any, unix: float) -> None:
    field.SetInParent()
    field.seconds, field.nanos = divmod(int(unix * 1e9), 10**9)
