"""meshtrio with its telemetry turned on, as a mesh turns it on in its plugins."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.on_trio import Meshtrio

COLLECTOR = "collector.sock"
SAMPLING = "0.01"


class MeshtrioWithTelemetry(Meshtrio):
    """With `metrics`, and with `tracing` of one call of a hundred, on both sides."""

    def __init__(self, name: str, *, metrics: bool = False, tracing: bool = False) -> None:
        self.name = name
        self._metrics = metrics
        self._tracing = tracing

    def _set_environment(self, address: str) -> None:
        if self._metrics:
            os.environ["PLUGIN_METRICS"] = "mesh"
        if self._tracing:
            collector = Path(address).parent / COLLECTOR
            os.environ |= {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": SAMPLING,
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"unix:{collector}",
            }

    def serve(self, address: str) -> None:
        self._set_environment(address)
        super().serve(address)

    @asynccontextmanager
    async def stub(self, address: str) -> AsyncIterator[Any]:
        self._set_environment(address)
        async with AsyncExitStack() as stack:
            if self._metrics or self._tracing:
                from meshtrio.telemetry.setup import plugin_telemetry

                await stack.enter_async_context(plugin_telemetry())
            yield await stack.enter_async_context(super().stub(address))


TELEMETRY_PEERS = {
    peer.name: peer
    for peer in (
        MeshtrioWithTelemetry("off"),
        MeshtrioWithTelemetry("metrics", metrics=True),
        MeshtrioWithTelemetry("tracing", tracing=True),
        MeshtrioWithTelemetry("both", metrics=True, tracing=True),
    )
}
