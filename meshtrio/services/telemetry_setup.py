"""What a mesh measures, traces and logs of calls, and where it tells it, as its config says."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from meshtrio.config.otlp_endpoint import OtlpEndpoint
from meshtrio.discovery.memory_registry import MemoryRegistry
from meshtrio.errors import UsageError
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.telemetry.metrics import Metrics, MetricSource
from meshtrio.telemetry.metrics.mesh_metrics import MeshMetrics
from meshtrio.telemetry.optional_dependencies import check_extras
from meshtrio.util.concurrency import background_service

_log = logging.getLogger("meshtrio.mesh")


@asynccontextmanager
async def mesh_telemetry(
    supervisor: Supervisor, registry: MemoryRegistry
) -> AsyncIterator[Metrics | None]:
    """Measure, trace and log calls during the block, and tell that; gives what is measured, if
    anything is.

    Raises UsageError where an extra is missing, or the address cannot be bound.
    """
    config = supervisor.config.telemetry
    check_extras(config)
    async with AsyncExitStack() as stack:
        sources: list[MetricSource] = []
        if config.otlp_endpoint is not None:
            try:
                sources.append(await _start_tracing(stack, supervisor, config.otlp_endpoint))
            except ValueError as exc:
                # One of OpenTelemetry's variables, by which its SDK goes.
                raise UsageError(f"calls cannot be traced: {exc}") from None
        if config.binary_log:
            sources.append(await _start_binary_log(stack, supervisor))
        metrics = None
        if config.metrics is not None:
            metrics = Metrics(experimental=config.experimental, sources=sources)
            await _start_metrics(stack, supervisor, registry, metrics, config.metrics)
            stack.enter_context(metrics.install())
        yield metrics


async def _start_tracing(
    stack: AsyncExitStack, supervisor: Supervisor, collector: OtlpEndpoint
) -> MetricSource:
    from meshtrio.telemetry.traces.pipeline import export_traces
    from meshtrio.telemetry.traces.process_spans import ProcessSpans

    config = supervisor.config.telemetry
    resource = {"service.name": "meshtrio"}
    traces = await stack.enter_async_context(export_traces(collector, config.sampling, resource))
    supervisor.subscribe(ProcessSpans(traces).on_event)
    _log.info("spans are sent to %s", config.traces)
    return traces.processor.collect


async def _start_binary_log(stack: AsyncExitStack, supervisor: Supervisor) -> MetricSource:
    from meshtrio.telemetry.binary_log import open_binary_log

    config = supervisor.config.telemetry
    folder = config.binary_log_directory(supervisor.mesh_socket.parent)
    files = await stack.enter_async_context(
        open_binary_log(
            config.binary_log or "",
            folder,
            name="mesh",
            max_file_size=config.max_binary_log_bytes,
            max_files=config.binary_log_files,
        )
    )
    _log.warning("calls are written to %s, with all that is in them", folder)
    return files.collect


async def _start_metrics(
    stack: AsyncExitStack,
    supervisor: Supervisor,
    registry: MemoryRegistry,
    metrics: Metrics,
    address: str,
) -> None:
    from meshtrio.services.metrics_collector import MetricsCollector
    from meshtrio.telemetry.metrics.exposition_server import serve_metrics

    of_the_mesh = MeshMetrics(supervisor, registry)
    supervisor.subscribe(of_the_mesh.on_event)
    gatherer = MetricsCollector(
        supervisor, registry, [of_the_mesh.collect, metrics.collect], of_the_mesh.sample
    )

    async def measure_lag(*, task_status: trio.TaskStatus[Any]) -> None:
        task_status.started()
        await of_the_mesh.measure_lag()

    await stack.enter_async_context(background_service(measure_lag))
    try:
        await stack.enter_async_context(
            background_service(serve_metrics, gatherer.collect, f"tcp:{address}")
        )
    except UsageError as exc:
        raise UsageError(f"[mesh.telemetry] metrics: {exc}") from None
    _log.info("metrics are at http://%s/metrics", address)
