"""Calls by plugin and method, as one watcher of a mesh's statistics gets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from meshtrio.grpc.status import status_code_name
from meshtrio.messages import control
from meshtrio.rpc.method_load import (
    BUCKET_COUNT,
    MAX_METHOD_IDLE_TIME,
    MAX_METHOD_LENGTH,
    MAX_METHODS,
    OTHER_METHOD,
    MethodLoad,
    MethodTracker,
    compute_quantiles,
)
from meshtrio.services.instances import InstanceKey

_PLUGIN_PREFIX = "plugin."
MAX_GATEWAY_METHODS = 200
"""Maximum number of methods of the gateway that are counted each; calls of others are "other"."""
_MAX_STATUSES = 17
_MAX_COUNT = 1 << 40
"""Maximum number of calls in a report of an instance: sums of these fit into 64 bits."""
GatewayKey = tuple[str, str]
"""The service of the mesh, "" if unknown, and the path of the method without its first slash."""


def make_gateway_tracker() -> MethodTracker[GatewayKey]:
    """Make a tracker of the gateway's calls for one watcher."""
    return MethodTracker(
        ("", OTHER_METHOD), MAX_GATEWAY_METHODS, max_idle_time=MAX_METHOD_IDLE_TIME
    )


class MethodCollector:
    """Adds up the reports of instances, by service of the mesh and method."""

    def __init__(self) -> None:
        self._trackers: dict[str, MethodTracker[str]] = {}

    def add(self, service: str, methods: Iterable[Any]) -> None:
        """Add the methods of a report of an instance, which may be anything."""
        tracker = self._trackers.get(service)
        if tracker is None:
            # As many methods as each instance has: they are the same for all.
            tracker = MethodTracker(OTHER_METHOD, max_idle_time=MAX_METHOD_IDLE_TIME)
            self._trackers[service] = tracker
        for each in methods:
            load, latency = tracker.get(each.method, is_known=True), each.latency
            counts = {bucket: count for bucket, count in enumerate(latency) if count}
            load.add(each.started, each.ended, counts)

    def take(
        self, in_flight: Mapping[InstanceKey, Mapping[str, int]], services: Iterable[str]
    ) -> Iterator[Any]:
        """Yield the statistics since the last time.

        Args:
            in_flight: Calls in flight of each instance by method, as it has reported last.
            services: Those that are wanted, in the order of the result.
        """
        for tracker in self._trackers.values():
            tracker.reset_in_flight()
        for (service, _), methods in in_flight.items():
            if (found := self._trackers.get(service)) is not None:
                for method, count in methods.items():
                    found.get(method, is_known=True).in_flight += count
        self._trackers = {n: self._trackers[n] for n in services if n in self._trackers}
        for name, tracker in self._trackers.items():
            for method, load in sorted(tracker.take(), key=_sort_key):
                yield make_method_statistics(name, method, load)


def _sort_key(found: tuple[str, MethodLoad]) -> tuple[bool, str]:
    return found[0] == OTHER_METHOD, found[0]


def make_gateway_statistics(tracker: MethodTracker[GatewayKey]) -> Iterator[Any]:
    """Yield the statistics of the gateway's calls since the last time."""
    taken = sorted(tracker.take(), key=lambda found: (found[0] == tracker.other, found[0]))
    for (target, path), load in taken:
        yield make_method_statistics(target, path, load)


def make_method_statistics(target: str, path: str, load: MethodLoad) -> Any:
    """Make the message for the calls of a method; `path` is without its first slash."""
    service, _, method = path.rpartition("/")
    ended: dict[str, int] = {}
    for code, count in load.ended.items():
        name = status_code_name(code)
        ended[name] = ended.get(name, 0) + count
    p50, p95, p99 = compute_quantiles(load.latency, (0.5, 0.95, 0.99))
    is_plugin = target.startswith(_PLUGIN_PREFIX)
    return control.MethodStatistics(
        plugin=target.removeprefix(_PLUGIN_PREFIX) if is_plugin else "",
        target=target,
        service=service,
        method=method,
        started=load.started,
        in_flight=load.in_flight + load.earlier,
        ended=ended,
        p50=p50,
        p95=p95,
        p99=p99,
    )


def sanitize_methods(methods: Any) -> list[Any]:
    """Return what can be used of the methods that an instance has reported, in bounds."""
    found = [each for each in methods if _is_usable(each)][: MAX_METHODS + 1]
    for each in found:
        del each.latency[BUCKET_COUNT:]
    return found


def _is_usable(method: Any) -> bool:
    name, counts = method.method, (method.started, method.in_flight, *method.ended.values())
    is_name = 0 < len(name) <= MAX_METHOD_LENGTH and name.isprintable()
    return is_name and len(method.ended) <= _MAX_STATUSES and max(counts) <= _MAX_COUNT
