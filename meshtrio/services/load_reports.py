"""The load of every instance, read from the instances while there is a subscriber."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from meshtrio.client.channel import open_endpoint_channel
from meshtrio.client.multicallable import DynamicStub
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import load
from meshtrio.services import instances
from meshtrio.util.concurrency import open_collapsing_nursery

_SERVICE = load.DESCRIPTOR.services_by_name["Load"]
_REPORT_INTERVAL = 0.5
"""Requested seconds between two reports of an instance."""
_MIN_REPORT_INTERVAL = 0.2
"""Minimum seconds between two reports of an instance that does not keep to the interval."""
_FIRST_REPORT_TIMEOUT = 1.0
"""Timeout for an instance's first report, in seconds."""


class LoadReports:
    """Watches meshtrio.v1.Load of each ready instance while there is a subscriber."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._subscriber_count = 0
        self._changed = trio.lowlevel.ParkingLot()
        """Unparked for the first and the last subscriber, and when an instance has responded."""
        self._watched: dict[instances.InstanceKey, Endpoint] = {}
        self._reports: dict[instances.InstanceKey, Any] = {}
        """The last `LoadReport` of each watched instance that has responded; None for a failure."""

    @contextmanager
    def subscribe(self) -> Iterator[None]:
        """Watch the instances during the block."""
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
        """Wait until each instance that is ready now has responded, for a second at most."""
        ready = instances.get_ready_endpoints(self._registry).keys()
        with trio.move_on_after(_FIRST_REPORT_TIMEOUT):
            while (ready | self._watched.keys()) - self._reports.keys():
                await self._changed.park()

    def get(self, plugin: str, instance: int) -> Any:
        """Return the last report of an instance; None if there is none."""
        return self._reports.get((f"plugin.{plugin}", instance))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the instances whenever there is a subscriber, until cancelled."""
        task_status.started()
        while True:
            while not self._subscriber_count:
                await self._changed.park()
            async with open_collapsing_nursery() as nursery:
                nursery.start_soon(
                    instances.for_each_ready_instance, self._registry, self._watch_instance
                )
                while self._subscriber_count:
                    await self._changed.park()
                nursery.cancel_scope.cancel()

    async def _watch_instance(self, key: instances.InstanceKey, endpoint: Endpoint) -> None:
        request = load.WatchLoadRequest(interval=_REPORT_INTERVAL)

        def set_report(report: Any) -> None:
            if self._watched.get(key) is endpoint:
                is_first = key not in self._reports
                self._reports[key] = report
                if is_first:
                    self._changed.unpark_all()

        async def on_report(report: Any) -> None:
            set_report(_sanitize_report(report))

        self._watched[key] = endpoint
        self._reports.pop(key, None)
        try:
            async with open_endpoint_channel(
                endpoint, traced=False, max_receive_message_length=instances.MAX_SMALL_RESPONSE_SIZE
            ) as channel:
                await instances.read_stream_repeatedly(
                    lambda: DynamicStub(channel, _SERVICE).Watch(request),
                    on_report,
                    min_interval=_MIN_REPORT_INTERVAL,
                    retry_delay=_REPORT_INTERVAL,
                    on_failure=lambda: set_report(None),
                )
                # UNIMPLEMENTED is a response, too, which counts while the instance is there.
                set_report(self._reports.get(key))
                await trio.sleep_forever()
        finally:
            # The watch of the instance's next process may have started already.
            if self._watched.get(key) is endpoint:
                del self._watched[key]
                self._reports.pop(key, None)


def _sanitize_report(report: Any) -> Any:
    """Copy a report without unknown fields, and without times that are negative or not finite."""
    sanitized = load.LoadReport(
        started=report.started, ended=report.ended, failed=report.failed, in_flight=report.in_flight
    )
    for name in ("median", "p99"):
        seconds = getattr(report, name)
        if report.HasField(name) and 0 <= seconds < math.inf:
            setattr(sanitized, name, seconds)
    return sanitized
