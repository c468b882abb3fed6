"""All metrics of a mesh for one scrape: its own, and those that its plugins are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import purerpc
import trio

from meshtrio.client.channel import open_channel
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.client.endpoint import Endpoint, ServiceState
from meshtrio.config.telemetry import THROUGH_THE_MESH
from meshtrio.messages import metrics
from meshtrio.registry import Registry
from meshtrio.services.metrics import families_of
from meshtrio.supervise.tree import Tree
from meshtrio.telemetry.families import Family, Kind, Point, instance_labels, labelled, merged

_SERVICE = metrics.DESCRIPTOR.services_by_name["Metrics"]
_PATIENCE = 2.0
"""Seconds that plugins have to answer: a scrape has ten by default."""


class Gatherer:
    """Asks those instances that are ready, at the same time; one that does not answer costs its own
    figures, and is counted."""

    def __init__(
        self, tree: Tree, registry: Registry, own: Sequence[Callable[[], Sequence[Family]]]
    ) -> None:
        """`own`: what the mesh's process itself has to tell."""
        self._tree = tree
        self._registry = registry
        self._own = own
        self._failures: Counter[str] = Counter()

    async def gather(self) -> list[Family]:
        answers: dict[tuple[str, int], Any] = {}
        async with trio.open_nursery() as nursery:
            for plugin in self._tree.config.plugins:
                if plugin.metrics == THROUGH_THE_MESH:
                    for endpoint in self._registry.resolve(plugin.service).endpoints:
                        if endpoint.pid:
                            nursery.start_soon(self._ask, plugin.name, endpoint, answers)
        theirs = [
            labelled(families_of(answer.families), instance_labels(*key))
            for key, answer in sorted(answers.items())
        ]
        own = [source() for source in self._own]
        return merged(iter([*own, self._about(answers), *theirs]))

    async def _ask(
        self, plugin: str, endpoint: Endpoint, answers: dict[tuple[str, int], Any]
    ) -> None:
        async def feed(update: Callable[[ServiceState], None]) -> None:
            update(ServiceState((endpoint,)))

        try:
            with trio.fail_after(_PATIENCE):
                async with open_channel(
                    endpoint.id, feed, obituary_wait=0, observed=False
                ) as channel:
                    stub = DynamicStub(channel, _SERVICE)
                    request = metrics.CollectMetricsRequest()
                    answers[plugin, endpoint.instance] = await stub.Collect(request)
        except purerpc.UnimplementedError:
            pass  # It is not made with meshtrio.
        except (purerpc.RpcFailedError, trio.TooSlowError):
            self._failures[plugin] += 1

    def _about(self, answers: dict[tuple[str, int], Any]) -> list[Family]:
        """What the answers tell of the instances themselves."""
        in_flight = [
            Point(instance_labels(*key), answer.in_flight)
            for key, answer in sorted(answers.items())
        ]
        plugins = [plugin.name for plugin in self._tree.config.plugins]
        failures = [Point((("plugin", name),), self._failures[name]) for name in plugins]
        return [
            Family("mesh.instance.in_flight", Kind.GAUGE, "{call}", "Calls under way.", in_flight),
            Family(
                "mesh.collection.failures",
                Kind.COUNTER,
                "{instance}",
                "Instances that did not tell their metrics when they were asked.",
                failures,
            ),
        ]
