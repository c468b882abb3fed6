"""Telemetry of one process: parts that are started one by one, and end in reverse order.

Which parts a process has is decided by `plugin_setup.plugin_telemetry` from the environment, and by
`services.telemetry_setup.mesh_telemetry` from the mesh's config. Parts that few processes have are
imported when they are started.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtrio.telemetry.metrics import Metrics, MetricSource
from meshtrio.util.concurrency import background_service

if TYPE_CHECKING:
    from meshtrio.config.otlp_endpoint import OtlpEndpoint
    from meshtrio.telemetry.metrics.exposition_server import CollectFamilies
    from meshtrio.telemetry.traces.pipeline import TracePipeline


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

    async def serve_metrics(self, address: str, collect: CollectFamilies) -> None:
        """Serve metrics for Prometheus on `host:port`. Raises UsageError if it cannot be bound."""
        from meshtrio.telemetry.metrics.exposition_server import serve_metrics

        service = background_service(serve_metrics, collect, f"tcp:{address}")
        await self._stack.enter_async_context(service)
