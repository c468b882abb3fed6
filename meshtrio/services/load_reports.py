"""The load of every instance, read from the instances while there is a subscriber."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import load
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.services import instances
from meshtrio.services.method_statistics import MethodCollector, sanitize_methods
from meshtrio.util.concurrency import open_collapsing_nursery

_WATCH_METHOD = method_from_descriptor(load.DESCRIPTOR.services_by_name["Load"].methods[0])
_REPORT_INTERVAL = 0.5
"""Requested seconds between two reports of an instance."""
_LONG_REPORT_INTERVAL = 2.0
"""The same, if no subscriber needs them more often: reading those of 200 instances takes 1 % of a
core then, instead of 4 %."""
_MIN_REPORT_INTERVAL = 0.2
"""Minimum seconds between two reports of an instance that does not keep to the interval."""
_MAX_METHODS_SIZE = 256 * 1024
"""Maximum bytes of a report with methods: about 600 for each that has calls of all durations."""
_FIRST_REPORT_TIMEOUT = 1.0
"""Timeout for an instance's first report, in seconds."""


class LoadReports:
    """Reads meshtrio.v1.Load of each ready instance while there is a subscriber."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._intervals: list[float] = []
        """Of each subscriber, the seconds after which it reads the reports again."""
        self._collectors: list[MethodCollector] = []
        """Those of subscribers that have asked for methods."""
        self._changed = trio.lowlevel.ParkingLot()
        """Unparked when the number of subscribers changes, and when an instance has responded."""
        self._reports: dict[str, Any] = {}
        """The last `LoadReport`, without its methods, by endpoint id; None for an instance that
        gave none."""
        self._in_flight: dict[str, Mapping[str, int]] = {}
        """Calls in flight by method, by endpoint id, as last reported."""

    @contextmanager
    def subscribe(
        self, collector: MethodCollector | None = None, *, interval: float = 0.0
    ) -> Iterator[None]:
        """Read the reports during the block.

        Args:
            collector: Is given the methods, if any.
            interval: Seconds after which the caller reads them again.
        """
        self._intervals.append(interval)
        if collector is not None:
            self._collectors.append(collector)
        self._changed.unpark_all()
        try:
            yield
        finally:
            self._intervals.remove(interval)
            self._collectors = [each for each in self._collectors if each is not collector]
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

    def get_in_flight(self) -> dict[instances.InstanceKey, Mapping[str, int]]:
        """Return the calls in flight of each instance by method, as last reported."""
        ready = self._get_endpoints()
        ids = {each.id for each in ready.values()}
        self._in_flight = {key: self._in_flight[key] for key in self._in_flight.keys() & ids}
        return {key: self._in_flight.get(endpoint.id, {}) for key, endpoint in ready.items()}

    def _get_endpoints(self) -> dict[instances.InstanceKey, Endpoint]:
        return instances.get_ready_endpoints(self._registry)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the reports whenever there is a subscriber, until cancelled."""
        task_status.started()
        while True:
            while not self._intervals:
                await self._changed.park()
            wanted = self._find_wanted()
            async with open_collapsing_nursery() as nursery:
                nursery.start_soon(self._read, *wanted)
                while self._intervals and self._find_wanted() == wanted:
                    await self._changed.park()
                nursery.cancel_scope.cancel()
            self._in_flight.clear()
            if not self._intervals:
                self._reports.clear()

    def _find_wanted(self) -> tuple[bool, float]:
        """Return whether methods are wanted, and how often reports are."""
        by_method = bool(self._collectors)
        # Counts of methods in one interval need reports that are more frequent than that.
        is_long = not by_method and min(self._intervals) >= _LONG_REPORT_INTERVAL
        return by_method, _LONG_REPORT_INTERVAL if is_long else _REPORT_INTERVAL

    async def _read(self, by_method: bool, interval: float) -> None:
        """Read the reports of each instance until cancelled."""
        await instances.read_from_each_instance(
            self._registry,
            _WATCH_METHOD,
            load.WatchLoadRequest(interval=interval, by_method=by_method),
            self._set_report,
            min_interval=_MIN_REPORT_INTERVAL,
            retry_delay=_REPORT_INTERVAL,
            max_message_size=_MAX_METHODS_SIZE if by_method else instances.MAX_SMALL_RESPONSE_SIZE,
        )

    async def _set_report(
        self, key: instances.InstanceKey, endpoint: Endpoint, report: Any
    ) -> None:
        is_first = endpoint.id not in self._reports
        is_report = not isinstance(report, instances.FailureKind)
        self._in_flight.pop(endpoint.id, None)
        if is_report and self._collectors:
            methods = sanitize_methods(report.methods)
            for collector in self._collectors:
                collector.add(key[0], methods)
            self._in_flight[endpoint.id] = {m.method: m.in_flight for m in methods if m.in_flight}
        if is_report:
            report.ClearField("methods")
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
