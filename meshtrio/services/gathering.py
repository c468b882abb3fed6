"""All metrics of a mesh for one scrape: its own, and those that its plugins are asked for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import purerpc
import trio

from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.client.endpoint import Endpoint
from meshtrio.config.telemetry import THROUGH_THE_MESH
from meshtrio.messages import metrics
from meshtrio.registry import Registry
from meshtrio.services.attending import channel_to_instance, ready
from meshtrio.services.metrics import families_of
from meshtrio.supervise.tree import Tree
from meshtrio.telemetry.families import Family, Kind, Point, instance_labels, labelled, merged

_log = logging.getLogger("meshtrio.mesh")

_SERVICE = metrics.DESCRIPTOR.services_by_name["Metrics"]
_PATIENCE = 2.0
"""Seconds that plugins have to answer: a scrape has ten by default."""
_PART_OF_TIMEOUT = 0.5
"""Of what a scrape has, where that is less: one plugin that is stuck must not cost all of it."""


class Gatherer:
    """Asks those instances that are ready, at the same time; one that does not answer costs its own
    figures, and is counted."""

    def __init__(
        self,
        tree: Tree,
        registry: Registry,
        own: Sequence[Callable[[], Sequence[Family]]],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        """`own`: what the mesh's process itself has to tell, once `look` has looked at it."""
        self._tree = tree
        self._registry = registry
        self._own = own
        self._look = look
        self._failures: Counter[str] = Counter()
        self._clashing: set[str] = set()

    async def gather(self, within: float | None = None) -> list[Family]:
        """All there is; `within`: seconds that whoever asks waits for it."""
        patience = _PATIENCE if within is None else min(_PATIENCE, within * _PART_OF_TIMEOUT)
        answers: dict[tuple[str, int], Any] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            for key, endpoint in self._asked().items():
                nursery.start_soon(self._ask, key, endpoint, patience, answers)
        theirs = [
            labelled(families_of(answer.families), instance_labels(*key))
            for key, answer in sorted(answers.items())
        ]
        own = [source() for source in self._own]
        clashing: set[str] = set()
        found = merged(
            [*own, self._about(answers), *theirs], lambda family: clashing.add(family.name)
        )
        self._complain(clashing)
        return found

    def _complain(self, clashing: set[str]) -> None:
        """Once, as long as it goes on."""
        for name in sorted(clashing - self._clashing):
            text = "some metrics %r are left out: they are of another kind than others of that name"
            _log.warning(text, name)
        self._clashing = clashing

    def _asked(self) -> dict[tuple[str, int], Endpoint]:
        """One process for each instance: of those that change places now, the one that came last,
        since its counters go on from here."""
        exposed = {
            plugin.service: plugin.name
            for plugin in self._tree.config.plugins
            if plugin.metrics == THROUGH_THE_MESH
        }
        there = ready(self._registry, exposed.__contains__)
        return {(exposed[service], number): found for (service, number), found in there.items()}

    async def _ask(
        self,
        key: tuple[str, int],
        endpoint: Endpoint,
        patience: float,
        answers: dict[tuple[str, int], Any],
    ) -> None:
        try:
            with trio.fail_after(patience):
                async with channel_to_instance(endpoint) as channel:
                    stub = DynamicStub(channel, _SERVICE)
                    request = metrics.CollectMetricsRequest()
                    answers[key] = await stub.Collect(request)
        except purerpc.UnimplementedError:
            pass  # It is not made with meshtrio.
        except (purerpc.RpcFailedError, trio.TooSlowError):
            self._failures[key[0]] += 1

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
