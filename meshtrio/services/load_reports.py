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
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import load
from meshtrio.services.instances import (
    MAX_SMALL_RESPONSE_SIZE,
    InstanceKey,
    for_each_ready_instance,
    get_ready_endpoints,
    open_instance_channel,
)
from meshtrio.util.concurrency import open_collapsing_nursery

_SERVICE = load.DESCRIPTOR.services_by_name["Load"]
_REPORT_INTERVAL = 0.5
"""Seconds between two reports."""
_MIN_REPORT_INTERVAL = 0.2
"""The same of a plugin that does not keep to it."""
_FIRST_REPORT_TIMEOUT = 1.0
"""Seconds that instances are waited for which are to give their first report."""


class LoadReports:
    """One watch on each instance that is ready, between the first who wants it and the last."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._subscriber_count = 0
        self._changed = trio.lowlevel.ParkingLot()
        """Somebody wants them, nobody does any more, or an instance has answered."""
        self._instances: dict[InstanceKey, _WatchedInstance] = {}

    @contextmanager
    def subscribe(self) -> Iterator[None]:
        """Have the instances asked during the block."""
        self._subscriber_count += 1
        if self._subscriber_count == 1:
            self._changed.unpark_all()
        try:
            yield
        finally:
            self._subscriber_count -= 1
            if not self._subscriber_count:
                self._changed.unpark_all()

    async def wait_complete(self) -> None:
        """Wait until every instance that is ready now has answered, but not for long."""
        there = get_ready_endpoints(self._registry)
        with trio.move_on_after(_FIRST_REPORT_TIMEOUT):
            while any(key not in self._instances for key in there) or any(
                not watched.has_responded for watched in self._instances.values()
            ):
                await self._changed.park()

    def get(self, plugin: str, instance: int) -> Any:
        """Its last report; None where there is none, or it does not tell."""
        watched = self._instances.get((f"plugin.{plugin}", instance))
        return None if watched is None else watched.report

    async def run(self) -> None:
        """Ask while it is wanted, until cancelled."""
        while True:
            while not self._subscriber_count:
                await self._changed.park()
            async with open_collapsing_nursery() as nursery:
                nursery.start_soon(for_each_ready_instance, self._registry, self._watch_instance)
                while self._subscriber_count:
                    await self._changed.park()
                nursery.cancel_scope.cancel()

    async def _watch_instance(self, key: InstanceKey, endpoint: Endpoint) -> None:
        watched = self._instances[key] = _WatchedInstance()
        try:
            async with open_instance_channel(endpoint, MAX_SMALL_RESPONSE_SIZE) as channel:
                await self._read_reports(channel, watched)
        finally:
            # Its successor may be watched already.
            if self._instances.get(key) is watched:
                del self._instances[key]

    async def _read_reports(self, channel: Channel, instance: _WatchedInstance) -> None:
        stub, request = (
            DynamicStub(channel, _SERVICE),
            load.WatchLoadRequest(interval=_REPORT_INTERVAL),
        )
        while True:
            try:
                async with stub.Watch(request) as call:
                    async for report in call:
                        instance.report = _sanitize_report(report)
                        self._mark_responded(instance)
                        # One that does not keep to the interval waits for its window.
                        await trio.sleep(_MIN_REPORT_INTERVAL)
            except purerpc.UnimplementedError:
                self._mark_responded(instance)
                await trio.sleep_forever()
            except purerpc.RpcFailedError:
                instance.report = None
                self._mark_responded(instance)
            await trio.sleep(_REPORT_INTERVAL)

    def _mark_responded(self, instance: _WatchedInstance) -> None:
        if not instance.has_responded:
            instance.has_responded = True
            self._changed.unpark_all()


def _sanitize_report(report: Any) -> Any:
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
class _WatchedInstance:
    """An instance that is asked."""

    has_responded: bool = False
    """It has said how it is, or that it does not tell."""
    report: Any = None
