"""meshtrio.v1.Load: what a plugin has to do, told by itself."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import purerpc
import trio

from meshtrio.messages import load
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server_load import LoadRecorder

_MIN_INTERVAL = 0.1


def parse_interval(request: Any) -> float:
    """Seconds from one report to the next. Raises InvalidArgumentError."""
    interval: float = request.interval or 1.0
    if not 0 <= interval < math.inf:
        raise purerpc.InvalidArgumentError(f"an interval of {interval} s cannot be")
    return max(interval, _MIN_INTERVAL)


class LoadServicer:
    """Tells of one server, until it is about to stop: a watch must not hold that up."""

    def __init__(self, load_recorder: LoadRecorder, shutdown_started: trio.Event) -> None:
        self._load_recorder = load_recorder
        self._shutdown_started = shutdown_started
        self.service = service_from_descriptor(load.DESCRIPTOR.services_by_name["Load"], self)

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802 - the method's name
        interval = parse_interval(request)
        with self._load_recorder.record_durations() as samples:
            while not self._shutdown_started.is_set():
                report = self._make_report(samples)
                samples.clear()
                yield report
                with trio.move_on_after(interval):
                    await self._shutdown_started.wait()
        raise purerpc.UnavailableError("the server is shutting down")

    def _make_report(self, samples: list[float]) -> Any:
        meter = self._load_recorder
        times = sorted(samples)
        return load.LoadReport(
            started=meter.started,
            ended=meter.ended,
            failed=meter.failed,
            in_flight=meter.started - meter.ended,
            median=times[len(times) // 2] if times else None,
            p99=times[len(times) * 99 // 100] if times else None,
        )
