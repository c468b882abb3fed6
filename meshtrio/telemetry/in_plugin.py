"""What a plugin measures, traces and logs of calls, as its mesh says in its environment."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from meshtrio import runtime_dir
from meshtrio.contract import (
    BINARY_LOGS,
    GRPC_BINARY_LOG_FILTER,
    METRICS_THROUGH_MESH,
    PLUGIN_BINARY_LOG_FILES,
    PLUGIN_BINARY_LOG_FOLDER,
    PLUGIN_BINARY_LOG_SIZE,
    PLUGIN_INSTANCE,
    PLUGIN_METRICS,
    PLUGIN_METRICS_EXPERIMENTAL,
    PLUGIN_NAME,
)
from meshtrio.errors import UsageError
from meshtrio.structured import running
from meshtrio.telemetry.extras import need
from meshtrio.telemetry.families import Family
from meshtrio.telemetry.metrics import Metrics, Source
from meshtrio.threads import Pace, compute

_log = logging.getLogger("meshtrio.telemetry")


@asynccontextmanager
async def telling() -> AsyncIterator[Metrics | None]:
    """Measure, trace and log the calls of the block, and expose, send and write that where the
    environment says so: PLUGIN_METRICS, OpenTelemetry's variables where "otlp" is among
    OTEL_TRACES_EXPORTER, and GRPC_BINARY_LOG_FILTER.

    Raises UsageError where metrics cannot be exposed, for want of an extra above all, and for a
    filter that is none, with which gRFC A16 has no process start.
    """
    async with AsyncExitStack() as stack:
        sources: list[Source] = []
        if "otlp" in os.environ.get("OTEL_TRACES_EXPORTER", "").split(","):
            try:
                need("tracing", "OTEL_TRACES_EXPORTER=otlp")
                sources += await _trace(stack)
            except (UsageError, ValueError) as exc:
                # The variables may be there for others: no reason not to serve.
                _log.error("calls are not traced: %s", exc)
        if os.environ.get(GRPC_BINARY_LOG_FILTER):
            sources.append(await _log_calls(stack, os.environ[GRPC_BINARY_LOG_FILTER]))
        metrics = None
        if PLUGIN_METRICS in os.environ:
            experimental = PLUGIN_METRICS_EXPERIMENTAL in os.environ
            metrics = Metrics(experimental=experimental, sources=sources)
            stack.enter_context(metrics.observing())
            await _expose(stack, metrics, os.environ[PLUGIN_METRICS])
        yield metrics


async def _trace(stack: AsyncExitStack) -> list[Source]:
    """Raises ValueError for what the variables cannot mean, and so does OpenTelemetry."""
    from meshtrio.config.collector import Collector
    from meshtrio.telemetry.traces.spans import ratio_from_environment, traced

    ratio = ratio_from_environment()
    if ratio is None:
        return []
    traces = await stack.enter_async_context(traced(Collector.from_environment(), ratio))
    return [traces.queue.families]


async def _log_calls(stack: AsyncExitStack, wanted: str) -> Source:
    from meshtrio.telemetry.binary_log import binary_logging
    from meshtrio.telemetry.binary_log.files import FILES, SIZE

    said = os.environ.get
    folder = said(PLUGIN_BINARY_LOG_FOLDER) or runtime_dir.find_mesh_socket().parent / BINARY_LOGS
    name = f"{said(PLUGIN_NAME, 'plugin')}-{said(PLUGIN_INSTANCE, '0')}"
    size = int(said(PLUGIN_BINARY_LOG_SIZE, SIZE))
    kept = int(said(PLUGIN_BINARY_LOG_FILES, FILES))
    files = await stack.enter_async_context(
        binary_logging(wanted, Path(folder), name=name, size=size, files=kept)
    )
    return files.families


async def _expose(stack: AsyncExitStack, metrics: Metrics, where: str) -> None:
    if where == METRICS_THROUGH_MESH:
        return
    need("metrics", f"{PLUGIN_METRICS}={where}")
    from meshtrio.telemetry.metrics.admission import Admission
    from meshtrio.telemetry.metrics.exposition import expose

    def readable(families: list[Family], pace: Pace) -> list[Family]:
        admission = Admission(pace)
        admission.take(families, own=True)
        return admission.families()

    async def gather(within: float | None) -> list[Family]:
        return await compute(partial(readable, metrics.families()))

    await stack.enter_async_context(running(expose, gather, f"tcp:{where}"))
