"""The lists of what there is: numbers, order, and that nothing is kept alive."""

from __future__ import annotations

import gc
import socket

from meshtrio.rpc import census
from meshtrio.rpc.census import Entry, Roll, Severity
from meshtrio.rpc.server import Server
from meshtrio.structured import running


class Thing:
    """Something to be listed."""

    def __init__(self) -> None:
        self.number = census.next_number()


def test_things_are_listed_by_their_numbers_until_they_leave() -> None:
    roll = Roll()
    first, second, third = Thing(), Thing(), Thing()
    assert first.number < second.number < third.number
    for thing in (third, first, second):
        roll.enter(thing.number, thing)
    assert list(roll.since(0)) == [first, second, third]
    assert list(roll.since(second.number)) == [second, third]
    assert list(roll.since(third.number + 1)) == []
    roll.leave(second.number)
    roll.leave(second.number)
    assert (roll.find(second.number), roll.find(first.number)) == (None, first)
    assert list(roll.since(0)) == [first, third]


def test_a_list_keeps_nothing_alive() -> None:
    roll, thing = Roll(), Thing()
    number = thing.number
    roll.enter(number, thing)
    del thing
    gc.collect()
    assert roll.find(number) is None
    assert roll._here == {}


def test_of_events_the_latest_are_kept() -> None:
    entry = Entry()
    for number in range(100):
        entry.note(str(number), Severity.WARNING)
    assert entry.logged == 100
    assert [event.text for event in entry.events][::31] == ["68", "99"]


async def test_a_server_is_listed_while_it_serves() -> None:
    server = Server()
    number = server.entry.number
    assert census.SERVERS.find(number) is None
    async with running(server.serve, socket.create_server(("127.0.0.1", 0))):
        assert census.SERVERS.find(number) is server
        door = server.door
        assert door is not None
        assert census.SOCKETS.find(door.number) is door
        assert not door.closed
    assert door.closed
    assert census.SERVERS.find(number) is census.SOCKETS.find(door.number) is None
