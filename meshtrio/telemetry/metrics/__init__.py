"""Metrics of one process: its calls, and those of other sources.

    metrics = Metrics()
    with metrics.install():
        async with mesh.connect("plugin.echo") as channel: ...
    metrics.collect()

An app that already exposes metrics with prometheus_client registers
`PrometheusCollector(metrics.collect)`.

Theory of operation
-------------------

Tracers count calls: `call_metrics` by gRFC A66, with those that the mesh proxies, and
`experimental` by A96 and A91. A call's figures are appended to the flat list of a `call_recorder`,
which is sorted into histograms when it is long or collected. `mesh_metrics` counts lifecycle
events, and `resource_metrics` reads /proc.

Each is a *source*: a function that returns families (`metric_families`). `Metrics.collect` joins
the sources of a process. The mesh collects those of its plugins by RPC
(`services.metrics_collector`); `family_merger` admits what Prometheus can read, point by point;
`prometheus` converts to prometheus_client's metrics; `exposition_server` has that library write the
text, and answers GET /metrics, once for all concurrent scrapes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from meshtrio.rpc.composite_tracer import CompositeClientTracer, compose_tracers, use_tracers
from meshtrio.telemetry.metric_families import MetricFamily
from meshtrio.telemetry.metrics.call_metrics import ClientMetrics, ServerMetrics
from meshtrio.telemetry.metrics.experimental import ExperimentalMetrics

MetricSource = Callable[[], Sequence[MetricFamily]]
"""Returns the families of one source, as of now."""


class Metrics:
    """Metrics of the servers and channels of a process, by gRFC A66, and of other sources."""

    def __init__(self, *, experimental: bool = False, sources: Sequence[MetricSource] = ()) -> None:
        """Create metrics, without measuring anything yet.

        Args:
            experimental: Include metrics that gRPC has off by default, of retries (gRFC A96) and
                of ejected endpoints (A91).
            sources: Further sources to collect from.
        """
        self._client, self._server = ClientMetrics(), ServerMetrics()
        self._experimental = ExperimentalMetrics() if experimental else None
        self._sources = [self._server.collect, self._client.collect, *sources]
        if self._experimental is not None:
            self._sources.append(self._experimental.collect)

    def add_source(self, source: MetricSource) -> None:
        """Collect from another source too."""
        self._sources.append(source)

    def install(self) -> AbstractContextManager[None]:
        """Measure the calls of all channels and servers that are created in the block."""
        client = compose_tracers(CompositeClientTracer, self._client, self._experimental)
        return use_tracers(client=client, server=self._server)

    def collect(self) -> list[MetricFamily]:
        """Return all families, those of prometheus_client's registry included if it is used."""
        found = [family for source in self._sources for family in source()]
        if "prometheus_client" in sys.modules:
            from meshtrio.telemetry.metrics.prometheus import collect_default_registry

            found += collect_default_registry()
        return found
