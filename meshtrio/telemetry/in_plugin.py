"""What a plugin measures and tells, as its mesh says in its environment."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshtrio.contract import METRICS_THROUGH_MESH, PLUGIN_METRICS, PLUGIN_METRICS_EXPERIMENTAL
from meshtrio.structured import running
from meshtrio.telemetry.extras import need
from meshtrio.telemetry.metrics import Metrics


@asynccontextmanager
async def measured() -> AsyncIterator[Metrics]:
    """Measure the calls of the block, and expose that if PLUGIN_METRICS says where.

    Raises UsageError where it cannot be exposed.
    """
    metrics = Metrics(experimental=PLUGIN_METRICS_EXPERIMENTAL in os.environ)
    where = os.environ[PLUGIN_METRICS]
    with metrics.observing():
        if where == METRICS_THROUGH_MESH:
            yield metrics
            return
        need("metrics", f"{PLUGIN_METRICS}={where}")
        from meshtrio.telemetry.exposition import expose

        async def gather(within: float | None) -> object:
            return metrics.families()

        async with running(expose, gather, f"tcp:{where}"):
            yield metrics
