"""What a mesh measures and where it tells it, as its config says."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from meshtrio.registry.memory import MemoryRegistry
from meshtrio.structured import running
from meshtrio.supervise.tree import Tree
from meshtrio.telemetry.extras import need
from meshtrio.telemetry.mesh_metrics import MeshMetrics
from meshtrio.telemetry.metrics import Metrics

_log = logging.getLogger("meshtrio.mesh")


@asynccontextmanager
async def telling(tree: Tree, registry: MemoryRegistry) -> AsyncIterator[Metrics | None]:
    """Measure during the block, and serve that; None where the config does not ask for it.

    Raises UsageError where the extra is missing, or the address cannot be bound.
    """
    config = tree.config.telemetry
    if config.metrics is None:
        yield None
        return
    need("metrics", "[mesh.telemetry] metrics")
    from meshtrio.services.gathering import Gatherer
    from meshtrio.telemetry.exposition import expose

    of_the_mesh = MeshMetrics(tree, registry)
    tree.subscribe(of_the_mesh.take)
    metrics = Metrics(experimental=config.experimental)
    gatherer = Gatherer(tree, registry, [of_the_mesh.families, metrics.families])

    async def measure_lag(*, task_status: trio.TaskStatus[Any]) -> None:
        task_status.started()
        await of_the_mesh.measure_lag()

    async with (
        running(measure_lag),
        running(expose, gatherer.gather, f"tcp:{config.metrics}"),
    ):
        _log.info("metrics are at http://%s/metrics", config.metrics)
        with metrics.observing():
            yield metrics
