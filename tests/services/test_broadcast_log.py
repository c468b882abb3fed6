"""`BroadcastLog`, `EventLog` and `ReaderThrottle`: what is kept, and what readers have missed."""

from __future__ import annotations

from collections.abc import Callable

import trio
import trio.testing

from meshtrio.services.broadcast_log import BroadcastLog, ReaderThrottle
from meshtrio.services.event_log import EventLog
from meshtrio.supervisor import events

ALL = frozenset({"a", "b"}).__contains__


def test_entries_are_numbered_from_1_and_bounded() -> None:
    log: BroadcastLog[str] = BroadcastLog(3)
    for word in "abcde":
        log.append(word)
    assert log.last_number == 5
    assert log.read_after(0) == ([(3, "c"), (4, "d"), (5, "e")], 2)
    assert log.read_after(3) == ([(4, "d"), (5, "e")], 0)
    assert log.read_after(5) == ([], 0)


def test_their_size_is_bounded_too() -> None:
    log: BroadcastLog[str] = BroadcastLog(100, 10, len)
    for word in ("aaaa", "bbbb", "cccc", "dddddddddddddddd", "e"):
        log.append(word)
    assert log.read_after(0) == ([(5, "e")], 4)


async def test_a_reader_waits_for_what_is_new(autojump_clock: trio.testing.MockClock) -> None:
    log: BroadcastLog[str] = BroadcastLog(10)
    log.append("a")
    await log.wait_after(0)
    with trio.move_on_after(1) as scope:
        await log.wait_after(1)
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.wait_after, 1)
        await trio.testing.wait_all_tasks_blocked()
        log.append("b")


async def test_the_more_readers_the_longer_each_rests(
    autojump_clock: trio.testing.MockClock,
) -> None:
    throttle = ReaderThrottle()
    took = []
    for readers in (1, 1000):
        for _ in range(readers - throttle.readers):
            throttle.__enter__()
        began = trio.current_time()
        await throttle.wait()
        took.append(trio.current_time() - began)
    assert took[0] < 0.001
    assert 0.1 < took[1] < 1


def written(plugin: str, text: str) -> events.LineWritten:
    return events.LineWritten(plugin, 0, pid=1, stream="stdout", line=text, truncated_bytes=0)


async def test_happenings_begin_with_the_last_ones_of_those_asked_for() -> None:
    event_log = EventLog()
    for number in range(3):
        event_log.on_event(events.Starting("a", number, pid=1))
        event_log.on_event(events.Starting("b", number, pid=1))
    event_log.on_event(written("a", "no event"))

    async def last(wanted: Callable[[str], bool], count: int) -> list[tuple[int, str, int]]:
        found = event_log.read_events(wanted, count, follow=False)
        return [(n, each.event.plugin, each.event.instance) async for n, each, _ in found]

    assert await last({"a"}.__contains__, 2) == [(3, "a", 1), (5, "a", 2)]
    assert await last(ALL, 1) == [(6, "b", 2)]
    assert await last(ALL, 0) == []


async def test_who_follows_is_told_how_much_was_missed() -> None:
    event_log = EventLog()
    followed = event_log.read_events(ALL, 0, follow=True)
    got: list[tuple[int, int]] = []

    async def follow() -> None:
        async for number, _, missed in followed:
            got.append((number, missed))
            if number == 3000:
                break

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        event_log.on_event(events.Starting("a", 0, pid=1))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2999):
            event_log.on_event(events.Starting("a", 0, pid=1))
    await followed.aclose()
    assert got[0] == (1, 0)
    number, missed = got[1]
    assert missed == number - 2 > 0
    assert len(got) + missed == 3000


async def test_lines_are_kept_for_who_follows_them_only() -> None:
    event_log = EventLog()
    event_log.on_event(written("a", "nobody reads this"))
    got = []
    with event_log.capture_lines() as position:
        event_log.on_event(written("a", "one"))
        event_log.on_event(written("c", "of another plugin"))
        event_log.on_event(events.LinesDropped("b", 0, pid=1, stream="stderr", count=9))
        found = event_log.read_lines(ALL, position)
        async for _, writing, missed in found:
            got.append((writing.plugin, writing.line.text, writing.dropped, missed))
            if len(got) == 2:
                break
        await found.aclose()
    assert got == [("a", "one", 0, 0), ("b", "", 9, 0)]
