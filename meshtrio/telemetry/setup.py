"""Telemetry of one process: parts that are started one by one, and end in reverse order.

Which parts a process has is decided by `plugin_telemetry` from the environment, as configured by a
plugin's mesh or its operator, and by `services.telemetry_setup.mesh_telemetry` from the mesh's
config. Parts that few processes have are imported when they are started.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtrio import contract
from meshtrio.runtime_dir.trust import find_mesh_socket
from meshtrio.telemetry.metric_families import MetricFamily
from meshtrio.telemetry.metrics import Metrics, MetricSource
from meshtrio.telemetry.optional_dependencies import require_extra
from meshtrio.util.concurrency import background_service
from meshtrio.util.errors import UsageError
from meshtrio.util.worker_threads import GilYielder, run_computation

if TYPE_CHECKING:
    from meshtrio.config.otlp_endpoint import OtlpEndpoint
    from meshtrio.telemetry.metrics.exposition_server import CollectFamilies
    from meshtrio.telemetry.traces.pipeline import TracePipeline

_log = logging.getLogger("meshtrio.telemetry")


class Telemetry:
    """The running telemetry of a process.

    Metrics are started last: they include the counters of the parts started before.
    """

    def __init__(self, stack: AsyncExitStack) -> None:
        """Initialize without any part; parts end with `stack`.

        Their nurseries nest in the order in which they are started, so what else the caller starts
        for telemetry has to be entered in the same stack.
        """
        self._stack = stack
        self._sources: list[MetricSource] = []

    async def start_tracing(
        self, endpoint: OtlpEndpoint, ratio: float, resource: Mapping[str, str] | None = None
    ) -> TracePipeline:
        """Trace calls and export the spans; see `traces.pipeline.export_traces`."""
        from meshtrio.telemetry.traces.pipeline import export_traces

        pipeline = await self._stack.enter_async_context(export_traces(endpoint, ratio, resource))
        self._sources.append(pipeline.processor.collect)
        return pipeline

    async def start_binary_log(self, filter_text: str, directory: Path, **options: Any) -> None:
        """Write the calls that a filter selects to files; see `binary_log.open_binary_log`."""
        from meshtrio.telemetry.binary_log import open_binary_log

        log = open_binary_log(filter_text, directory, **options)
        writer = await self._stack.enter_async_context(log)
        self._sources.append(writer.collect)

    def start_metrics(self, *, experimental: bool) -> Metrics:
        """Measure calls; `experimental`: also what gRPC has off by default."""
        metrics = Metrics(experimental=experimental, sources=self._sources)
        self._stack.enter_context(metrics.install())
        return metrics

    async def serve_metrics(
        self, address: str, collect: CollectFamilies, listener: socket.socket | None = None
    ) -> None:
        """Serve metrics for Prometheus on `host:port`, or on a listening socket.

        Raises UsageError if the address cannot be bound.
        """
        from meshtrio.telemetry.metrics.exposition_server import serve_metrics

        service = background_service(serve_metrics, collect, f"tcp:{address}", listener)
        await self._stack.enter_async_context(service)


# -- plugins ---------------------------------------------------------------------------------


@asynccontextmanager
async def plugin_telemetry() -> AsyncIterator[Metrics | None]:
    """Measure, trace and log the calls of the block as the environment configures it.

    PLUGIN_METRICS enables metrics; OTEL_TRACES_EXPORTER, if "otlp" is among its values, traces;
    GRPC_BINARY_LOG_FILTER the binary log. A mistake in OpenTelemetry's variables is logged and
    leaves calls untraced: the variables may be meant for another program.

    Yields:
        The metrics of the process, None if they are off.

    Raises:
        UsageError: Metrics cannot be served, for lack of the extra `metrics` or of the address, or
            the filter is malformed, in which case gRFC A16 requires that the process not start.
    """
    async with AsyncExitStack() as stack:
        telemetry = Telemetry(stack)
        if "otlp" in os.environ.get("OTEL_TRACES_EXPORTER", "").split(","):
            try:
                await _start_tracing(telemetry)
            except (UsageError, ValueError) as exc:
                _log.error("calls are not traced: %s", exc)
        if os.environ.get(contract.GRPC_BINARY_LOG_FILTER):
            await _start_binary_log(telemetry, os.environ[contract.GRPC_BINARY_LOG_FILTER])
        metrics = None
        if contract.PLUGIN_METRICS in os.environ:
            experimental = contract.PLUGIN_METRICS_EXPERIMENTAL in os.environ
            metrics = telemetry.start_metrics(experimental=experimental)
            await _serve_metrics(telemetry, metrics, os.environ[contract.PLUGIN_METRICS])
        yield metrics


async def _start_tracing(telemetry: Telemetry) -> None:
    """Raise UsageError or ValueError if tracing is not installed or wrongly configured."""
    require_extra("tracing", "OTEL_TRACES_EXPORTER=otlp")
    from meshtrio.config.otlp_endpoint import OtlpEndpoint
    from meshtrio.telemetry.traces.pipeline import sampling_ratio_from_environment

    ratio = sampling_ratio_from_environment()
    if ratio is not None:
        await telemetry.start_tracing(OtlpEndpoint.from_environment(), ratio)


async def _start_binary_log(telemetry: Telemetry, filter_text: str) -> None:
    from meshtrio.telemetry.binary_log import rotating_writer as files

    get = os.environ.get
    folder = get(contract.PLUGIN_BINARY_LOG_FOLDER) or (
        find_mesh_socket().parent / contract.BINARY_LOG_DIRECTORY
    )
    await telemetry.start_binary_log(
        filter_text,
        Path(folder),
        name=f"{get(contract.PLUGIN_NAME, 'plugin')}-{get(contract.PLUGIN_INSTANCE, '0')}",
        max_file_size=int(get(contract.PLUGIN_BINARY_LOG_SIZE, 0)) or files.DEFAULT_MAX_FILE_SIZE,
        max_files=int(get(contract.PLUGIN_BINARY_LOG_FILES, 0)) or files.DEFAULT_MAX_FILES,
    )


async def _serve_metrics(telemetry: Telemetry, metrics: Metrics, address: str) -> None:
    """Serve metrics on an address, unless the mesh collects them."""
    if address == contract.METRICS_FROM_MESH:
        return
    require_extra("metrics", f"{contract.PLUGIN_METRICS}={address}")
    from meshtrio.telemetry.metrics.family_merger import FamilyMerger

    async def collect(timeout_seconds: float | None) -> list[MetricFamily]:
        families = metrics.collect()

        def merge(yield_gil: GilYielder) -> list[MetricFamily]:
            merger = FamilyMerger(yield_gil)
            merger.merge(families, is_mesh=True)
            return merger.families()

        return await run_computation(merge)

    await telemetry.serve_metrics(address, collect)
