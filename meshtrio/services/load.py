"""The meshtrio.v1.Load servicer: reports the load of its own server."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import purerpc
import trio

from meshtrio.messages import load
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.stats import LoadRecorder

if TYPE_CHECKING:
    from meshtrio.rpc.method_load import MethodTracker

_MIN_INTERVAL = 0.1
"""Minimum seconds between two reports."""


def parse_interval(request: Any) -> float:
    """Return the requested seconds between two reports. Raises InvalidArgumentError."""
    interval: float = request.interval or 1.0
    if not 0 <= interval < math.inf:
        text = f"interval must be positive and finite, got {interval:g} s"
        raise purerpc.InvalidArgumentError(text)
    return max(interval, _MIN_INTERVAL)


class LoadServicer:
    """Reports the load of one server until its graceful shutdown begins."""

    def __init__(self, load_recorder: LoadRecorder, shutdown_started: trio.Event) -> None:
        self._load_recorder = load_recorder
        self._shutdown_started = shutdown_started
        self.service = service_from_descriptor(load.DESCRIPTOR.services_by_name["Load"], self)

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802 - the method's name
        interval, recorder = parse_interval(request), self._load_recorder
        with ExitStack() as stack:
            samples = stack.enter_context(recorder.record_durations())
            tracker = stack.enter_context(recorder.watch_methods()) if request.by_method else None
            while not self._shutdown_started.is_set():
                durations = sorted(samples)
                samples.clear()
                yield load.LoadReport(
                    started=recorder.started,
                    ended=recorder.ended,
                    failed=recorder.failed,
                    in_flight=recorder.started - recorder.ended,
                    median=durations[len(durations) // 2] if durations else None,
                    p99=durations[len(durations) * 99 // 100] if durations else None,
                    methods=() if tracker is None else _make_methods(tracker),
                )
                with trio.move_on_after(interval):
                    await self._shutdown_started.wait()
        raise purerpc.UnavailableError("the server is shutting down")


def _make_methods(tracker: MethodTracker[str]) -> list[load.MethodLoad]:
    return [
        load.MethodLoad(
            method=path.removeprefix("/"),
            started=taken.started,
            in_flight=taken.in_flight + taken.earlier,
            ended=taken.ended,
            latency=taken.list_latency(),
        )
        for path, taken in tracker.take()
        if not taken.is_idle
    ]
