"""What a mesh measures, traces and logs of calls, and where it tells it, as its config says."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from meshtrio.config.collector import Collector
from meshtrio.errors import UsageError
from meshtrio.registry.memory import MemoryRegistry
from meshtrio.structured import running
from meshtrio.supervise.tree import Tree
from meshtrio.telemetry.extras import check_extras
from meshtrio.telemetry.metrics import Metrics, Source
from meshtrio.telemetry.metrics.mesh import MeshMetrics

_log = logging.getLogger("meshtrio.mesh")


@asynccontextmanager
async def telling(tree: Tree, registry: MemoryRegistry) -> AsyncIterator[Metrics | None]:
    """Measure, trace and log calls during the block, and tell that; gives what is measured, if
    anything is.

    Raises UsageError where an extra is missing, or the address cannot be bound.
    """
    config = tree.config.telemetry
    check_extras(config)
    async with AsyncExitStack() as stack:
        sources: list[Source] = []
        if config.collector is not None:
            try:
                sources.append(await _trace(stack, tree, config.collector))
            except ValueError as exc:
                # One of OpenTelemetry's variables, by which its SDK goes.
                raise UsageError(f"calls cannot be traced: {exc}") from None
        if config.binary_log:
            sources.append(await _log_calls(stack, tree))
        metrics = None
        if config.metrics is not None:
            metrics = Metrics(experimental=config.experimental, sources=sources)
            await _expose(stack, tree, registry, metrics, config.metrics)
            stack.enter_context(metrics.observing())
        yield metrics


async def _trace(stack: AsyncExitStack, tree: Tree, collector: Collector) -> Source:
    from meshtrio.telemetry.traces.life_spans import LifeSpans
    from meshtrio.telemetry.traces.spans import traced

    config = tree.config.telemetry
    resource = {"service.name": "meshtrio"}
    traces = await stack.enter_async_context(traced(collector, config.sampling, resource))
    tree.subscribe(LifeSpans(traces).take)
    _log.info("spans are sent to %s", config.traces)
    return traces.queue.families


async def _log_calls(stack: AsyncExitStack, tree: Tree) -> Source:
    from meshtrio.telemetry.binary_log import binary_logging

    config = tree.config.telemetry
    folder = config.log_folder(tree.mesh_socket.parent)
    files = await stack.enter_async_context(
        binary_logging(
            config.binary_log or "",
            folder,
            name="mesh",
            size=config.log_bytes,
            files=config.binary_log_files,
        )
    )
    _log.warning("calls are written to %s, with all that is in them", folder)
    return files.families


async def _expose(
    stack: AsyncExitStack, tree: Tree, registry: MemoryRegistry, metrics: Metrics, where: str
) -> None:
    from meshtrio.services.gathering import Gatherer
    from meshtrio.telemetry.metrics.exposition import expose

    of_the_mesh = MeshMetrics(tree, registry)
    tree.subscribe(of_the_mesh.take)
    own, slow = [of_the_mesh.families, metrics.families], [of_the_mesh.machine_families]
    gatherer = Gatherer(tree, registry, own, slow)

    async def measure_lag(*, task_status: trio.TaskStatus[Any]) -> None:
        task_status.started()
        await of_the_mesh.measure_lag()

    await stack.enter_async_context(running(measure_lag))
    try:
        await stack.enter_async_context(running(expose, gatherer.gather, f"tcp:{where}"))
    except UsageError as exc:
        raise UsageError(f"[mesh.telemetry] metrics: {exc}") from None
    _log.info("metrics are at http://%s/metrics", where)
