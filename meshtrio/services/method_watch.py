"""The calls of plugins and of the gateway by method, while one client watches them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import trio

from meshtrio.rpc.method_load import MethodTracker
from meshtrio.services.load_reports import LoadReports
from meshtrio.services.method_statistics import (
    GatewayKey,
    MethodCollector,
    make_gateway_statistics,
)


class GatewayState(Protocol):
    """What the control API shows of the gateway."""

    def watch_calls(self) -> AbstractContextManager[MethodTracker[GatewayKey]]:
        """Count the gateway's calls by method during the block."""

    def list_balancing(self, services: Sequence[str]) -> Iterable[Any]:
        """Return the ServiceBalancing messages of these services, in their order."""


class MethodWatch:
    """The calls since the last time that they were added to a Statistics message."""

    def __init__(
        self,
        reports: LoadReports,
        collector: MethodCollector,
        gateway: MethodTracker[GatewayKey],
    ) -> None:
        self._reports = reports
        self._collector = collector
        self._gateway = gateway
        self._last_time: float | None = None

    def add_to(self, statistics: Any) -> None:
        """Set `methods`, `gateway` and `interval`; nothing the first time."""
        now = trio.current_time()
        services = [f"plugin.{plugin.name}" for plugin in statistics.plugins]
        methods = list(self._collector.take(self._reports.get_in_flight(), services))
        gateway = list(make_gateway_statistics(self._gateway))
        if self._last_time is not None:
            statistics.methods.extend(methods)
            statistics.gateway.extend(gateway)
            statistics.interval = now - self._last_time
        self._last_time = now


@contextmanager
def watch_methods(reports: LoadReports, gateway: GatewayState) -> Iterator[MethodWatch]:
    """Have calls counted by method during the block."""
    collector = MethodCollector()
    with reports.subscribe(collector), gateway.watch_calls() as tracker:
        yield MethodWatch(reports, collector, tracker)
