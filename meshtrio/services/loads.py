"""What each instance of a mesh has to do, asked of the instances while somebody wants to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.client.channel import open_channel
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.client.endpoint import Endpoint, ServiceState
from meshtrio.messages import load
from meshtrio.registry import Registry
from meshtrio.structured import open_nursery_of_one

_SERVICE = load.DESCRIPTOR.services_by_name["Load"]
_INTERVAL = 0.5
"""Seconds between two reports, and between two looks for instances that are new or gone."""
_PATIENCE = 1.0
"""Seconds that instances are waited for which are to give their first report."""


class Loads:
    """One watch on each instance that is ready, between the first who wants it and the last."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._wanted = 0
        self._turned = trio.lowlevel.ParkingLot()
        """Somebody wants them, nobody does any more, or an instance has answered."""
        self._watched: dict[tuple[str, int], _Watched] = {}

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
        ready = self._ready()
        with trio.move_on_after(_PATIENCE):
            while any(key not in self._watched for key in ready) or any(
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
                while self._wanted:
                    self._follow(nursery)
                    with trio.move_on_after(_INTERVAL):
                        while self._wanted:
                            await self._turned.park()
                nursery.cancel_scope.cancel()
            self._watched.clear()

    def _ready(self) -> dict[tuple[str, int], Endpoint]:
        """The instances that are ready, and where."""
        return {
            (service, endpoint.instance): endpoint
            for service in self._registry.services()
            for endpoint in self._registry.resolve(service).endpoints
            if endpoint.pid
        }

    def _follow(self, nursery: trio.Nursery) -> None:
        """Watch those that are ready now, and no others."""
        ready = self._ready()
        for key, watched in list(self._watched.items()):
            if ready.get(key) != watched.endpoint:
                watched.scope.cancel()
                del self._watched[key]
        for key, endpoint in ready.items():
            if key not in self._watched:
                self._watched[key] = _Watched(endpoint)
                nursery.start_soon(self._watch, self._watched[key])

    async def _watch(self, watched: _Watched) -> None:
        request = load.WatchLoadRequest(interval=_INTERVAL)

        async def feed(update: Callable[[ServiceState], None]) -> None:
            update(ServiceState((watched.endpoint,)))

        with watched.scope:
            async with open_channel(
                watched.endpoint.id, feed, obituary_wait=0, observed=False
            ) as channel:
                stub = DynamicStub(channel, _SERVICE)
                while True:
                    try:
                        async for watched.report in stub.Watch(request):
                            self._note_answer(watched)
                    except purerpc.UnimplementedError:
                        self._note_answer(watched)
                        return
                    except purerpc.RpcFailedError:
                        watched.report = None
                        self._note_answer(watched)
                    await trio.sleep(_INTERVAL)

    def _note_answer(self, watched: _Watched) -> None:
        if not watched.answered:
            watched.answered = True
            self._turned.unpark_all()


@attrs.define(eq=False)
class _Watched:
    """An instance that is asked."""

    endpoint: Endpoint
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    answered: bool = False
    """It has said how it is, or that it does not tell."""
    report: Any = None
