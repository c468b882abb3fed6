"""The load of every instance, read from the instances while there is a subscriber."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio

from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import load
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.services import instances
from meshtrio.util.concurrency import open_collapsing_nursery

_WATCH_METHOD = method_from_descriptor(load.DESCRIPTOR.services_by_name["Load"].methods[0])
_REPORT_INTERVAL = 0.5
"""Requested seconds between two reports of an instance."""
_MIN_REPORT_INTERVAL = 0.2
"""Minimum seconds between two reports of an instance that does not keep to the interval."""
_FIRST_REPORT_TIMEOUT = 1.0
"""Timeout for an instance's first report, in seconds."""


class LoadReports:
    """Reads meshtrio.v1.Load of each ready instance while there is a subscriber."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._subscriber_count = 0
        self._changed = trio.lowlevel.ParkingLot()
        """Unparked when the number of subscribers changes, and when an instance has responded."""
        self._reports: dict[str, Any] = {}
        """The last `LoadReport` by endpoint id; None for an instance that gave none."""

    @contextmanager
    def subscribe(self) -> Iterator[None]:
        """Read the reports during the block."""
        self._subscriber_count += 1
        self._changed.unpark_all()
        try:
            yield
        finally:
            self._subscriber_count -= 1
            self._changed.unpark_all()

    async def wait_complete(self) -> None:
        """Wait until each ready instance has responded, for a second at most."""
        with trio.move_on_after(_FIRST_REPORT_TIMEOUT):
            while not self._reports.keys() >= {each.id for each in self._get_endpoints().values()}:
                await self._changed.park()

    def get_all(self) -> dict[instances.InstanceKey, Any]:
        """Return the last report of each instance; None, or no entry, if there is none."""
        ready = self._get_endpoints()
        ids = {each.id for each in ready.values()}
        self._reports = {key: self._reports[key] for key in self._reports.keys() & ids}
        return {key: self._reports.get(endpoint.id) for key, endpoint in ready.items()}

    def _get_endpoints(self) -> dict[instances.InstanceKey, Endpoint]:
        return instances.get_ready_endpoints(self._registry)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the reports whenever there is a subscriber, until cancelled."""
        read_reports = partial(
            instances.read_from_each_instance,
            self._registry,
            _WATCH_METHOD,
            load.WatchLoadRequest(interval=_REPORT_INTERVAL),
            self._set_report,
            min_interval=_MIN_REPORT_INTERVAL,
            retry_delay=_REPORT_INTERVAL,
            max_message_size=instances.MAX_SMALL_RESPONSE_SIZE,
        )
        task_status.started()
        while True:
            while not self._subscriber_count:
                await self._changed.park()
            async with open_collapsing_nursery() as nursery:
                nursery.start_soon(read_reports)
                while self._subscriber_count:
                    await self._changed.park()
                nursery.cancel_scope.cancel()
            self._reports.clear()

    async def _set_report(self, _: instances.InstanceKey, endpoint: Endpoint, report: Any) -> None:
        is_first = endpoint.id not in self._reports
        is_report = not isinstance(report, instances.FailureKind)
        self._reports[endpoint.id] = _sanitize_report(report) if is_report else None
        if is_first:
            self._changed.unpark_all()


def _sanitize_report(report: Any) -> Any:
    """Copy a report without unknown fields, and without times that are negative or not finite.

    A copy, since the memory of fields that are discarded is not freed before the message is.
    """
    report.DiscardUnknownFields()
    for name in ("median", "p99"):
        if not 0 <= getattr(report, name) < math.inf:
            report.ClearField(name)
    return load.LoadReport.FromString(report.SerializeToString())
