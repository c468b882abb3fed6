"""A value with many watchers: each is told, few in one turn of the event loop."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from meshtrio.discovery.registry import LatestValue

WATCHERS = 1000


class TurnCounter(trio.abc.Instrument):
    """Notes how many tasks ran between two looks for I/O."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._now += 1
        self.most = max(self.most, self._now)

    def before_io_wait(self, timeout: float) -> None:
        self._now = 0


async def test_all_watchers_are_told_and_few_in_one_turn() -> None:
    value, counter = LatestValue(0), TurnCounter()
    told: list[int] = []

    async def watch() -> None:
        told.append(await value.wait_for_change(0))

    async with trio.open_nursery() as nursery:
        for _ in range(WATCHERS):
            nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(counter)
        value.value = 1
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(counter)
    assert told == [1] * WATCHERS
    assert counter.most == 32


async def test_changes_that_overtake_each_other_reach_all() -> None:
    """Also a change back to a value that some of the watchers have seen."""
    first, second = object(), object()
    value: LatestValue[object] = LatestValue(first)
    seen: list[object] = [None] * WATCHERS

    async def watch(number: int) -> None:
        while True:
            seen[number] = await value.wait_for_change(seen[number])

    async with trio.open_nursery() as nursery:
        for number in range(WATCHERS):
            nursery.start_soon(watch, number)
        await wait_all_tasks_blocked()
        for following in (second, first, second, first):
            value.value = following
            for _ in range(3):  # Some have been told by then, and wait again.
                await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        assert seen == [first] * WATCHERS
        nursery.cancel_scope.cancel()


async def test_a_watcher_that_is_cancelled_as_it_is_woken_wakes_the_next() -> None:
    value = LatestValue(0)
    scopes: list[trio.CancelScope] = []
    told: list[int] = []

    async def watch() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            told.append(await value.wait_for_change(0))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(WATCHERS):
            nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        value.value = 1
        for scope in scopes[::2]:
            scope.cancel()
        await wait_all_tasks_blocked()
    # Half of all, and of the other half those that had been woken.
    assert told == [1] * (WATCHERS // 2 + 32 // 2)


async def test_an_equal_value_wakes_nobody() -> None:
    value = LatestValue((1,))
    seen = value.value
    with trio.move_on_after(0) as scope:
        value.value = (value.value[0],)
        await value.wait_for_change(seen)
    assert scope.cancelled_caught
