"""What one process measures: its calls, and what else it gives to be told.

    metrics = Metrics()
    with metrics.observing():
        async with mesh.connect("plugin.echo") as channel: ...
    metrics.families()

An app that exposes metrics by prometheus_client already registers
`PrometheusCollector(metrics.families)`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from meshtrio.rpc.composite_tracer import compose_client_tracers, use_tracers
from meshtrio.telemetry.metric_families import MetricFamily
from meshtrio.telemetry.metrics.call_metrics import ClientMetrics, ServerMetrics
from meshtrio.telemetry.metrics.experimental import ExperimentalMetrics

MetricSource = Callable[[], Sequence[MetricFamily]]


class Metrics:
    """The metrics of a process: of its servers and channels, by gRFC A66, and of other sources."""

    def __init__(self, *, experimental: bool = False, sources: Sequence[MetricSource] = ()) -> None:
        """`experimental`: those that gRPC has off by default, of retries (gRFC A96)
        and of ejected endpoints (A91)."""
        self._client, self._server = ClientMetrics(), ServerMetrics()
        self._experimental = ExperimentalMetrics() if experimental else None
        self._sources = [*sources]
        if self._experimental is not None:
            self._sources.append(self._experimental.collect)

    def add_source(self, source: MetricSource) -> None:
        """Tell what another source measures, too."""
        self._sources.append(source)

    @contextmanager
    def install(self) -> Iterator[None]:
        """Measure the calls of all channels and servers that are made in the block."""
        with use_tracers(
            client=compose_client_tracers(self._client, self._experimental), server=self._server
        ):
            yield

    def collect(self) -> list[MetricFamily]:
        """All there is now, with what the program measures by prometheus_client, if it does."""
        found = [*self._server.collect(), *self._client.collect()]
        for source in self._sources:
            found += source()
        if "prometheus_client" in sys.modules:
            from meshtrio.telemetry.metrics.prometheus import collect_default_registry

            found += collect_default_registry()
        return found
