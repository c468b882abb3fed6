"""The channelz registry: identifiers, order, and that it keeps nothing alive."""

from __future__ import annotations

import gc
import socket

from meshtrio.rpc import channelz_registry
from meshtrio.rpc.channelz_registry import ChannelzTable, Severity, TraceNode
from meshtrio.rpc.server import Server
from meshtrio.util.concurrency import background_service


class RegisteredObject:
    """An object for the registry."""

    def __init__(self) -> None:
        self.number = channelz_registry.next_channelz_id()


def test_things_are_listed_by_their_numbers_until_they_leave() -> None:
    roll = ChannelzTable()
    first, second, third = RegisteredObject(), RegisteredObject(), RegisteredObject()
    assert first.number < second.number < third.number
    for thing in (third, first, second):
        roll[thing.number] = thing
    assert list(roll.iter_from(0)) == [first, second, third]
    assert list(roll.iter_from(second.number)) == [second, third]
    assert list(roll.iter_from(third.number + 1)) == []
    roll.pop(second.number, None)
    roll.pop(second.number, None)
    assert (roll.get(second.number), roll.get(first.number)) == (None, first)
    assert list(roll.iter_from(0)) == [first, third]


def test_a_list_keeps_nothing_alive() -> None:
    roll, thing = ChannelzTable(), RegisteredObject()
    number = thing.number
    roll[number] = thing
    del thing
    gc.collect()
    assert roll.get(number) is None
    assert len(roll) == 0


def test_of_events_the_latest_are_kept() -> None:
    entry = TraceNode()
    for number in range(100):
        entry.add_event(str(number), Severity.WARNING)
    assert entry.events_logged == 100
    assert [event.description for event in entry.events][::31] == ["68", "99"]


async def test_a_server_is_listed_while_it_serves() -> None:
    server = Server()
    number = server.trace_node.channelz_id
    assert channelz_registry.SERVERS.get(number) is None
    async with background_service(server.serve, socket.create_server(("127.0.0.1", 0))):
        assert channelz_registry.SERVERS.get(number) is server
        listener = server.listen_socket
        assert listener is not None
        assert channelz_registry.SOCKETS.get(listener.channelz_id) is listener
        assert listener.sock.fileno() >= 0
        listener_number = listener.channelz_id
    assert listener.sock.fileno() < 0
    del listener
    assert (
        channelz_registry.SERVERS.get(number)
        is channelz_registry.SOCKETS.get(listener_number)
        is None
    )
