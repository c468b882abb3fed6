"""What each instance of a mesh has to do, asked of the instances while somebody wants to know."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.client.channel import Channel
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.client.endpoint import Endpoint
from meshtrio.messages import load
from meshtrio.registry import Registry
from meshtrio.services.attending import SMALL, Key, attend, channel_to_instance, ready
from meshtrio.structured import open_nursery_of_one

_SERVICE = load.DESCRIPTOR.services_by_name["Load"]
_INTERVAL = 0.5
"""Seconds between two reports."""
_LEAST_INTERVAL = 0.2
"""The same of a plugin that does not keep to it."""
_PATIENCE = 1.0
"""Seconds that instances are waited for which are to give their first report."""


class Loads:
    """One watch on each instance that is ready, between the first who wants it and the last."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._wanted = 0
        self._turned = trio.lowlevel.ParkingLot()
        """Somebody wants them, nobody does any more, or an instance has answered."""
        self._watched: dict[Key, _Watched] = {}

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Have the instances asked during the block."""
        self._wanted += 1
        if self._wanted == 1:
            self._turned.unpark_all()
        try:
            yield
        finally:
            self._wanted -= 1
            if not self._wanted:
                self._turned.unpark_all()

    async def complete(self) -> None:
        """Wait until every instance that is ready now has answered, but not for long."""
        there = ready(self._registry)
        with trio.move_on_after(_PATIENCE):
            while any(key not in self._watched for key in there) or any(
                not watched.answered for watched in self._watched.values()
            ):
                await self._turned.park()

    def of(self, plugin: str, instance: int) -> Any:
        """Its last report; None where there is none, or it does not tell."""
        watched = self._watched.get((f"plugin.{plugin}", instance))
        return None if watched is None else watched.report

    async def run(self) -> None:
        """Ask while it is wanted, until cancelled."""
        while True:
            while not self._wanted:
                await self._turned.park()
            async with open_nursery_of_one() as nursery:
                nursery.start_soon(attend, self._registry, self._watch)
                while self._wanted:
                    await self._turned.park()
                nursery.cancel_scope.cancel()

    async def _watch(self, key: Key, endpoint: Endpoint) -> None:
        watched = self._watched[key] = _Watched()
        try:
            async with channel_to_instance(endpoint, SMALL) as channel:
                await self._follow(channel, watched)
        finally:
            # Its successor may be watched already.
            if self._watched.get(key) is watched:
                del self._watched[key]

    async def _follow(self, channel: Channel, watched: _Watched) -> None:
        stub, request = DynamicStub(channel, _SERVICE), load.WatchLoadRequest(interval=_INTERVAL)
        while True:
            try:
                async for report in stub.Watch(request):
                    watched.report = _sound(report)
                    self._note_answer(watched)
                    # One that does not keep to the interval waits for its window.
                    await trio.sleep(_LEAST_INTERVAL)
            except purerpc.UnimplementedError:
                self._note_answer(watched)
                await trio.sleep_forever()
            except purerpc.RpcFailedError:
                watched.report = None
                self._note_answer(watched)
            await trio.sleep(_INTERVAL)

    def _note_answer(self, watched: _Watched) -> None:
        if not watched.answered:
            watched.answered = True
            self._turned.unpark_all()


def _sound(report: Any) -> Any:
    """A report without what it cannot mean: times that are none, and unknown fields."""
    found = load.LoadReport(
        started=report.started,
        ended=report.ended,
        failed=report.failed,
        in_flight=report.in_flight,
    )
    for name in ("median", "p99"):
        seconds = getattr(report, name)
        if report.HasField(name) and 0 <= seconds < math.inf:
            setattr(found, name, seconds)
    return found


@attrs.define(eq=False)
class _Watched:
    """An instance that is asked."""

    answered: bool = False
    """It has said how it is, or that it does not tell."""
    report: Any = None
