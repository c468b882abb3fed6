"""meshtrio.v1.Load: what a plugin has to do, told by itself."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import purerpc
import trio

from meshtrio.messages import load
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.meter import Meter

_SHORTEST_INTERVAL = 0.1


def interval_of(request: Any) -> float:
    """Seconds from one report to the next. Raises InvalidArgumentError."""
    interval: float = request.interval or 1.0
    if not 0 <= interval < math.inf:
        raise purerpc.InvalidArgumentError(f"an interval of {interval} s cannot be")
    return max(interval, _SHORTEST_INTERVAL)


class LoadServicer:
    """Tells of one server, until it is about to stop: a watch must not hold that up."""

    def __init__(self, meter: Meter, stopped: trio.Event) -> None:
        self._meter = meter
        self._stopped = stopped
        self.service = service_of(load.DESCRIPTOR.services_by_name["Load"], self)

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802 - the method's name
        interval = interval_of(request)
        with self._meter.timing() as samples:
            while not self._stopped.is_set():
                report = self._report(samples)
                samples.clear()
                yield report
                with trio.move_on_after(interval):
                    await self._stopped.wait()
        raise purerpc.UnavailableError("the server is shutting down")

    def _report(self, samples: list[float]) -> Any:
        meter = self._meter
        times = sorted(samples)
        return load.LoadReport(
            started=meter.started,
            ended=meter.ended,
            failed=meter.failed,
            in_flight=meter.started - meter.ended,
            median=times[len(times) // 2] if times else None,
            p99=times[len(times) * 99 // 100] if times else None,
        )
