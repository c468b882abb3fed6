"""A view of the keys with a prefix, kept by `watch_prefix` as a caller keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from meshtrio.etcd import EtcdClient, LeaseKeeper, PrefixChange, WatchStatus

VIEW_TIMEOUT = 60.0
"""Seconds for a view to become what it should be, on a machine that is busy."""


def apply_change(keys: dict[str, bytes], change: PrefixChange) -> None:
    """Change keys and values as a PrefixChange says."""
    if change.is_snapshot:
        keys.clear()
    keys.update((each.key, each.value) for each in change.puts)
    for key in change.deletes:
        keys.pop(key, None)


class EtcdView:
    """Keys and values, the changes that led to them, and the statuses."""

    def __init__(self) -> None:
        self.keys: dict[str, bytes] = {}
        self.changes: list[PrefixChange] = []
        self.statuses: list[WatchStatus] = []
        self._changed = trio.Event()

    def on_change(self, change: PrefixChange) -> None:
        if self.changes and not change.is_snapshot:
            assert change.revision > self.changes[-1].revision
        self.changes.append(change)
        apply_change(self.keys, change)
        self._wake()

    def on_status(self, status: WatchStatus) -> None:
        self.statuses.append(status)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    @property
    def snapshots(self) -> list[PrefixChange]:
        return [each for each in self.changes if each.is_snapshot]

    @property
    def problems(self) -> list[str]:
        return [each.problem for each in self.statuses if each.problem]

    @property
    def is_connected(self) -> bool:
        return bool(self.statuses) and self.statuses[-1].connected

    async def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition is true after a change or a status."""
        with trio.move_on_after(VIEW_TIMEOUT):
            while not condition():
                await self._changed.wait()
            return
        raise AssertionError(f"{sorted(self.keys)[:20]}, {self.statuses[-1:]}")

    async def wait_for(self, keys: dict[str, bytes]) -> None:
        """Wait until the view has these keys and values."""
        await self.wait_until(lambda: self.keys == keys)


@asynccontextmanager
async def follow_prefix(client: EtcdClient, prefix: str) -> AsyncIterator[EtcdView]:
    """Keep a view during the block, which is entered at once."""
    view = EtcdView()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.watch_prefix, prefix, view.on_change, view.on_status)
        yield view
        nursery.cancel_scope.cancel()


async def poll_until(condition: Callable[[], object]) -> None:
    """Wait for what is counted, or depends on a clock, and is reported to no one."""
    with trio.fail_after(VIEW_TIMEOUT):
        while not condition():  # noqa: ASYNC110 - there is no event
            await trio.sleep(0.01)


async def wait_for_renewals(keeper: LeaseKeeper, count: int) -> None:
    """Wait until a lease was renewed `count` times."""
    await poll_until(lambda: keeper.renewals >= count)
