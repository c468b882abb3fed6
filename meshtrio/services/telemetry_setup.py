"""Telemetry of a mesh, as configured in `[mesh.telemetry]`."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from meshtrio.discovery.dns.discovery import DnsDiscovery
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.telemetry.metrics import Metrics
from meshtrio.telemetry.metrics.mesh_metrics import MeshMetrics
from meshtrio.telemetry.optional_dependencies import check_extras
from meshtrio.telemetry.setup import Telemetry
from meshtrio.util.concurrency import background_service
from meshtrio.util.errors import UsageError

if TYPE_CHECKING:
    from meshtrio.cluster.node import Node

_log = logging.getLogger("meshtrio.mesh")


@asynccontextmanager
async def mesh_telemetry(
    supervisor: Supervisor,
    registry: Registry,
    dns: DnsDiscovery,
    node: Node | None = None,
    *,
    listener: socket.socket | None = None,
) -> AsyncIterator[Metrics | None]:
    """Measure, trace and log the calls of the block, and the mesh itself, as its config says.

    `node` is None if the mesh is not one of several. Metrics are served on the listening socket if
    one is given, which is closed.

    Yields:
        The metrics of the process, None if they are off.

    Raises:
        ConfigError: An extra that the config needs is not installed.
        UsageError: The metrics' address cannot be bound, or a variable of OpenTelemetry is wrong.
    """
    check_extras(supervisor.config)
    config = supervisor.config.telemetry
    async with AsyncExitStack() as stack:
        telemetry = Telemetry(stack)
        if (otlp_endpoint := config.otlp_endpoint) is not None:
            resource = {"service.name": "meshtrio"}
            try:
                # The import raises ValueError if OTEL_PROPAGATORS is wrong.
                from meshtrio.telemetry.traces.process_spans import ProcessSpans

                pipeline = await telemetry.start_tracing(otlp_endpoint, config.sampling, resource)
            except ValueError as exc:
                raise UsageError(f"calls cannot be traced: {exc}") from None
            supervisor.subscribe(ProcessSpans(pipeline).on_event)
            _log.info("exporting spans to %s", config.traces)
        if config.binary_log:
            folder = config.binary_log_directory(supervisor.mesh_socket.parent)
            await telemetry.start_binary_log(
                config.binary_log,
                folder,
                name="mesh",
                max_file_size=config.max_binary_log_bytes,
                max_files=config.binary_log_files,
            )
            text = "binary logging is on: requests and replies are written to %s, "
            _log.warning(text + "with their contents", folder)
        metrics = None
        if config.metrics is not None:
            metrics = telemetry.start_metrics(experimental=config.experimental)
            mesh_metrics = MeshMetrics(supervisor, registry, dns)
            supervisor.subscribe(mesh_metrics.on_event)
            await stack.enter_async_context(background_service(mesh_metrics.measure_lag))
            from meshtrio.services.metrics_collector import MetricsCollector

            sources, sample = [mesh_metrics.collect, metrics.collect], mesh_metrics.sample
            if node is not None:
                from meshtrio.telemetry.metrics.discovery_metrics import DiscoveryMetrics

                sources.append(DiscoveryMetrics(node).collect)
            collector = MetricsCollector(supervisor, registry, sources, sample)
            try:
                await telemetry.serve_metrics(config.metrics, collector.collect, listener)
            except UsageError as exc:
                raise UsageError(f"[mesh.telemetry] metrics: {exc}") from None
            _log.info("serving metrics at http://%s/metrics", config.metrics)
        yield metrics
