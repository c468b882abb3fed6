"""What a plugin measures and traces, as its mesh says in its environment."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from meshtrio.contract import METRICS_THROUGH_MESH, PLUGIN_METRICS, PLUGIN_METRICS_EXPERIMENTAL
from meshtrio.errors import UsageError
from meshtrio.structured import running
from meshtrio.telemetry.extras import need
from meshtrio.telemetry.families import Family
from meshtrio.telemetry.metrics import Metrics, Source

_log = logging.getLogger("meshtrio.telemetry")


@asynccontextmanager
async def telling() -> AsyncIterator[Metrics | None]:
    """Measure and trace the calls of the block, and expose and send that where the environment says
    so: PLUGIN_METRICS, and OpenTelemetry's variables where OTEL_TRACES_EXPORTER is "otlp".

    Raises UsageError where metrics cannot be exposed, for want of an extra above all.
    """
    async with AsyncExitStack() as stack:
        sources: list[Source] = []
        if os.environ.get("OTEL_TRACES_EXPORTER") == "otlp":
            try:
                need("tracing", "OTEL_TRACES_EXPORTER=otlp")
                sources.append(await _trace(stack))
            except UsageError as exc:
                # The variables may be there for others: no reason not to serve.
                _log.error("calls are not traced: %s", exc)
        metrics = None
        if PLUGIN_METRICS in os.environ:
            experimental = PLUGIN_METRICS_EXPERIMENTAL in os.environ
            metrics = Metrics(experimental=experimental, sources=sources)
            stack.enter_context(metrics.observing())
            await _expose(stack, metrics, os.environ[PLUGIN_METRICS])
        yield metrics


async def _trace(stack: AsyncExitStack) -> Source:
    from meshtrio.config.collector import Collector
    from meshtrio.telemetry.spans import ratio_from_environment, traced

    try:
        collector = Collector.from_environment()
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    traces = await stack.enter_async_context(traced(collector, ratio_from_environment()))
    return traces.queue.families


async def _expose(stack: AsyncExitStack, metrics: Metrics, where: str) -> None:
    if where == METRICS_THROUGH_MESH:
        return
    need("metrics", f"{PLUGIN_METRICS}={where}")
    from meshtrio.telemetry.exposition import expose

    async def gather(within: float | None) -> list[Family]:
        return metrics.families()

    await stack.enter_async_context(running(expose, gather, f"tcp:{where}"))
