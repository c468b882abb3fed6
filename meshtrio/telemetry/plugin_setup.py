"""What a plugin measures, traces and logs of calls, as its mesh says in its environment."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from meshtrio.contract import (
    BINARY_LOG_DIRECTORY,
    GRPC_BINARY_LOG_FILTER,
    METRICS_FROM_MESH,
    PLUGIN_BINARY_LOG_FILES,
    PLUGIN_BINARY_LOG_FOLDER,
    PLUGIN_BINARY_LOG_SIZE,
    PLUGIN_INSTANCE,
    PLUGIN_METRICS,
    PLUGIN_METRICS_EXPERIMENTAL,
    PLUGIN_NAME,
)
from meshtrio.errors import UsageError
from meshtrio.runtime_dir.trust import find_mesh_socket
from meshtrio.telemetry.metric_families import MetricFamily
from meshtrio.telemetry.metrics import Metrics, MetricSource
from meshtrio.telemetry.optional_dependencies import require_extra
from meshtrio.util.concurrency import background_service
from meshtrio.util.worker_threads import GilYielder, run_computation

_log = logging.getLogger("meshtrio.telemetry")


@asynccontextmanager
async def plugin_telemetry() -> AsyncIterator[Metrics | None]:
    """Measure, trace and log the calls of the block, and expose, send and write that where the
    environment says so: PLUGIN_METRICS, OpenTelemetry's variables where "otlp" is among
    OTEL_TRACES_EXPORTER, and GRPC_BINARY_LOG_FILTER.

    Raises UsageError where metrics cannot be exposed, for want of an extra above all, and for a
    filter that is none, with which gRFC A16 has no process start.
    """
    async with AsyncExitStack() as stack:
        sources: list[MetricSource] = []
        if "otlp" in os.environ.get("OTEL_TRACES_EXPORTER", "").split(","):
            try:
                require_extra("tracing", "OTEL_TRACES_EXPORTER=otlp")
                sources += await _start_tracing(stack)
            except (UsageError, ValueError) as exc:
                # The variables may be there for others: no reason not to serve.
                _log.error("calls are not traced: %s", exc)
        if os.environ.get(GRPC_BINARY_LOG_FILTER):
            sources.append(await _start_binary_log(stack, os.environ[GRPC_BINARY_LOG_FILTER]))
        metrics = None
        if PLUGIN_METRICS in os.environ:
            experimental = PLUGIN_METRICS_EXPERIMENTAL in os.environ
            metrics = Metrics(experimental=experimental, sources=sources)
            stack.enter_context(metrics.install())
            await _start_metrics(stack, metrics, os.environ[PLUGIN_METRICS])
        yield metrics


async def _start_tracing(stack: AsyncExitStack) -> list[MetricSource]:
    """Raises ValueError for what the variables cannot mean, and so does OpenTelemetry."""
    from meshtrio.config.otlp_endpoint import OtlpEndpoint
    from meshtrio.telemetry.traces.pipeline import (
        export_traces,
        sampling_ratio_from_environment,
    )

    ratio = sampling_ratio_from_environment()
    if ratio is None:
        return []
    traces = await stack.enter_async_context(export_traces(OtlpEndpoint.from_environment(), ratio))
    return [traces.processor.collect]


async def _start_binary_log(stack: AsyncExitStack, filter_text: str) -> MetricSource:
    from meshtrio.telemetry.binary_log import open_binary_log
    from meshtrio.telemetry.binary_log.rotating_writer import (
        DEFAULT_MAX_FILE_SIZE,
        DEFAULT_MAX_FILES,
    )

    said = os.environ.get
    folder = said(PLUGIN_BINARY_LOG_FOLDER) or find_mesh_socket().parent / BINARY_LOG_DIRECTORY
    name = f"{said(PLUGIN_NAME, 'plugin')}-{said(PLUGIN_INSTANCE, '0')}"
    size = int(said(PLUGIN_BINARY_LOG_SIZE, DEFAULT_MAX_FILE_SIZE))
    kept = int(said(PLUGIN_BINARY_LOG_FILES, DEFAULT_MAX_FILES))
    files = await stack.enter_async_context(
        open_binary_log(filter_text, Path(folder), name=name, max_file_size=size, max_files=kept)
    )
    return files.collect


async def _start_metrics(stack: AsyncExitStack, metrics: Metrics, address: str) -> None:
    if address == METRICS_FROM_MESH:
        return
    require_extra("metrics", f"{PLUGIN_METRICS}={address}")
    from meshtrio.telemetry.metrics.exposition_server import serve_metrics
    from meshtrio.telemetry.metrics.family_merger import FamilyMerger

    def readable(families: list[MetricFamily], pace: GilYielder) -> list[MetricFamily]:
        admission = FamilyMerger(pace)
        admission.merge(families, is_mesh=True)
        return admission.families()

    async def gather(within: float | None) -> list[MetricFamily]:
        return await run_computation(partial(readable, metrics.collect()))

    await stack.enter_async_context(background_service(serve_metrics, gather, f"tcp:{address}"))
